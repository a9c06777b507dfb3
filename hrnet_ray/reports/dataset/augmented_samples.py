"""Tiles for the data report: instances as the model meets them, with what it has to answer."""

import numpy as np
import torch

from hrnet_ray.data.batch import CanvasBatch, PoseBatch, Recipe, augmented, to_canvases, warps_of
from hrnet_ray.inference.predictor import STRIDE
from hrnet_ray.pose.augmentation import IMAGENET_MEAN, IMAGENET_STD
from hrnet_ray.pose.geometry import box_to_center_scale
from hrnet_ray.pose.heatmaps import encode_heatmaps
from hrnet_ray.reports.dataset.sample_grids import Samples, Tile
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.visualization.drawing import draw_pose, fitted, glow, moved

CROP_PX = 230  # rows of a crop


def augmented_tiles(samples: Samples, recipe: Recipe, *, sigma: float, rounded: bool) -> list[Tile]:
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
    drawn = [
        _crop_and_heatmaps(crop, xy, visible, maps, recipe.skeleton)
        for crop, xy, visible, maps in zip(
            crops_to_look_at(poses),
            poses.crop_xy.double().numpy(),
            poses.visible.numpy(),
            heatmaps.numpy(),
            strict=True,
        )
    ]
    return [Tile(*both) for both in zip(drawn, warp_captions(batch, recipe), strict=True)]


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


def warp_captions(batch: CanvasBatch, recipe: Recipe, *, epoch: int = 0) -> list[str]:
    """Say what chance did to each instance: `#12 mirrored, +17 deg, 1.12x`.

    Turns are counter-clockwise, as seen; a zoom above 1 makes the instance larger.
    """
    center_xy, scale_wh = box_to_center_scale(
        batch.box_xywh, input_hw=recipe.input_hw, padding=recipe.padding
    )
    warps = warps_of(batch, recipe, epoch=epoch)
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
