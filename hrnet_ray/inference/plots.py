"""Pictures of how a run goes: poses on validation crops, curves, keypoints side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # not pyplot: it keeps figures, and is no friend of threads

from hrnet_ray.data import pictures
from hrnet_ray.data.drawing import draw_pose, glow, moved, sheet
from hrnet_ray.skeletons import Skeleton

TILE_PX, PAIRED_PX = 224, 160
"""Rows of a tile by itself, and beside its heatmaps: a sheet is about as large."""
TRUTH = (255, 255, 255)


def poses_on_crops(
    crops: Sequence[np.ndarray],
    crop_from_image: np.ndarray,
    predicted_xy: np.ndarray,
    true_xy: np.ndarray,
    visible: np.ndarray,
    skeleton: Skeleton,
    *,
    heatmaps: np.ndarray | None = None,
    captions: Sequence[str] | None = None,
) -> np.ndarray:
    """A sheet of crops, truth thin and white, prediction thick and coloured by side.

    Only keypoints that the truth knows are drawn of both, so that each pair can be compared.
    `heatmaps` [N, K, h, w] stand beside their crops, those of all keypoints.
    """
    tiles = []
    height = TILE_PX if heatmaps is None else PAIRED_PX
    for at, crop in enumerate(crops):
        tile_hw = (height, round(crop.shape[1] * height / crop.shape[0]))
        tile, tile_from_crop = pictures.resized(crop, size_hw=tile_hw)
        into = tile_from_crop @ crop_from_image[at]
        tile = draw_pose(tile, moved(into, predicted_xy[at]), visible[at], skeleton, thickness=3)
        tile = draw_pose(
            tile, moved(into, true_xy[at]), visible[at], skeleton, thickness=1, plain=TRUTH
        )
        if heatmaps is not None:
            lit, _ = pictures.resized(glow(crop, heatmaps[at], skeleton), size_hw=tile_hw)
            tile = np.concatenate([tile, lit], 1)
        tiles.append(tile)
    return sheet(tiles, columns=4 if heatmaps is None else 3, captions=captions)


def curves(path: Path, epochs: Sequence[Mapping[str, Any]], main: str) -> None:
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
    scored = [(entry["epoch"], entry[f"val/{main}"]) for entry in epochs if f"val/{main}" in entry]
    right.plot(*zip(*scored, strict=True), color="#2d6ec8", marker="o", markersize=3)
    right.set(title=f"validation {main}", xlabel="epoch", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    write_figure(path, figure)


def per_keypoint(
    path: Path, scores: Mapping[str, float], *, of: str, on: str = "validation"
) -> None:
    """Which keypoints are found, and which are not."""
    figure = Figure(figsize=(6, 0.28 * len(scores) + 1), layout="constrained")
    axes = figure.subplots()
    names = list(scores)
    axes.barh(names, [scores[name] for name in names], color="#2d6ec8")
    axes.invert_yaxis()
    axes.set(title=f"{on} {of} by keypoint", xlim=(0, 1))
    axes.grid(axis="x", alpha=0.3)
    write_figure(path, figure)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure, and the folder above it unless it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
