"""An experiment's settings as the values that the rooms below the config take.

Config stops here: `pose`, `models`, `data`, `learning` and `inference` have never heard of it.
"""

from pathlib import Path

import torch

from hrnet_ray.config import HEATMAP_STRIDE, ExperimentConfig
from hrnet_ray.data.batch import AugmentationPipelineConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.inference.predict_loop import DecodeConfig
from hrnet_ray.models import HRNet
from hrnet_ray.models.pretrained import LoadReport, load_pretrained
from hrnet_ray.pose.augmentation import AugmentationParams
from hrnet_ray.pose.targets import HeatmapTargetConfig
from hrnet_ray.training.optim import scale_lr
from hrnet_ray.training.precision import should_use_bf16


def build_model(
    experiment: ExperimentConfig, manifest: DatasetManifest, *, driver_cwd: str | Path = "."
) -> HRNet:
    """The experiment's net, with the weights that it starts from (a path from `started_in`).

    Raises:
        DataError: `model.pretrained` does not fit.
    """
    model = build_model_spec(experiment, manifest, {}).build_model()
    load_initial_weights(model, experiment, driver_cwd=driver_cwd)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def load_initial_weights(
    model: HRNet, experiment: ExperimentConfig, *, driver_cwd: str | Path = "."
) -> LoadReport | None:
    """Copy the weights into the net that the experiment names; what became of each is returned.

    Raises:
        DataError: `model.pretrained` does not fit.
    """
    if not experiment.model.pretrained:
        return None
    path = Path(driver_cwd, experiment.model.pretrained)
    return load_pretrained(model, path, allow_partial=experiment.model.allow_partial_load)


def build_model_spec(
    experiment: ExperimentConfig, manifest: DatasetManifest, scores: dict[str, float]
) -> ModelSpec:
    """What a model folder says about the model."""
    net, judging = experiment.model, experiment.evaluation
    return ModelSpec(
        skeleton=manifest.skeleton,
        width=net.width,
        modules=net.modules,
        blocks=net.blocks,
        stem=net.stem,
        input_hw=experiment.data.input_hw,
        padding=experiment.data.padding,
        sigma=experiment.heatmap.sigma,
        decode=judging.decode,
        flip_test=judging.flip_test,
        shift_heatmap=judging.shift_heatmap,
        trained_on=f"{manifest.name} ({manifest.digest[:12]})",
        scores=scores,
    )


def build_augmentation_config(
    experiment: ExperimentConfig, manifest: DatasetManifest
) -> AugmentationPipelineConfig:
    """What chance may do to a training crop."""
    return AugmentationPipelineConfig(
        skeleton=manifest.skeleton,
        input_hw=experiment.data.input_hw,
        padding=experiment.data.padding,
        augmentation=AugmentationParams(**vars(experiment.augment)),
        seed=experiment.seed,
    )


def build_target_config(experiment: ExperimentConfig) -> HeatmapTargetConfig:
    """What the heatmaps should look like."""
    return HeatmapTargetConfig(
        input_hw=experiment.data.input_hw,
        heatmap_hw=experiment.data.heatmap_hw,
        sigma=experiment.heatmap.sigma,
        quantize_center=experiment.heatmap.quantize_center,
        loss=experiment.optim.loss,
    )


def build_decode_config(experiment: ExperimentConfig, manifest: DatasetManifest) -> DecodeConfig:
    """How heatmaps become keypoints."""
    judging = experiment.evaluation
    return DecodeConfig(
        method=judging.decode,
        flip_order=manifest.skeleton.flip_order if judging.flip_test else None,
        shift_heatmap=judging.shift_heatmap,
        stride=HEATMAP_STRIDE,
        sigma=experiment.heatmap.sigma,
    )


def compute_peak_lr(experiment: ExperimentConfig) -> float:
    """The learning rate at its height, for this experiment's batch."""
    optim = experiment.optim
    return scale_lr(
        optim.lr,
        scaling=optim.lr_scaling,
        batch_size=optim.batch_size,
        reference_batch_size=optim.lr_reference_batch_size,
    )


def should_autocast_bf16(experiment: ExperimentConfig, device: torch.device) -> bool:
    """Whether this experiment runs under bf16 autocast on this device."""
    wanted = experiment.optim.precision
    return wanted == "bf16" or (wanted == "auto" and should_use_bf16(device))
