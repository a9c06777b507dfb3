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

from hrnet_ray.config import AugmentationConfig
from hrnet_ray.pose.augmentation import (
    AffineParams,
    apply_color_jitter,
    flip_keypoints,
    normalize_imagenet,
    sample_affine_params,
    warp_images,
)
from hrnet_ray.pose.geometry import box_to_center_scale, invert_affine, transform_points
from hrnet_ray.skeletons import Skeleton


@dataclass(frozen=True)
class RawTrainBatch:
    """B training rows on the device, before the warp. Points are in image pixels."""

    ids: Int[Tensor, " B"]
    canvases: UInt8[Tensor, "B S S 3"]
    canvas_from_image: Float[Tensor, "B 3 3"]
    box_xywh: Float[Tensor, "B 4"]
    image_xy: Float[Tensor, "B K 2"]
    visible: Bool[Tensor, "B K"]
    loss_weight: float = 1.0
    min_crops_per_rank: int | None = None


@dataclass(frozen=True)
class TrainBatch:
    """What a model learns from. Points are in crop pixels."""

    crops: Float[Tensor, "B 3 H W"]
    crop_xy: Float[Tensor, "B K 2"]
    visible: Bool[Tensor, "B K"]
    loss_weight: float = 1.0
    """Of its loss among the workers' losses, where they share a batch unevenly."""
    min_crops_per_rank: int | None = None
    """Crops of the worker that has the fewest of this batch; by default these."""


@dataclass(frozen=True)
class EvalBatch:
    """B rows to predict on the device: the published crop, nothing random.

    Where the truth is known, it is in image pixels.
    """

    ids: Int[Tensor, " B"]
    crops: UInt8[Tensor, "B H W 3"]
    crop_from_image: Float[Tensor, "B 3 3"]
    image_xy: Float[Tensor, "B K 2"] | None = None
    visible: Bool[Tensor, "B K"] | None = None


@dataclass(frozen=True, kw_only=True)
class AugmentationPipelineConfig:
    """What `augmented` needs to know, the same for every batch of a run."""

    skeleton: Skeleton
    input_hw: tuple[int, int]
    padding: float
    augmentation: AugmentationConfig
    seed: int


def to_raw_train_batch(
    rows: Mapping[str, np.ndarray],
    device: torch.device,
    *,
    loss_weight: float = 1.0,
    min_crops_per_rank: int | None = None,
) -> RawTrainBatch:
    """Move decoded training rows (`data.rows.decode_rows`) to the device."""
    return RawTrainBatch(
        ids=_copy_to_device(rows["id"], device),
        canvases=_copy_to_device(rows["canvas"], device),
        canvas_from_image=_copy_to_device(rows["canvas_from_image"], device).float(),
        box_xywh=_copy_to_device(rows["box_xywh"], device).float(),
        image_xy=_copy_to_device(rows["image_xy"], device).float(),
        visible=_copy_to_device(rows["visible"], device),
        loss_weight=loss_weight,
        min_crops_per_rank=min_crops_per_rank,
    )


def to_eval_batch(
    rows: Mapping[str, np.ndarray], device: torch.device, *, with_ground_truth: bool = False
) -> EvalBatch:
    """Move decoded validation rows (`data.rows.decode_exact`) to the device."""
    return EvalBatch(
        ids=_copy_to_device(rows["id"], device),
        crops=_copy_to_device(rows["crop"], device),
        crop_from_image=_copy_to_device(rows["crop_from_image"], device),
        image_xy=_copy_to_device(rows["image_xy"], device) if with_ground_truth else None,
        visible=_copy_to_device(rows["visible"], device) if with_ground_truth else None,
    )


def augment_batch(batch: RawTrainBatch, pipeline_config: AugmentationPipelineConfig, *, epoch: int) -> TrainBatch:
    """Warp, mirror and colour a batch as this epoch has it."""
    warped = warp_batch(batch, pipeline_config, epoch=epoch)
    crops = apply_color_jitter(
        warped.crops,
        batch.ids,
        seed=pipeline_config.seed,
        epoch=epoch,
        augmentation=pipeline_config.augmentation,
    )
    return TrainBatch(
        normalize_imagenet(crops),
        warped.crop_xy,
        warped.visible,
        batch.loss_weight,
        batch.min_crops_per_rank,
    )


def warp_batch(batch: RawTrainBatch, pipeline_config: AugmentationPipelineConfig, *, epoch: int) -> TrainBatch:
    """The geometry of `augmented`, with crops as a person would see them (0..1)."""
    warps = sample_batch_params(batch, pipeline_config, epoch=epoch)
    to_crop = warps.crop_from_image(crop_hw=pipeline_config.input_hw)
    crop_from_canvas = to_crop @ invert_affine(batch.canvas_from_image)
    crop_xy, visible = flip_keypoints(
        transform_points(to_crop, batch.image_xy),
        batch.visible,
        mirrored=warps.mirrored,
        flip_order=pipeline_config.skeleton.flip_order,
    )
    crops = warp_images(batch.canvases, crop_from_canvas, crop_hw=pipeline_config.input_hw)
    return TrainBatch(crops, crop_xy, visible, batch.loss_weight, batch.min_crops_per_rank)


def sample_batch_params(
    batch: RawTrainBatch, pipeline_config: AugmentationPipelineConfig, *, epoch: int
) -> AffineParams:
    """Draw what this epoch does to each row; the same for every worker that asks."""
    center_xy, scale_wh = box_to_center_scale(
        batch.box_xywh, input_hw=pipeline_config.input_hw, padding=pipeline_config.padding
    )
    return sample_affine_params(
        batch.ids,
        seed=pipeline_config.seed,
        epoch=epoch,
        image_xy=batch.image_xy,
        visible=batch.visible,
        center_xy=center_xy,
        scale_wh=scale_wh,
        upper_body_keypoints=pipeline_config.skeleton.upper_body,
        augmentation=pipeline_config.augmentation,
        input_hw=pipeline_config.input_hw,
    )


def normalize_crops(crops: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """Normalise crops that are already cut."""
    return normalize_imagenet(crops.permute(0, 3, 1, 2).float() / 255)


def _copy_to_device(array: np.ndarray, device: torch.device) -> Tensor:
    # Ray hands out read-only views of its object store; torch wants to own what it wraps.
    owned = array if array.flags.writeable else array.copy()
    here = torch.from_numpy(np.ascontiguousarray(owned))
    if device.type == "cuda":  # a copy from any other memory makes the program wait for the GPU
        here = here.pin_memory()
    return here.to(device, non_blocking=True)
