"""Batches of crops to keypoints, with or without a flip test."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hrnet_ray.config import HEATMAP_STRIDE
from hrnet_ray.data.batch import EvalBatch, normalize_crops
from hrnet_ray.metrics.predictions import KeypointPredictions
from hrnet_ray.pose.geometry import invert_affine, transform_points
from hrnet_ray.pose.heatmaps import average_flipped_heatmaps, decode_heatmaps
from hrnet_ray.pose.targets import LOSS_FUNCTIONS, HeatmapTargetConfig, encode_targets


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How heatmaps become keypoints."""

    method: str
    flip_order: tuple[int, ...] | None
    """Average with the mirrored crop's prediction; None for one forward pass only."""
    shift_heatmap: bool
    sigma: float
    """The heatmaps' own, which DARK's blur must match."""


@torch.inference_mode()
def predict_batches(
    model: nn.Module,
    batches: Iterable[EvalBatch],
    *,
    decoding: DecodeConfig,
    bf16: bool = False,
    target: HeatmapTargetConfig | None = None,
) -> KeypointPredictions:
    """Predict the keypoints of every row, in original image pixels, on the CPU.

    With a `target`, each row has its loss, as published: of the heatmaps that are decoded. The
    batches must know the truth then.
    """
    return KeypointPredictions.concat_parts(
        [_predict_batch(model, batch, target, decoding=decoding, bf16=bf16) for batch in batches]
    )


def _predict_batch(
    model: nn.Module,
    batch: EvalBatch,
    target: HeatmapTargetConfig | None,
    *,
    decoding: DecodeConfig,
    bf16: bool,
) -> KeypointPredictions:
    heatmaps = predict_heatmaps(model, batch.crops, decoding=decoding, bf16=bf16)
    heatmap_xy, scores = decode_heatmaps(
        heatmaps, method=decoding.method, kernel_size=compute_dark_kernel_size(decoding.sigma)
    )
    image_from_crop = invert_affine(batch.crop_from_image).to(heatmap_xy.dtype)
    image_xy = transform_points(image_from_crop, heatmap_xy * HEATMAP_STRIDE)
    losses = _compute_row_losses(heatmaps, batch, target).cpu() if target else None
    return KeypointPredictions(batch.ids.cpu(), image_xy.cpu(), scores.cpu(), losses)


def _compute_row_losses(
    heatmaps: Float[Tensor, "B K h w"], batch: EvalBatch, target: HeatmapTargetConfig
) -> Float[Tensor, " B"]:
    assert batch.image_xy is not None
    assert batch.visible is not None
    crop_xy = transform_points(batch.crop_from_image, batch.image_xy).float()
    wanted, weights = encode_targets(crop_xy, batch.visible, target)
    rows = zip(*(column.split(1) for column in (heatmaps, wanted, weights)), strict=True)
    return torch.stack([LOSS_FUNCTIONS[target.loss](*row) for row in rows])


def compute_dark_kernel_size(sigma: float) -> int:
    """DarkPose blurs with a kernel that fits its targets: 11 cells for sigma 2, 17 for sigma 3."""
    return max(3, 2 * round(3 * sigma - 1) + 1)


@torch.inference_mode()
def predict_heatmaps(
    model: nn.Module, crops: UInt8[Tensor, "B H W 3"], *, decoding: DecodeConfig, bf16: bool = False
) -> Float[Tensor, "B K h w"]:
    """The heatmaps that `predict` decodes: with a flip test, those of both sides."""
    model.eval()
    crops = normalize_crops(crops).contiguous(memory_format=torch.channels_last)
    with torch.autocast(crops.device.type, torch.bfloat16, enabled=bf16):
        upright = model(crops).float()
        if decoding.flip_order is None:
            return upright
        mirrored = model(crops.flip(-1)).float()
    return average_flipped_heatmaps(upright, mirrored, flip_order=decoding.flip_order, shift=decoding.shift_heatmap)
