"""Plots of how a run goes, and of how good its model is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # not pyplot: it keeps figures, and is no friend of threads

CURVE_COLORS = ("#2d6ec8", "#c8502d")
Curve = Sequence[tuple[float, float]]


def plot_training_curves(path: Path, epochs: Sequence[Mapping[str, Any]], primary_metric: str) -> None:
    """Loss and score over epochs."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [entry["epoch"] for entry in epochs]
    left.plot(steps, [entry["train/loss"] for entry in epochs], color="#c8502d")
    judged = [(entry["epoch"], entry["val/loss"]) for entry in epochs if "val/loss" in entry]
    if judged:
        left.plot(*zip(*judged, strict=True), color="#2d6ec8", linestyle="--", label="validation")
        left.lines[0].set_label("training")
        left.legend(fontsize=8)
    left.set(title="loss", xlabel="epoch", yscale="log")
    scored = [(entry["epoch"], entry[f"val/{primary_metric}"]) for entry in epochs if f"val/{primary_metric}" in entry]
    right.plot(*zip(*scored, strict=True), color="#2d6ec8", marker="o", markersize=3)
    right.set(title=f"validation {primary_metric}", xlabel="epoch", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(path, figure)


def plot_per_keypoint(path: Path, scores: Mapping[str, float], *, metric: str, split: str = "validation") -> None:
    """Which keypoints are found, and which are not."""
    figure = Figure(figsize=(6, 0.28 * len(scores) + 1), layout="constrained")
    axes = figure.subplots()
    names = list(scores)
    axes.barh(names, [scores[name] for name in names], color="#2d6ec8")
    axes.invert_yaxis()
    axes.set(title=f"{split} {metric} by keypoint", xlim=(0, 1))
    axes.grid(axis="x", alpha=0.3)
    save_figure(path, figure)


def plot_metric_curve(path: Path, curves: Mapping[str, Curve], *, primary_metric: str) -> None:
    """PCKh over its threshold, or AP over the OKS that a pose must reach."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for (name, curve), colour in zip(curves.items(), CURVE_COLORS, strict=False):
        axes.plot(*zip(*curve, strict=True), color=colour, label=name, marker=".", markersize=4)
    by_head = primary_metric.startswith("PCKh")
    axes.set(
        xlabel="threshold, in head sizes" if by_head else "OKS that a pose must reach",
        ylabel="PCKh (mean)" if by_head else "AP",
        ylim=(0, 1.02),
        title="PCKh over its threshold" if by_head else "AP over the OKS threshold",
    )
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(fontsize=8)
    save_figure(path, figure)


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure, and the folder above it unless it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
