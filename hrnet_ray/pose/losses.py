"""Training losses between heatmaps, as published (lib/core/loss.py).

Shapes: B batch, K keypoints, H rows and W columns of a heatmap. A weight multiplies both heatmaps,
so it enters the loss squared. Weights of 0 and 1 are unaffected.
"""

from jaxtyping import Float
from torch import Tensor

OHKM_TOPK = 8
"""Keypoints per instance that `keypoint_ohkm_loss` averages, as published."""


def keypoint_mse_loss(
    predicted: Float[Tensor, "B K H W"],
    target: Float[Tensor, "B K H W"],
    weights: Float[Tensor, "B K"],
) -> Float[Tensor, ""]:
    """Half the mean squared difference over all cells; a keypoint of weight 0 contributes 0.

    mmpose does not halve the mean and does not square the weights, so its loss values differ.
    """
    return _compute_loss_per_keypoint(predicted, target, weights).mean()


def keypoint_ohkm_loss(
    predicted: Float[Tensor, "B K H W"],
    target: Float[Tensor, "B K H W"],
    weights: Float[Tensor, "B K"],
    *,
    topk: int = OHKM_TOPK,
) -> Float[Tensor, ""]:
    """`keypoint_mse_loss` over the `topk` worst keypoints of each instance (online hard keypoint mining)."""
    keypoints = predicted.shape[1]
    if not 1 <= topk <= keypoints:
        raise ValueError(f"topk must be between 1 and the number of keypoints ({keypoints}), got {topk}")
    return _compute_loss_per_keypoint(predicted, target, weights).topk(topk, dim=1).values.mean()


def _compute_loss_per_keypoint(
    predicted: Float[Tensor, "B K H W"],
    target: Float[Tensor, "B K H W"],
    weights: Float[Tensor, "B K"],
) -> Float[Tensor, "B K"]:
    return 0.5 * weights.square() * (predicted - target).square().mean((-2, -1))
