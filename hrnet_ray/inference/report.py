"""The data report: look at the data before a model does.

OUT/check.html              the page, complete in itself
OUT/samples.png             16 training instances as they are stored
OUT/samples_augmented.png   the same ones as the model meets them in its first epoch
OUT/counts.csv              all figures
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hrnet_ray.data import pictures
from hrnet_ray.data.drawing import draw_pose, fitted, moved, sheet, side_colour
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.data.rows import Arrays, decode_rows
from hrnet_ray.inference.predictor import STRIDE
from hrnet_ray.inference.report_counts import Counts, count, stored_hw, write_csv
from hrnet_ray.inference.report_page import page
from hrnet_ray.learning.batch import CanvasBatch, PoseBatch, Recipe, augmented, to_canvases
from hrnet_ray.pose.augment import IMAGENET_MEAN, IMAGENET_STD, Warps, draw_warps
from hrnet_ray.pose.geometry import box_to_center_scale
from hrnet_ray.pose.heatmaps import encode_heatmaps
from hrnet_ray.skeletons import Skeleton

SAMPLES = 16
TILE_PX = 300
CROP_PX = 168  # rows of an augmented crop on its sheet
BOX_COLOUR = (255, 255, 255)
DIMMED = 0.4  # of a crop under its heatmaps


@dataclass(frozen=True)
class Samples:
    """The instances on the two sheets; pixels and points as training gets them."""

    rows: Arrays
    images: list[str]
    stored_hw: list[tuple[int, int]]
    """How much of each canvas is picture."""


def write_report(
    manifest: Manifest,
    out: Path,
    *,
    recipe: Recipe,
    sigma: float,
    rounded: bool = True,
    counts: Counts | None = None,
) -> Path:
    """Write the four files and return the page's path.

    The second sheet shows epoch 0 of a run with this `recipe` and heatmaps of this `sigma`.
    `counts` is for a caller who has called `count` already.

    Raises:
        DataError: a split without rows, or files that do not add up.
    """
    counts = counts or count(manifest)
    out.mkdir(parents=True, exist_ok=True)
    samples = read_samples(manifest)
    sheets = {
        "samples.png": stored_sheet(samples, manifest.skeleton),
        "samples_augmented.png": augmented_sheet(samples, recipe, sigma=sigma, rounded=rounded),
    }
    for name, picture in sheets.items():
        pictures.write(out / name, picture)
    write_csv(counts, out / "counts.csv")
    embedded = {name: pictures.encode_jpeg(sheet, quality=90) for name, sheet in sheets.items()}
    path = out / "check.html"
    path.write_text(page(manifest, counts, embedded, recipe, sigma), encoding="utf-8")
    return path


def read_samples(manifest: Manifest, most: int = SAMPLES) -> Samples:
    """Decode training rows that stand at equal distances, so that no one scene fills the sheet."""
    total = manifest.splits["train"].rows
    wanted = np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(int))
    parts, start = [], 0
    for shard in manifest.splits["train"].shards:
        here = wanted[(wanted >= start) & (wanted < start + shard.rows)] - start
        if len(here):
            parts.append(pq.read_table(manifest.root / shard.file).take(here))
        start += shard.rows
    table = pa.concat_tables(parts)
    rows = decode_rows(table, canvas_px=manifest.canvas_px)
    stored = [_on_canvas(data.as_py(), manifest) for data in table["picture"]]
    return Samples(rows, table["image"].to_pylist(), stored)


def _on_canvas(data: bytes, manifest: Manifest) -> tuple[int, int]:
    height, width = stored_hw(data) or (manifest.canvas_px, manifest.canvas_px)
    shrink = min(1.0, manifest.canvas_px / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def stored_sheet(samples: Samples, skeleton: Skeleton) -> np.ndarray:
    """Each instance with its pose, its box, and the surroundings that are stored with it."""
    rows = samples.rows
    tiles, captions = [], []
    for at, (height, width) in enumerate(samples.stored_hw):
        stored = rows["canvas"][at, :height, :width]
        tile, tile_from_stored = fitted(stored, size_hw=(TILE_PX, TILE_PX))
        into = tile_from_stored @ rows["canvas_from_image"][at]
        _draw_box(tile, moved(into, _corners(rows["box_xywh"][at])))
        xy = moved(into, rows["image_xy"][at])
        tiles.append(draw_pose(tile, xy, rows["visible"][at], skeleton))
        captions.append(_caption(samples.images[at], rows["id"][at]))
    return sheet(tiles, captions=captions)


def _corners(box_xywh: np.ndarray) -> np.ndarray:
    x, y, w, h = box_xywh
    return np.array([[x, y], [x + w, y + h]])


def _draw_box(tile: np.ndarray, corners: np.ndarray) -> None:
    low, high = (tuple(map(int, corner)) for corner in np.rint(corners).clip(-1e4, 1e4))
    cv2.rectangle(tile, low, high, (0, 0, 0), 2, cv2.LINE_AA)
    cv2.rectangle(tile, low, high, BOX_COLOUR, 1, cv2.LINE_AA)


def _caption(image: str, id: np.integer, most: int = TILE_PX // 7) -> str:
    """The end of a long name says more than its start; the id is never cut."""
    tail = f" #{id}"
    room = most - len(tail)
    return (image if len(image) <= room else ".." + image[2 - room :]) + tail


def augmented_sheet(samples: Samples, recipe: Recipe, *, sigma: float, rounded: bool) -> np.ndarray:
    """Each instance as the model meets it: the crop with its pose, and its heatmaps."""
    batch = to_canvases(samples.rows, torch.device("cpu"))
    poses = augmented(batch, recipe, epoch=0)
    heatmaps, _ = encode_heatmaps(
        poses.crop_xy,
        poses.visible,
        input_hw=recipe.input_hw,
        heatmap_hw=(recipe.input_hw[0] // STRIDE, recipe.input_hw[1] // STRIDE),
        sigma=sigma,
        rounded=rounded,
    )
    tiles = [
        _crop_and_heatmaps(crop, xy, visible, maps, recipe.skeleton)
        for crop, xy, visible, maps in zip(
            crops_to_look_at(poses),
            poses.crop_xy.double().numpy(),
            poses.visible.numpy(),
            heatmaps.numpy(),
            strict=True,
        )
    ]
    return sheet(tiles, captions=warp_captions(batch, recipe))


def crops_to_look_at(poses: PoseBatch) -> np.ndarray:
    """Undo the normalisation: uint8 [B, H, W, 3]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    crops = (poses.crops * std + mean).clamp(0, 1) * 255
    return crops.round().byte().permute(0, 2, 3, 1).numpy()


