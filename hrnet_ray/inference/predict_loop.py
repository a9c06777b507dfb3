"""Batches of crops to keypoints, with or without a flip test."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hrnet_ray.data.batch import CropBatch, model_input
from hrnet_ray.metrics.predictions import Predictions
from hrnet_ray.pose.geometry import invert, move
from hrnet_ray.pose.heatmaps import decode_heatmaps, merge_flipped
from hrnet_ray.pose.targets import LOSSES, Target, encode_targets


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How heatmaps become keypoints."""

    method: str
    flip_order: tuple[int, ...] | None
    """Average with the mirrored crop's prediction; None for one forward pass only."""
    shift: bool
    stride: int
    sigma: float
    """The heatmaps' own, which DARK's blur must match."""


@torch.inference_mode()
def predict(
    model: nn.Module,
    batches: Iterable[CropBatch],
    *,
    decoding: Decoding,
    bf16: bool = False,
    target: Target | None = None,
) -> Predictions:
    """Predict the keypoints of every row, in original image pixels, on the CPU.

    With a `target`, each row has its loss, as published: of the heatmaps that are decoded. The
    batches must know the truth then.
    """
    return Predictions.joined(
        [_predict_batch(model, batch, target, decoding=decoding, bf16=bf16) for batch in batches]
    )


def _predict_batch(
    model: nn.Module, batch: CropBatch, target: Target | None, *, decoding: Decoding, bf16: bool
) -> Predictions:
    heatmaps = predict_heatmaps(model, batch.crops, decoding=decoding, bf16=bf16)
    heatmap_xy, scores = decode_heatmaps(
        heatmaps, method=decoding.method, kernel=dark_kernel(decoding.sigma)
    )
    image_from_crop = invert(batch.crop_from_image).to(heatmap_xy.dtype)
    image_xy = move(image_from_crop, heatmap_xy * decoding.stride)
    losses = _row_losses(heatmaps, batch, target).cpu() if target else None
    return Predictions(batch.ids.cpu(), image_xy.cpu(), scores.cpu(), losses)


def _row_losses(
    heatmaps: Float[Tensor, "B K h w"], batch: CropBatch, target: Target
) -> Float[Tensor, " B"]:
    assert batch.image_xy is not None
    assert batch.visible is not None
    crop_xy = move(batch.crop_from_image, batch.image_xy).float()
    wanted, weights = encode_targets(crop_xy, batch.visible, target)
    rows = zip(*(column.split(1) for column in (heatmaps, wanted, weights)), strict=True)
    return torch.stack([LOSSES[target.loss](*row) for row in rows])


def dark_kernel(sigma: float) -> int:
    """DarkPose blurs with a kernel that fits its targets: 11 cells for sigma 2, 17 for sigma 3."""
    return max(3, 2 * round(3 * sigma - 1) + 1)


@torch.inference_mode()
def predict_heatmaps(
    model: nn.Module, crops: UInt8[Tensor, "B H W 3"], *, decoding: Decoding, bf16: bool = False
) -> Float[Tensor, "B K h w"]:
    """The heatmaps that `predict` decodes: with a flip test, those of both sides."""
    model.eval()
    crops = model_input(crops).contiguous(memory_format=torch.channels_last)
    with torch.autocast(crops.device.type, torch.bfloat16, enabled=bf16):
        upright = model(crops).float()
        if decoding.flip_order is None:
            return upright
        mirrored = model(crops.flip(-1)).float()
    return merge_flipped(upright, mirrored, flip_order=decoding.flip_order, shift=decoding.shift)
