"""Flags of `train` and `tune` that choose a preset, and the table of the plan."""

from collections.abc import Sequence
from typing import Any, Literal

from hrnet_ray.cli.terminal_table import print_table
from hrnet_ray.config import ClusterConfig, ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.training.presets import PLANNED_SETTINGS, Size, format_plan, list_requested_settings, plan_experiment

SizeFlag = Literal["auto", "tiny", "small", "w32", "w48", "published"]
MIN_ROWS_FOR_W32 = 1000
"""Training rows below which `--size auto` takes a small net on a GPU, too."""


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
    requested: dict[str, Any] = list_requested_settings(list(argv), parsed)
    manifest = read_manifest(parsed.data.root)
    chosen = _choose_size(manifest, cluster) if size == "auto" else size
    experiment = plan_experiment(chosen, manifest, cluster, requested)
    print_table(("plan", manifest.name), format_plan(chosen, experiment, manifest))
    return experiment


def _choose_size(manifest: DatasetManifest, cluster: ClusterConfig) -> Size:
    import torch

    has_gpu = cluster.device == "gpu" or (cluster.device == "auto" and torch.cuda.is_available())
    if not has_gpu:
        return "tiny"
    return "w32" if manifest.splits["train"].rows >= MIN_ROWS_FOR_W32 else "small"


def _is_planned(word: str) -> bool:
    return word.removeprefix("--").replace("-", "_") in PLANNED_SETTINGS
