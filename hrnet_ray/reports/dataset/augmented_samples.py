"""Tiles of the dataset report: augmented crops with their pose and target heatmaps."""

import numpy as np
import torch

from hrnet_ray.config import HEATMAP_STRIDE
from hrnet_ray.data.batch import (
    AugmentationPipelineConfig,
    RawTrainBatch,
    TrainBatch,
    augment_batch,
    sample_batch_params,
    to_raw_train_batch,
)
from hrnet_ray.pose.augmentation import IMAGENET_MEAN, IMAGENET_STD
from hrnet_ray.pose.geometry import box_to_center_scale
from hrnet_ray.pose.heatmaps import encode_heatmaps
from hrnet_ray.reports.dataset.sample_grids import ReportTile, SampleBatch
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.visualization.drawing import (
    draw_pose,
    overlay_heatmaps_by_side,
    resize_to_fit,
    transform_points,
)

CROP_HEIGHT_PX = 230
"""Height of a crop on its tile, in pixels."""


def draw_augmented_samples(
    samples: SampleBatch,
    pipeline_config: AugmentationPipelineConfig,
    *,
    sigma: float,
    quantize_center: bool,
) -> list[ReportTile]:
    """Draw each instance as in the first epoch: the crop with its pose, and its target heatmaps."""
    batch = to_raw_train_batch(samples.rows, torch.device("cpu"))
    poses = augment_batch(batch, pipeline_config, epoch=0)
    height, width = pipeline_config.input_hw
    heatmaps, _ = encode_heatmaps(
        poses.crop_xy,
        poses.visible,
        input_hw=pipeline_config.input_hw,
        heatmap_hw=(height // HEATMAP_STRIDE, width // HEATMAP_STRIDE),
        sigma=sigma,
        rounded=quantize_center,
    )
    images = [
        _draw_crop_and_heatmaps(crop, xy, visible, maps, pipeline_config.skeleton)
        for crop, xy, visible, maps in zip(
            convert_crops_to_uint8(poses),
            poses.crop_xy.double().numpy(),
            poses.visible.numpy(),
            heatmaps.numpy(),
            strict=True,
        )
    ]
    return [
        ReportTile(*image_and_caption)
        for image_and_caption in zip(images, describe_augmentation(batch, pipeline_config), strict=True)
    ]


def convert_crops_to_uint8(batch: TrainBatch) -> np.ndarray:
    """Undo the ImageNet normalization and return uint8 [B, H, W, 3]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    crops = (batch.crops * std + mean).clamp(0, 1) * 255
    return crops.round().byte().permute(0, 2, 3, 1).numpy()


def _draw_crop_and_heatmaps(
    crop: np.ndarray,
    crop_xy: np.ndarray,
    visible: np.ndarray,
    heatmaps: np.ndarray,
    skeleton: Skeleton,
) -> np.ndarray:
    size_hw = (CROP_HEIGHT_PX, round(CROP_HEIGHT_PX * crop.shape[1] / crop.shape[0]))
    tile, into = resize_to_fit(crop, size_hw=size_hw)
    posed = draw_pose(tile, transform_points(into, crop_xy), visible, skeleton)
    with_heatmaps, _ = resize_to_fit(overlay_heatmaps_by_side(crop, heatmaps, skeleton), size_hw=size_hw)
    return np.concatenate([posed, with_heatmaps], 1)


def describe_augmentation(
    batch: RawTrainBatch, pipeline_config: AugmentationPipelineConfig, *, epoch: int = 0
) -> list[str]:
    """Describe the sampled augmentation of each instance: `#12 mirrored, +17 deg, 1.12x`.

    Rotations are counter-clockwise on the image; a zoom above 1 makes the instance larger.
    """
    center_xy, scale_wh = box_to_center_scale(
        batch.box_xywh, input_hw=pipeline_config.input_hw, padding=pipeline_config.padding
    )
    warps = sample_batch_params(batch, pipeline_config, epoch=epoch)
    is_half_body = (warps.center_xy != center_xy).any(1).tolist()
    zooms = (scale_wh / warps.scale_wh)[:, 0].tolist()
    parts = zip(
        batch.ids.tolist(),
        warps.mirrored.tolist(),
        warps.rotation_deg.tolist(),
        zooms,
        is_half_body,
        strict=True,
    )
    return [
        f"#{id} {'mirrored, ' if mirrored else ''}{f'{deg:+.0f} deg, ' if deg else ''}{zoom:.2f}x"
        + (", half body" if half else "")
        for id, mirrored, deg, zoom, half in parts
    ]