def _crop_and_heatmaps(
    crop: np.ndarray, xy: np.ndarray, visible: np.ndarray, heatmaps: np.ndarray, skeleton: Skeleton
) -> np.ndarray:
    size_hw = (CROP_PX, round(CROP_PX * crop.shape[1] / crop.shape[0]))
    tile, into = fitted(crop, size_hw=size_hw)
    posed = draw_pose(tile, moved(into, xy), visible, skeleton)
    glowing, _ = fitted(glow(crop, heatmaps, skeleton), size_hw=size_hw)
    return np.concatenate([posed, glowing], 1)


def glow(crop: np.ndarray, heatmaps: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Lay heatmaps [K, h, w] over a dimmed crop [H, W, 3], each in the colour of its side."""
    height, width = crop.shape[:2]
    # A cell stands at a multiple of the stride, not in the middle of its pixels: no half here.
    zoom = np.diag([width / heatmaps.shape[2], height / heatmaps.shape[1]])
    into = np.concatenate([zoom, np.zeros((2, 1))], 1)
    colours = np.array([side_colour(name) for name in skeleton.keypoints], np.float32)
    light = colours[heatmaps.argmax(0)] * heatmaps.max(0)[..., None]
    strength = cv2.warpAffine(heatmaps.max(0), into, (width, height))[..., None]
    light = cv2.warpAffine(light, into, (width, height))
    return (crop * DIMMED * (1 - strength) + light).clip(0, 255).astype(np.uint8)


def warp_captions(batch: CanvasBatch, recipe: Recipe, *, epoch: int = 0) -> list[str]:
    """Say what chance did to each instance: `#12 mirrored, +17 deg, 1.12x`.

    Turns are counter-clockwise, as seen; a zoom above 1 makes the instance larger.
    """
    center_xy, scale_wh = box_to_center_scale(
        batch.box_xywh, input_hw=recipe.input_hw, padding=recipe.padding
    )
    warps = _warps(batch, recipe, center_xy, scale_wh, epoch)
    halved = (warps.center_xy != center_xy).any(1).tolist()
    zooms = (scale_wh / warps.scale_wh)[:, 0].tolist()
    parts = zip(
        batch.ids.tolist(),
        warps.mirrored.tolist(),
        warps.rotation_deg.tolist(),
        zooms,
        halved,
        strict=True,
    )
    return [
        f"#{id} {'mirrored, ' if mirrored else ''}{f'{deg:+.0f} deg, ' if deg else ''}{zoom:.2f}x"
        + (", half body" if half else "")
        for id, mirrored, deg, zoom, half in parts
    ]


def _warps(
    batch: CanvasBatch,
    recipe: Recipe,
    center_xy: torch.Tensor,
    scale_wh: torch.Tensor,
    epoch: int,
) -> Warps:
    """The same draw as in `learning.batch.warped_only`, which keeps it to itself."""
    return draw_warps(
        batch.ids,
        seed=recipe.seed,
        epoch=epoch,
        image_xy=batch.image_xy,
        visible=batch.visible,
        center_xy=center_xy,
        scale_wh=scale_wh,
        upper_body=recipe.skeleton.upper_body,
        augmentation=recipe.augmentation,
        input_hw=recipe.input_hw,
    )
