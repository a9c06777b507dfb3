"""Recipes of `--size`: a net, an input and a schedule that fits the number of training rows.

The published recipes are in experiments/. These are for datasets of some hundred to some thousand
instances, trained from scratch. Only `tiny` was compared with other recipes.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hrnet_ray.config import (
    COARSEST_STRIDE,
    AugmentationConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    HeatmapConfig,
    ModelConfig,
    OptimizerConfig,
    with_overrides,
)
from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.data.sampler import batch_indices

Size = Literal["tiny", "small", "w32", "w48"]

AUGMENTATION = AugmentationConfig(scale_factor=0.15, rotation_deg=20.0, shift_factor=0.04)
HEATMAP = HeatmapConfig(sigma=1.5, quantize_center=False)
OPTIMIZER = OptimizerConfig(
    optimizer="adamw",
    lr=3e-3,
    lr_scaling="sqrt",
    lr_reference_batch_size=16,
    weight_decay=0.05,
    schedule="cosine",
    warmup_steps=50,
    batch_size=16,
    ema_decay=0.998,
)
EVALUATION = EvaluationConfig(decode="dark")
TINY = ExperimentConfig(
    name="tiny",
    data=DataConfig(input_hw=(128, 128)),
    model=ModelConfig(width=16, modules=(1, 1, 1), blocks=2, stem=32, weight_init="kaiming"),
    heatmap=HEATMAP,
    augment=AUGMENTATION,
    optim=OPTIMIZER,
    evaluation=EVALUATION,
)
LARGE_NET_CHANGES = {
    "heatmap.sigma": 2.0,
    "optim.lr": 1e-3,
    "optim.batch_size": 32,
    "optim.lr_reference_batch_size": 32,
    "data.input_hw": (256, 256),
}
PRESETS: dict[Size, ExperimentConfig] = {
    "tiny": TINY,
    "small": with_overrides(
        TINY,
        {
            "name": "small",
            "data.input_hw": (192, 192),
            "model": ModelConfig(width=18, modules=(1, 3, 2), blocks=2, weight_init="kaiming"),
            "heatmap.sigma": 2.0,
        },
    ),
    "w32": with_overrides(
        TINY,
        LARGE_NET_CHANGES | {"name": "w32", "model": ModelConfig(width=32, weight_init="kaiming")},
    ),
    "w48": with_overrides(
        TINY,
        LARGE_NET_CHANGES | {"name": "w48", "model": ModelConfig(width=48, weight_init="kaiming")},
    ),
}
"""`small` has the net of HRNet-W18-Small-v2; `w32` and `w48` have the published nets."""

DEFAULT_EPOCHS = 60
"""Epochs of a dataset for which MIN_STEPS and MAX_STEPS do not matter."""
MIN_STEPS, MAX_STEPS = 1500, 8000
"""Limits of the optimizer steps of a run: a small dataset gets more epochs, a large one fewer."""
TARGET_VALIDATIONS = 40
"""A run validates between this many times and twice as often, if it has as many epochs."""
WIDE_ASPECT_RATIO = 1.4
"""Median width / height of the boxes from which crops are wider than high; its inverse for higher ones."""
PLANNED_SETTINGS = (
    "data.input_hw",
    "optim.batch_size",
    "optim.epochs",
    "optim.warmup_steps",
    "optim.precision",
    "evaluation.val_interval",
)
"""Settings that depend on the dataset and the machine; a resumed run keeps its own."""


def plan_experiment(
    size: Size, manifest: DatasetManifest, cluster: ClusterConfig, requested: Mapping[str, Any]
) -> ExperimentConfig:
    """Return the preset of a size with the schedule for a dataset; `requested` settings replace both.

    A run that exists already keeps the settings in PLANNED_SETTINGS, so that the same command
    resumes it.

    Raises:
        HrnetRayError: there is no training split, or a requested setting is invalid.
    """
    experiment = with_overrides(PRESETS[size], {"data.root": str(manifest.root), **requested})
    planned = _read_planned_settings(Path(cluster.storage_path) / manifest.name / experiment.name)
    return with_overrides(
        experiment, {**_plan_settings(experiment, manifest, cluster, requested), **planned, **requested}
    )


def count_train_rows(manifest: DatasetManifest) -> int:
    """Count the rows of the training split.

    Raises:
        DataError: there is none.
    """
    return sum(shard.rows for shard in manifest.get_shards("train"))


def count_steps_per_epoch(experiment: ExperimentConfig, manifest: DatasetManifest, cluster: ClusterConfig) -> int:
    """Count the optimizer steps of an epoch; at least 1."""
    rows = np.arange(count_train_rows(manifest))
    return max(1, len(batch_indices(rows, batch_size=experiment.optim.batch_size, num_workers=cluster.num_workers)))


def has_gpu(cluster: ClusterConfig) -> bool:
    """Whether a run will use GPUs, as far as this machine knows before Ray starts."""
    import torch  # deferred, so that `hrnet-ray train --help` does not load it

    return cluster.device == "gpu" or (cluster.device == "auto" and torch.cuda.is_available())


def _plan_settings(
    experiment: ExperimentConfig, manifest: DatasetManifest, cluster: ClusterConfig, requested: Mapping[str, Any]
) -> dict[str, Any]:
    steps_per_epoch = count_steps_per_epoch(experiment, manifest, cluster)
    steps = min(MAX_STEPS, max(MIN_STEPS, DEFAULT_EPOCHS * steps_per_epoch))
    epochs = requested.get("optim.epochs", math.ceil(steps / steps_per_epoch))
    return {
        "data.input_hw": _choose_input_hw(experiment.data.input_hw, manifest),
        "optim.epochs": epochs,
        "optim.precision": _choose_precision(experiment.optim.precision, cluster),
        "optim.warmup_steps": min(experiment.optim.warmup_steps, epochs * steps_per_epoch // 10),
        "evaluation.val_interval": max(1, epochs // TARGET_VALIDATIONS),
    }


def _choose_precision(precision: str, cluster: ClusterConfig) -> str:
    """Choose bf16 for a run on this machine's CPU if it has the instructions."""
    import torch

    from hrnet_ray.training.precision import has_native_bf16

    is_joined = bool(cluster.ray_address or os.environ.get("RAY_ADDRESS"))  # its machines may have other CPUs
    on_own_cpu = precision == "auto" and not has_gpu(cluster) and not is_joined
    return "bf16" if on_own_cpu and has_native_bf16(torch.device("cpu")) else precision


def _choose_input_hw(square_hw: tuple[int, int], manifest: DatasetManifest) -> tuple[int, int]:
    """Make the crops wider or higher, with about the same area, if most boxes are."""
    boxes = read_split(manifest, "train", columns=["box_xywh"])["box_xywh"].combine_chunks().flatten()
    _, _, width, height = boxes.to_numpy().reshape(-1, 4).T
    ratio = float(np.median(width / height))
    short, long = (round(square_hw[0] * factor / COARSEST_STRIDE) * COARSEST_STRIDE for factor in (0.86, 1.15))
    if ratio >= WIDE_ASPECT_RATIO:
        return short, long
    return (long, short) if ratio <= 1 / WIDE_ASPECT_RATIO else square_hw


def _read_planned_settings(run_folder: Path) -> dict[str, Any]:
    """Return the planned settings of an existing run."""
    try:
        saved = json.loads((run_folder / "resolved_config.json").read_text(encoding="utf-8"))
        return {name: saved[name] for name in PLANNED_SETTINGS if name in saved}
    except (OSError, ValueError):  # none yet, or damaged: `open_run_dir` refuses that
        return {}
