"""Recipes of `--size`: a net, an input and a schedule that fits the number of training rows.

The published recipes are in experiments/. These are for data sets of some hundred to some thousand
instances that train from scratch.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from hrnet_ray.config import (
    AugmentationConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    HeatmapConfig,
    ModelConfig,
    OptimizerConfig,
    flatten_config,
    with_overrides,
)
from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.training.precision import has_native_bf16

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

EPOCHS_FOR_LARGE_DATASETS = 60
MIN_STEPS, MAX_STEPS = 1500, 8000
"""Steps of a run that small datasets are repeated for, and that large ones are limited to."""
MAX_VALIDATIONS = 40
MIN_STEPS_FOR_A_NOTE = 300
"""A run from scratch with fewer steps learns little."""
WIDE_ASPECT_RATIO = 1.4
"""Median width / height of the boxes from which a crop is wider than high, or its inverse."""
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
    """
    experiment = with_overrides(PRESETS[size], {"data.root": str(manifest.root), **requested})
    planned = _read_planned_settings(Path(cluster.storage_path) / manifest.name / experiment.name)
    return with_overrides(experiment, {**_plan_settings(experiment, manifest, requested), **planned, **requested})


def count_steps_per_epoch(experiment: ExperimentConfig, manifest: DatasetManifest) -> int:
    """Count the optimizer steps of an epoch."""
    return math.ceil(manifest.splits["train"].rows / experiment.optim.batch_size)


def _plan_settings(
    experiment: ExperimentConfig, manifest: DatasetManifest, requested: Mapping[str, Any]
) -> dict[str, Any]:
    rows = manifest.splits["train"].rows
    steps = min(MAX_STEPS, max(MIN_STEPS, EPOCHS_FOR_LARGE_DATASETS * rows // experiment.optim.batch_size))
    epochs = requested.get("optim.epochs", math.ceil(steps / count_steps_per_epoch(experiment, manifest)))
    total_steps = epochs * count_steps_per_epoch(experiment, manifest)
    return {
        "data.input_hw": _choose_input_hw(experiment.data.input_hw, manifest),
        "optim.epochs": epochs,
        "optim.precision": _choose_precision(experiment.optim.precision),
        "optim.warmup_steps": min(experiment.optim.warmup_steps, total_steps // 10),
        "evaluation.val_interval": max(1, epochs // MAX_VALIDATIONS),
    }


def _choose_precision(precision: str) -> str:
    """Choose bf16 on a machine without GPU whose CPU has the instructions: steps take half the time."""
    without_gpu = precision == "auto" and not torch.cuda.is_available()
    return "bf16" if without_gpu and has_native_bf16(torch.device("cpu")) else precision


def _choose_input_hw(square_hw: tuple[int, int], manifest: DatasetManifest) -> tuple[int, int]:
    """Make crops 3:4 or 4:3 with about the same area, if most boxes are high or wide."""
    boxes = np.array(read_split(manifest, "train", columns=["box_xywh"])["box_xywh"].to_pylist())
    ratio = float(np.median(boxes[:, 2] / boxes[:, 3]))
    short, long = round(square_hw[0] * 0.86 / 32) * 32, round(square_hw[0] * 1.15 / 32) * 32
    if ratio >= WIDE_ASPECT_RATIO:
        return short, long
    return (long, short) if ratio <= 1 / WIDE_ASPECT_RATIO else square_hw


def _read_planned_settings(run_folder: Path) -> dict[str, Any]:
    try:
        saved = json.loads((run_folder / "resolved_config.json").read_text(encoding="utf-8"))
        return {name: saved[name] for name in PLANNED_SETTINGS if name in saved}
    except (OSError, ValueError):  # none yet, or damaged: `open_run_dir` refuses that
        return {}


def format_plan(size: str, experiment: ExperimentConfig, manifest: DatasetManifest) -> list[tuple[str, str]]:
    """Describe a run before it starts: net, input, batch, steps, precision."""
    model, optim = experiment.model, experiment.optim
    steps = count_steps_per_epoch(experiment, manifest)
    height, width = experiment.data.input_hw
    rows = [
        ("size", f"{size}: HRNet of width {model.width}, modules {' '.join(map(str, model.modules))}"),
        ("input", f"{width} x {height} pixels, heatmap sigma {experiment.heatmap.sigma:g}"),
        ("batch", f"{optim.batch_size} of {manifest.splits['train'].rows:,} rows, {steps:,} steps per epoch"),
        ("schedule", f"{optim.epochs:,} epochs = {optim.epochs * steps:,} steps"),
        ("optimizer", f"{optim.optimizer}, {optim.schedule} schedule, {optim.precision}"),
    ]
    if optim.epochs * steps < MIN_STEPS_FOR_A_NOTE and not model.pretrained:
        rows.append(
            ("note", f"fewer than {MIN_STEPS_FOR_A_NOTE} steps from scratch learn little: raise --optim.epochs")
        )
    return rows


def list_requested_settings(argv: list[str], experiment: ExperimentConfig) -> dict[str, Any]:
    """Return the settings that a command line gives, with their parsed values."""
    flat = flatten_config(experiment)
    flags = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")}
    return {name: value for name, value in flat.items() if {name, _negate(name)} & flags}


def _negate(name: str) -> str:
    """Return the flag that sets a setting to False: `evaluation.no_flip_test`."""
    prefix, dot, last = name.rpartition(".")
    return f"{prefix}{dot}no_{last}"
