"""Flags of `train` and `tune` that choose a preset, and the table of the plan."""

from collections.abc import Sequence
from typing import Any, Literal

from hrnet_ray.cli.terminal_table import print_table
from hrnet_ray.config import ClusterConfig, ExperimentConfig, flatten_config
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.training.presets import (
    PLANNED_SETTINGS,
    Size,
    count_steps_per_epoch,
    count_train_rows,
    has_gpu,
    plan_experiment,
)

SizeFlag = Literal["auto", "tiny", "small", "w32", "w48", "published"]
MIN_ROWS_FOR_W32 = 1000
"""Training rows from which `--size auto` takes W32 on a GPU."""
MIN_STEPS_FROM_SCRATCH = 300
"""Optimizer steps below which a run from scratch gets a note."""


def expand_plan_flags(argv: Sequence[str]) -> list[str]:
    """Write `--data DIR` as `--data.root DIR`, and leave out planned settings whose value is `auto`."""
    words: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if flag == "--data":
            words.append("--data.root" + equals + value)
        elif word == "auto" and words and _is_planned(words[-1]):
            words.pop()
        elif not (value == "auto" and _is_planned(flag)):
            words.append(word)
    return words


def plan_from_flags(
    size: SizeFlag, parsed: ExperimentConfig, cluster: ClusterConfig, argv: Sequence[str]
) -> ExperimentConfig:
    """Plan a run from the settings that the command line gives, and print the plan.

    `published` plans nothing: the other settings keep their published defaults.

    Raises:
        HrnetRayError: the dataset is not prepared, or a setting is invalid.
    """
    if size == "published":
        return parsed
    manifest = read_manifest(parsed.data.root)
    chosen = _choose_size(manifest, cluster) if size == "auto" else size
    experiment = plan_experiment(chosen, manifest, cluster, list_requested_settings(argv, parsed))
    print_table(("plan", manifest.name), format_plan(chosen, experiment, manifest, cluster))
    return experiment


def list_requested_settings(argv: Sequence[str], parsed: ExperimentConfig) -> dict[str, Any]:
    """Return the settings that a command line gives, with their parsed values."""
    argv = expand_plan_flags(argv)
    flags = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")}
    return {name: value for name, value in flatten_config(parsed).items() if {name, _negate(name)} & flags}


def format_plan(
    size: str, experiment: ExperimentConfig, manifest: DatasetManifest, cluster: ClusterConfig
) -> list[tuple[str, str]]:
    """Describe a run before it starts: net, input, batch, steps, optimizer."""
    model, optim = experiment.model, experiment.optim
    steps = count_steps_per_epoch(experiment, manifest, cluster)
    height, width = experiment.data.input_hw
    rows = [
        ("size", f"{size}: HRNet of width {model.width}, modules {' '.join(map(str, model.modules))}"),
        ("input", f"{width} x {height} pixels, heatmap sigma {experiment.heatmap.sigma:g}"),
        ("batch", f"{optim.batch_size} of {count_train_rows(manifest):,} rows, {steps:,} steps per epoch"),
        ("schedule", f"{optim.epochs:,} epochs = {optim.epochs * steps:,} steps"),
        ("optimizer", f"{optim.optimizer}, {optim.schedule} schedule, precision {optim.precision}"),
    ]
    if optim.epochs * steps < MIN_STEPS_FROM_SCRATCH and not model.pretrained:
        rows.append(("note", f"fewer than {MIN_STEPS_FROM_SCRATCH} steps are few from scratch: raise --optim.epochs"))
    return rows


def _choose_size(manifest: DatasetManifest, cluster: ClusterConfig) -> Size:
    if not has_gpu(cluster):
        return "tiny"
    return "w32" if count_train_rows(manifest) >= MIN_ROWS_FOR_W32 else "small"


def _negate(name: str) -> str:
    """Return the flag that sets a setting to False: `evaluation.no_flip_test`."""
    prefix, dot, last = name.rpartition(".")
    return f"{prefix}{dot}no_{last}"


def _is_planned(word: str) -> bool:
    return word.removeprefix("--").replace("-", "_") in PLANNED_SETTINGS
