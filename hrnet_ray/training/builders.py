"""An experiment's settings as the values that the rooms below the config take.

Config stops here: `pose`, `models`, `data`, `learning` and `inference` have never heard of it.
"""

from pathlib import Path

import torch

from hrnet_ray.config import HEATMAP_STRIDE, Experiment
from hrnet_ray.data.batch import Recipe
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.inference.predict_loop import Decoding
from hrnet_ray.models import HRNet
from hrnet_ray.models.pretrained import WeightsReport, load_weights
from hrnet_ray.pose.augmentation import Augmentation
from hrnet_ray.pose.targets import Target
from hrnet_ray.training.optim import scaled_rate
from hrnet_ray.training.precision import bf16_pays


def build_model(
    experiment: Experiment, manifest: Manifest, *, started_in: str | Path = "."
) -> HRNet:
    """The experiment's net, with the weights that it starts from (a path from `started_in`).

    Raises:
        DataError: `model.init` does not fit.
    """
    model = spec_of(experiment, manifest, {}).build()
    start_from(model, experiment, started_in=started_in)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def start_from(
    model: HRNet, experiment: Experiment, *, started_in: str | Path = "."
) -> WeightsReport | None:
    """Copy the weights into the net that the experiment names; what became of each is returned.

    Raises:
        DataError: `model.init` does not fit.
    """
    if not experiment.model.init:
        return None
    path = Path(started_in, experiment.model.init)
    return load_weights(model, path, partial=experiment.model.init_partial)


def spec_of(experiment: Experiment, manifest: Manifest, scores: dict[str, float]) -> ModelSpec:
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


def recipe_of(experiment: Experiment, manifest: Manifest) -> Recipe:
    """What chance may do to a training crop."""
    return Recipe(
        skeleton=manifest.skeleton,
        input_hw=experiment.data.input_hw,
        padding=experiment.data.padding,
        augmentation=Augmentation(**vars(experiment.augment)),
        seed=experiment.seed,
    )


def target_of(experiment: Experiment) -> Target:
    """What the heatmaps should look like."""
    return Target(
        input_hw=experiment.data.input_hw,
        heatmap_hw=experiment.data.heatmap_hw,
        sigma=experiment.heatmap.sigma,
        rounded=experiment.heatmap.rounded,
        loss=experiment.optim.loss,
    )


def decoding_of(experiment: Experiment, manifest: Manifest) -> Decoding:
    """How heatmaps become keypoints."""
    judging = experiment.evaluation
    return Decoding(
        method=judging.decode,
        flip_order=manifest.skeleton.flip_order if judging.flip_test else None,
        shift=judging.shift_heatmap,
        stride=HEATMAP_STRIDE,
        sigma=experiment.heatmap.sigma,
    )


def rate_of(experiment: Experiment) -> float:
    """The learning rate at its height, for this experiment's batch."""
    optim = experiment.optim
    return scaled_rate(
        optim.lr, per=optim.lr_per, batch_size=optim.batch_size, reference=optim.lr_batch
    )


def uses_bf16(experiment: Experiment, device: torch.device) -> bool:
    """Whether this experiment runs under bf16 autocast on this device."""
    wanted = experiment.optim.precision
    return wanted == "bf16" or (wanted == "auto" and bf16_pays(device))
