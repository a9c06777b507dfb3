"""What training makes small: the published losses between heatmaps (lib/core/loss.py).

Shapes: B batch, K keypoints, H and W heatmap rows and columns. A weight multiplies both maps, so it
counts squared; for weights of 0 and 1 that changes nothing.
"""

from jaxtyping import Float
from torch import Tensor

OHKM_TOPK = 8
"""Keypoints of an image that `joints_ohkm` counts, as published."""


def keypoint_mse_loss(
    predicted: Float[Tensor, "B K H W"],
    target: Float[Tensor, "B K H W"],
    weights: Float[Tensor, "B K"],
) -> Float[Tensor, ""]:
    """Half the mean squared difference over all cells, hidden keypoints counted as no difference.

    mmpose leaves out the half and does not square the weights; compare loss curves with that in
    mind.
    """
    return _compute_loss_per_keypoint(predicted, target, weights).mean()


def keypoint_ohkm_loss(
    predicted: Float[Tensor, "B K H W"],
    target: Float[Tensor, "B K H W"],
    weights: Float[Tensor, "B K"],
    *,
    topk: int = OHKM_TOPK,
) -> Float[Tensor, ""]:
    """`joints_mse` over each picture's `topk` worst keypoints (online hard keypoint mining)."""
    keypoints = predicted.shape[1]
    if not 1 <= topk <= keypoints:
        raise ValueError(f"topk must lie between 1 and the {keypoints} keypoints, got {topk}")
    return _compute_loss_per_keypoint(predicted, target, weights).topk(topk, dim=1).values.mean()


def _compute_loss_per_keypoint(
    predicted: Float[Tensor, "B K H W"],
    target: Float[Tensor, "B K H W"],
    weights: Float[Tensor, "B K"],
) -> Float[Tensor, "B K"]:
    return 0.5 * weights.square() * (predicted - target).square().mean((-2, -1))
