"""Poses beside the instances that they are compared with: PCK, EPE, and keypoint by keypoint."""

from dataclasses import dataclass

import numpy as np
import torch

from hrnet_ray.metrics.keypoint_metrics import auc, epe, oks_per_keypoint, pckh_curve
from hrnet_ray.metrics.oks import Poses, Truth
from hrnet_ray.skeletons import Skeleton

PCK_THRESHOLDS = (0.05, 0.2)
PCK_CURVE = tuple(step / 100 for step in range(21))
"""PCK measures by the longer side of the true box: for animals, which have no head size."""


@dataclass(frozen=True)
class KeypointScore:
    """How well one keypoint is found."""

    value: float
    """PCKh at 0.5, or OKS."""
    epe_px: float
    count: int
    """Visible ones that were compared."""


@dataclass(frozen=True)
class Pairs:
    """M poses beside the instances that they are compared with."""

    predicted: torch.Tensor
    true_xy: torch.Tensor
    visible: torch.Tensor
    area: torch.Tensor
    box_side: torch.Tensor

    @classmethod
    def of(cls, poses: Poses, truth: Truth, pose: np.ndarray, instance: np.ndarray) -> "Pairs":
        return cls(
            torch.from_numpy(poses.image_xy[pose]),
            torch.from_numpy(truth["image_xy"][instance]),
            torch.from_numpy(truth["visible"][instance]),
            torch.from_numpy(truth["area"][instance]).clamp(min=1.0),
            torch.from_numpy(truth["box_xywh"][instance, 2:].max(-1)).clamp(min=1.0),
        )

    def epe_px(self) -> float:
        return epe(self.predicted, self.true_xy, self.visible).mean()

    def oks(self, skeleton: Skeleton) -> torch.Tensor:
        sigmas = skeleton.scoring_sigmas
        return oks_per_keypoint(
            self.predicted, self.true_xy, self.visible, self.area, sigmas=sigmas
        ).per_keypoint()

    def keypoints(self, skeleton: Skeleton, values: torch.Tensor) -> dict[str, KeypointScore]:
        error = epe(self.predicted, self.true_xy, self.visible)
        columns = (values, error.per_keypoint(), error.seen)
        scores = zip(*(column.tolist() for column in columns), strict=True)
        return {
            name: KeypointScore(value, px, int(count))
            for name, (value, px, count) in zip(skeleton.keypoints, scores, strict=True)
        }

    def in_boxes(self) -> dict[str, float]:
        """PCK by the longer side of the box: two thresholds, and the area up to 0.2."""
        poses = (self.predicted, self.true_xy, self.visible, self.box_side)
        curve = pckh_curve(*poses, thresholds=PCK_CURVE, left_out=())
        shares = {f"PCK_{t:g}": curve[round(100 * t)].mean() for t in PCK_THRESHOLDS}
        return {**shares, "PCK_AUC_0.2": auc(curve)}
