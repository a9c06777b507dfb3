"""What travels to a device, and what the device makes of it.

Workers receive uint8 canvases and points. The warp, the mirror, the colours and the heatmaps are
made where the model is, from (seed, epoch, row id), so that nothing depends on which worker or in
which order a row was met.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from hrnet_ray.pose.augmentation import (
    Augmentation,
    Warps,
    draw_warps,
    jitter_colour,
    mirror_points,
    normalise,
    warp_canvases,
)
from hrnet_ray.pose.geometry import box_to_center_scale, invert, move
from hrnet_ray.skeletons import Skeleton


@dataclass(frozen=True)
class CanvasBatch:
    """B training rows on the device, before the warp. Points are in image pixels."""

    ids: Int[Tensor, " B"]
    canvases: UInt8[Tensor, "B S S 3"]
    canvas_from_image: Float[Tensor, "B 3 3"]
    box_xywh: Float[Tensor, "B 4"]
    image_xy: Float[Tensor, "B K 2"]
    visible: Bool[Tensor, "B K"]
    weight: float = 1.0
    fewest: int | None = None


@dataclass(frozen=True)
class PoseBatch:
    """What a model learns from. Points are in crop pixels."""

    crops: Float[Tensor, "B 3 H W"]
    crop_xy: Float[Tensor, "B K 2"]
    visible: Bool[Tensor, "B K"]
    weight: float = 1.0
    """Of its loss among the workers' losses, where they share a batch unevenly."""
    fewest: int | None = None
    """Crops of the worker that has the fewest of this batch; by default these."""


@dataclass(frozen=True)
class CropBatch:
    """B rows to predict on the device: the published crop, nothing random.

    Where the truth is known, it is in image pixels.
    """

    ids: Int[Tensor, " B"]
    crops: UInt8[Tensor, "B H W 3"]
    crop_from_image: Float[Tensor, "B 3 3"]
    image_xy: Float[Tensor, "B K 2"] | None = None
    visible: Bool[Tensor, "B K"] | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `augmented` needs to know, the same for every batch of a run."""

    skeleton: Skeleton
    input_hw: tuple[int, int]
    padding: float
    augmentation: Augmentation
    seed: int


def to_canvases(
    rows: Mapping[str, np.ndarray],
    device: torch.device,
    *,
    weight: float = 1.0,
    fewest: int | None = None,
) -> CanvasBatch:
    """Move decoded training rows (`data.rows.decode_rows`) to the device."""
    return CanvasBatch(
        ids=_moved(rows["id"], device),
        canvases=_moved(rows["canvas"], device),
        canvas_from_image=_moved(rows["canvas_from_image"], device).float(),
        box_xywh=_moved(rows["box_xywh"], device).float(),
        image_xy=_moved(rows["image_xy"], device).float(),
        visible=_moved(rows["visible"], device),
        weight=weight,
        fewest=fewest,
    )


def to_crops(
    rows: Mapping[str, np.ndarray], device: torch.device, *, with_truth: bool = False
) -> CropBatch:
    """Move decoded validation rows (`data.rows.decode_exact`) to the device."""
    return CropBatch(
        ids=_moved(rows["id"], device),
        crops=_moved(rows["crop"], device),
        crop_from_image=_moved(rows["crop_from_image"], device),
        image_xy=_moved(rows["image_xy"], device) if with_truth else None,
        visible=_moved(rows["visible"], device) if with_truth else None,
    )


def augmented(batch: CanvasBatch, recipe: Recipe, *, epoch: int) -> PoseBatch:
    """Warp, mirror and colour a batch as this epoch has it."""
    warped = warped_only(batch, recipe, epoch=epoch)
    crops = jitter_colour(
        warped.crops, batch.ids, seed=recipe.seed, epoch=epoch, augmentation=recipe.augmentation
    )
    return PoseBatch(normalise(crops), warped.crop_xy, warped.visible, batch.weight, batch.fewest)


def warped_only(batch: CanvasBatch, recipe: Recipe, *, epoch: int) -> PoseBatch:
    """The geometry of `augmented`, with crops as a person would see them (0..1)."""
    warps = warps_of(batch, recipe, epoch=epoch)
    to_crop = warps.crop_from_image(crop_hw=recipe.input_hw)
    crop_from_canvas = to_crop @ invert(batch.canvas_from_image)
    crop_xy, visible = mirror_points(
        move(to_crop, batch.image_xy),
        batch.visible,
        mirrored=warps.mirrored,
        flip_order=recipe.skeleton.flip_order,
    )
    crops = warp_canvases(batch.canvases, crop_from_canvas, crop_hw=recipe.input_hw)
    return PoseBatch(crops, crop_xy, visible, batch.weight, batch.fewest)


def warps_of(batch: CanvasBatch, recipe: Recipe, *, epoch: int) -> Warps:
    """Draw what this epoch does to each row; the same for every worker that asks."""
    center_xy, scale_wh = box_to_center_scale(
        batch.box_xywh, input_hw=recipe.input_hw, padding=recipe.padding
    )
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


def model_input(crops: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """Normalise crops that are already cut."""
    return normalise(crops.permute(0, 3, 1, 2).float() / 255)


def _moved(array: np.ndarray, device: torch.device) -> Tensor:
    # Ray hands out read-only views of its object store; torch wants to own what it wraps.
    owned = array if array.flags.writeable else array.copy()
    here = torch.from_numpy(np.ascontiguousarray(owned))
    if device.type == "cuda":  # a copy from any other memory makes the program wait for the GPU
        here = here.pin_memory()
    return here.to(device, non_blocking=True)
