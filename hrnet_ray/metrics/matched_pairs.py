"""PCK, EPE and per-keypoint metrics of poses that are matched to instances."""

from dataclasses import dataclass

import numpy as np
import torch

from hrnet_ray.metrics.keypoint_metrics import (
    compute_endpoint_error,
    compute_oks_per_keypoint,
    compute_pckh_auc,
    compute_pckh_curve,
)
from hrnet_ray.metrics.oks import DetectedPoses, GroundTruthColumns
from hrnet_ray.skeletons import Skeleton

PCK_THRESHOLDS = (0.05, 0.2)
PCK_CURVE_THRESHOLDS = tuple(step / 100 for step in range(21))
"""Thresholds as fractions of the true box's longer side, for animals without a head size."""


@dataclass(frozen=True)
class KeypointMetrics:
    """Metrics of one keypoint."""

    score: float
    """PCKh at 0.5, or mean OKS."""
    epe_px: float
    visible_count: int
    """Number of visible keypoints that were compared."""


@dataclass(frozen=True)
class MatchedPoses:
    """M predicted poses with their matched instances."""

    predicted_image_xy: torch.Tensor
    true_image_xy: torch.Tensor
    visible: torch.Tensor
    area: torch.Tensor
    box_long_side_px: torch.Tensor

    @classmethod
    def from_poses(
        cls,
        poses: DetectedPoses,
        truth: GroundTruthColumns,
        pose_indices: np.ndarray,
        instance_indices: np.ndarray,
    ) -> "MatchedPoses":
        return cls(
            torch.from_numpy(poses.image_xy[pose_indices]),
            torch.from_numpy(truth["image_xy"][instance_indices]),
            torch.from_numpy(truth["visible"][instance_indices]),
            torch.from_numpy(truth["area"][instance_indices]).clamp(min=1.0),
            torch.from_numpy(truth["box_xywh"][instance_indices, 2:].max(-1)).clamp(min=1.0),
        )

    def compute_epe_px(self) -> float:
        return compute_endpoint_error(self.predicted_image_xy, self.true_image_xy, self.visible).mean()

    def compute_keypoint_oks(self, skeleton: Skeleton) -> torch.Tensor:
        sigmas = skeleton.scoring_sigmas
        return compute_oks_per_keypoint(
            self.predicted_image_xy, self.true_image_xy, self.visible, self.area, sigmas=sigmas
        ).per_keypoint()

    def build_keypoint_metrics(self, skeleton: Skeleton, values: torch.Tensor) -> dict[str, KeypointMetrics]:
        error = compute_endpoint_error(self.predicted_image_xy, self.true_image_xy, self.visible)
        columns = (values, error.per_keypoint(), error.visible_count)
        scores = zip(*(column.tolist() for column in columns), strict=True)
        return {
            name: KeypointMetrics(value, px, int(count))
            for name, (value, px, count) in zip(skeleton.keypoints, scores, strict=True)
        }

    def compute_box_pck(self) -> dict[str, float]:
        """Compute PCK by the box's longer side at two thresholds, and its AUC up to 0.2."""
        poses = (self.predicted_image_xy, self.true_image_xy, self.visible, self.box_long_side_px)
        curve = compute_pckh_curve(*poses, thresholds=PCK_CURVE_THRESHOLDS, excluded_keypoints=())
        pck = {f"PCK_{t:g}": curve[round(100 * t)].mean() for t in PCK_THRESHOLDS}
        return {**pck, "PCK_AUC_0.2": compute_pckh_auc(curve)}
