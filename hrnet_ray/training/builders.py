"""Builders: from an experiment's settings to the values that lower layers take.

`ExperimentConfig` stops here: lower layers import only `AugmentationConfig` and the strides from the config.
"""

from pathlib import Path

import torch

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.batch import AugmentationPipelineConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.models import HRNet
from hrnet_ray.models.hrnet import init_kaiming
from hrnet_ray.models.pretrained import LoadReport, load_pretrained
from hrnet_ray.pose.targets import HeatmapTargetConfig
from hrnet_ray.training.optim import scale_lr
from hrnet_ray.training.precision import should_use_bf16


def build_model(experiment: ExperimentConfig, manifest: DatasetManifest, *, driver_cwd: str | Path = ".") -> HRNet:
    """Build the model with its initial weights; a relative path starts at `driver_cwd`.

    Raises:
        DataError: `model.pretrained` does not fit the model.
    """
    model = build_model_spec(experiment, manifest, {}).build_model()
    if experiment.model.weight_init == "kaiming":
        init_kaiming(model)
    load_initial_weights(model, experiment, driver_cwd=driver_cwd)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def load_initial_weights(
    model: HRNet, experiment: ExperimentConfig, *, driver_cwd: str | Path = "."
) -> LoadReport | None:
    """Copy the weights of `model.pretrained` into the model, and report what became of each.

    Raises:
        DataError: `model.pretrained` does not fit.
    """
    if not experiment.model.pretrained:
        return None
    path = Path(driver_cwd, experiment.model.pretrained)
    return load_pretrained(model, path, allow_partial=experiment.model.allow_partial_load)


def build_model_spec(experiment: ExperimentConfig, manifest: DatasetManifest, scores: dict[str, float]) -> ModelSpec:
    """Build the description that a model folder holds."""
    architecture, evaluation = experiment.model, experiment.evaluation
    return ModelSpec(
        skeleton=manifest.skeleton,
        width=architecture.width,
        modules=architecture.modules,
        blocks=architecture.blocks,
        stem=architecture.stem,
        input_hw=experiment.data.input_hw,
        padding=experiment.data.padding,
        sigma=experiment.heatmap.sigma,
        decode=evaluation.decode,
        flip_test=evaluation.flip_test,
        shift_heatmap=evaluation.shift_heatmap,
        trained_on=f"{manifest.name} ({manifest.digest[:12]})",
        scores=scores,
    )


def build_augmentation_config(experiment: ExperimentConfig, manifest: DatasetManifest) -> AugmentationPipelineConfig:
    """Build the random augmentation of training crops."""
    return AugmentationPipelineConfig(
        skeleton=manifest.skeleton,
        input_hw=experiment.data.input_hw,
        padding=experiment.data.padding,
        augmentation=experiment.augment,
        seed=experiment.seed,
    )


def build_target_config(experiment: ExperimentConfig) -> HeatmapTargetConfig:
    """Build the settings of target heatmaps and their loss."""
    return HeatmapTargetConfig(
        input_hw=experiment.data.input_hw,
        heatmap_hw=experiment.data.heatmap_hw,
        sigma=experiment.heatmap.sigma,
        quantize_center=experiment.heatmap.quantize_center,
        loss=experiment.optim.loss,
    )


def compute_peak_lr(experiment: ExperimentConfig) -> float:
    """Compute the peak learning rate for the experiment's batch size."""
    optim = experiment.optim
    return scale_lr(
        optim.lr,
        scaling=optim.lr_scaling,
        batch_size=optim.batch_size,
        reference_batch_size=optim.lr_reference_batch_size,
    )


def should_autocast_bf16(experiment: ExperimentConfig, device: torch.device) -> bool:
    """Whether this experiment runs under bf16 autocast on this device."""
    precision = experiment.optim.precision
    return precision == "bf16" or (precision == "auto" and should_use_bf16(device))
