"""Everything that an evaluation says about poses, from one pass over them.

`learning.scores` says what a training needs after an epoch; here is what a paper prints, by the
same sums: the published table, every set of sigmas, each keypoint, and what an interval needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hrnet_ray.metrics.bootstrap import Statistic, make_ratio_statistic, sum_per_image
from hrnet_ray.metrics.keypoint_metrics import (
    PCKh,
    coco_oks_metrics,
    compute_head_normalized_error,
    compute_pckh_auc,
    compute_pckh_curve,
    pckh,
)
from hrnet_ray.metrics.matched_pairs import KeypointMetrics, MatchedPoses
from hrnet_ray.metrics.oks import (
    NMS_OKS_THRESHOLD,
    OKS_THRESHOLDS,
    DetectedPoses,
    GroundTruthColumns,
    apply_oks_nms,
    compute_average_precision,
    compute_oks_matrix,
    match_poses,
)
from hrnet_ray.metrics.pckh_table import compute_mpii_pckh_table
from hrnet_ray.metrics.validation import (
    PCKH_THRESHOLDS,
    select_primary_metric,
    to_coco_ground_truth,
)
from hrnet_ray.skeletons import DEFAULT_OKS_SIGMA, Skeleton


@dataclass(frozen=True, kw_only=True)
class EvaluationMetrics:
    """What was found, and all that is said about it. N instances, D poses."""

    primary_metric: str
    summary: dict[str, float]
    mpii_pckh_table: dict[str, float] | None
    """The table of MPII papers, in percent."""
    oks_by_sigma_set: dict[str, dict[str, float]]
    """COCO's ten figures by the name of the sigmas."""
    per_keypoint: dict[str, KeypointMetrics]
    metric_curve: list[tuple[float, float]]
    """PCKh at each threshold, or AP at each OKS."""
    bootstrap_statistic: Statistic
    """The main figure of a set in which pictures count several times, or not at all."""
    per_instance_score: np.ndarray
    """float64 [N]: PCKh or OKS; NaN where it cannot be measured."""
    indices_worst_first: np.ndarray
    """int [K]: the instances that can be measured, the worst first."""
    nearest_image_xy: np.ndarray
    """float64 [N, K, 2]: the pose that each instance is compared with; NaN where there is none."""
    poses: DetectedPoses
    """Those that the main figure is made of: for OKS, without what OKS-NMS took for repeated."""
    num_nms_dropped: int
    """Poses that OKS-NMS took for repeated."""

    @property
    def primary_value(self) -> float:
        return self.summary[self.primary_metric]


def compute_evaluation_metrics(
    poses: DetectedPoses,
    truth: GroundTruthColumns,
    skeleton: Skeleton,
    *,
    num_images: int,
    with_gt_boxes: bool,
    nms_oks_threshold: float = NMS_OKS_THRESHOLD,
) -> EvaluationMetrics:
    """Score poses; with `true_boxes`, pose n was looked for in the box of instance n.

    Figures that need a pose for each instance (PCK, EPE, per keypoint) take, with a detector's
    boxes, the pairs that match at OKS 0.5. PCKh has no meaning there: OKS decides.
    """
    if with_gt_boxes and select_primary_metric(truth) == "PCKh_0.5":
        return _compute_pckh_evaluation(poses, truth, skeleton, num_images)
    stays = apply_oks_nms(poses, skeleton.scoring_sigmas, max_oks=nms_oks_threshold)
    kept = poses.select_poses(stays)
    matches = match_poses(kept, truth, skeleton.scoring_sigmas, num_images=num_images)
    oks = _compute_oks_by_sigma_set(kept, truth, skeleton)
    summary = _flatten_oks_metrics(oks)
    if with_gt_boxes:
        everything = np.arange(len(poses))
        compared, nearest = (
            MatchedPoses.from_poses(poses, truth, everything, everything),
            everything,
        )
        all_of_them = oks if stays.all() else _compute_oks_by_sigma_set(poses, truth, skeleton)
        summary["OKS_AP_without_nms"] = _flatten_oks_metrics(all_of_them)[
            "OKS_AP"
        ]  # what a training reports
    else:
        compared = MatchedPoses.from_poses(kept, truth, *matches.pose_instance_pairs.T)
        nearest = _find_nearest_poses(kept, truth, skeleton)
        summary["instances_matched"] = float(len(matches.pose_instance_pairs))
    nearest_xy = _gather_keypoints(poses if with_gt_boxes else kept, nearest)
    alike = _compute_instance_oks(nearest_xy, truth, skeleton)
    return EvaluationMetrics(
        primary_metric="OKS_AP",
        summary=summary | compared.compute_box_pck() | {"EPE_px": compared.compute_epe_px()},
        mpii_pckh_table=None,
        oks_by_sigma_set=oks,
        per_keypoint=compared.build_keypoint_metrics(
            skeleton, compared.compute_keypoint_oks(skeleton)
        ),
        metric_curve=list(
            zip(
                OKS_THRESHOLDS.tolist(), compute_average_precision(matches)[0].tolist(), strict=True
            )
        ),
        bootstrap_statistic=lambda times: float(
            compute_average_precision(matches, times)[0].mean()
        ),
        per_instance_score=alike,
        indices_worst_first=np.argsort(alike, kind="stable")[: int(np.isfinite(alike).sum())],
        nearest_image_xy=nearest_xy,
        poses=kept,
        num_nms_dropped=int((~stays).sum()),
    )


def get_sigma_sets(skeleton: Skeleton) -> dict[str, tuple[float, ...]]:
    """Every set of OKS sigmas by its name; the first one decides."""
    own = "own" if skeleton.oks_sigmas else f"all_{DEFAULT_OKS_SIGMA:g}"
    return {own: skeleton.scoring_sigmas, **skeleton.other_oks_sigmas}


def convert_poses_to_coco_results(poses: DetectedPoses) -> list[dict[str, Any]]:
    """Poses in COCO's results form."""
    points = np.concatenate([poses.image_xy, poses.keypoint_scores[..., None]], -1)
    flat = points.reshape(len(poses), points.shape[1] * 3)
    columns = (poses.image_id, poses.category_id, flat, poses.score)
    lists = [column.tolist() for column in columns]
    names = ("image_id", "category_id", "keypoints", "score")
    return [dict(zip(names, pose, strict=True)) for pose in zip(*lists, strict=True)]


def _compute_oks_by_sigma_set(
    poses: DetectedPoses, truth: GroundTruthColumns, skeleton: Skeleton
) -> dict[str, dict[str, float]]:
    document = to_coco_ground_truth({**truth, "image_id": truth["picture"]})
    results = convert_poses_to_coco_results(replace(poses, image_id=poses.image_index))
    return {
        name: coco_oks_metrics(document, results, sigmas=sigmas)
        for name, sigmas in get_sigma_sets(skeleton).items()
    }


def _flatten_oks_metrics(oks_by_sigma_set: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The first set as OKS_AP, OKS_AP50...; AP and AR of the others with their name behind."""
    flat: dict[str, float] = {}
    for at, (name, figures) in enumerate(oks_by_sigma_set.items()):
        for figure, value in figures.items():
            if at == 0:
                flat[f"OKS_{figure}"] = value
            elif figure in ("AP", "AR"):
                flat[f"OKS_{figure}_{name}"] = value
    return flat


def _compute_pckh_evaluation(
    poses: DetectedPoses, truth: GroundTruthColumns, skeleton: Skeleton, num_images: int
) -> EvaluationMetrics:
    """PCKh decides; rows without a head are counted, not scored."""
    everything = np.arange(len(poses))
    pairs = MatchedPoses.from_poses(poses, truth, everything, everything)
    measured = torch.from_numpy(np.isfinite(truth["head_size"]))
    head = torch.from_numpy(np.nan_to_num(truth["head_size"], nan=1.0))
    compared = (
        pairs.predicted_image_xy,
        pairs.true_image_xy,
        pairs.visible & measured[:, None],
        head,
    )
    parts = {name: pckh(*compared, threshold=t) for name, t in PCKH_THRESHOLDS.items()}
    half, curve = parts["PCKh_0.5"], compute_pckh_curve(*compared)
    hits, seen, error = _count_hits_per_instance(half, *compared)
    with np.errstate(invalid="ignore"):
        share = hits / seen
    oks = _compute_oks_by_sigma_set(poses, truth, skeleton) if skeleton.oks_sigmas else {}
    return EvaluationMetrics(
        primary_metric="PCKh_0.5",
        summary={
            **{name: part.mean() for name, part in parts.items()},
            "PCKh_AUC": compute_pckh_auc(curve),
            **_flatten_oks_metrics(oks),
            **pairs.compute_box_pck(),
            "EPE_px": pairs.compute_epe_px(),
            "rows_without_head": float((~measured).sum()),
        },
        mpii_pckh_table=compute_mpii_pckh_table(half, parts["PCKh_0.11_legacy"], skeleton),
        oks_by_sigma_set=oks,
        per_keypoint=pairs.build_keypoint_metrics(skeleton, half.per_keypoint()),
        metric_curve=[(part.threshold, part.mean()) for part in curve],
        bootstrap_statistic=make_ratio_statistic(
            sum_per_image(hits, truth["picture"], num_images=num_images),
            sum_per_image(seen, truth["picture"], num_images=num_images),
        ),
        per_instance_score=share,
        indices_worst_first=np.lexsort((-error, share))[: int(np.isfinite(share).sum())],
        nearest_image_xy=poses.image_xy,
        poses=poses,
        num_nms_dropped=0,
    )


def _count_hits_per_instance(
    pckh_score: PCKh,
    predicted_xy: torch.Tensor,
    true_xy: torch.Tensor,
    visible: torch.Tensor,
    head_size: torch.Tensor,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints of the mean that are within the threshold, all of them, and their summed error.

    float64 [N] each; the first two are what `score` adds up.
    """
    counted = visible.clone()
    counted[:, list(pckh_score.excluded_keypoints)] = False
    error = compute_head_normalized_error(predicted_xy, true_xy, head_size)
    near = (error <= pckh_score.threshold) & counted
    sums = (near.double(), counted.double(), torch.where(counted, error, 0.0))
    hits, seen, errors = (part.sum(1).numpy() for part in sums)
    return hits, seen, errors


def _find_nearest_poses(
    poses: DetectedPoses, truth: GroundTruthColumns, skeleton: Skeleton
) -> np.ndarray:
    """The pose of its picture and kind that is most like each instance, -1 for none: int [N]."""
    order = np.argsort(poses.image_index, kind="stable")
    starts = np.searchsorted(poses.image_index[order], truth["picture"])
    ends = np.searchsorted(poses.image_index[order], truth["picture"], side="right")
    nearest = np.full(len(truth["id"]), -1)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        there = order[start:end]
        there = there[poses.category_id[there] == truth["category_id"][row]]
        if len(there):
            one = np.array([row])
            alike = compute_oks_matrix(poses.image_xy[there], truth, one, skeleton.scoring_sigmas)
            nearest[row] = there[alike.argmax()]
    return nearest


def _gather_keypoints(poses: DetectedPoses, pose_indices: np.ndarray) -> np.ndarray:
    """Keypoints of some poses, NaN for the number -1: float64 [N, K, 2]."""
    nothing = np.full((1, *poses.image_xy.shape[1:]), np.nan)
    return np.append(poses.image_xy, nothing, 0)[pose_indices]  # -1 is the last one


def _compute_instance_oks(
    nearest_image_xy: np.ndarray, truth: GroundTruthColumns, skeleton: Skeleton
) -> np.ndarray:
    """OKS of each instance with its pose, 0 without one; NaN without a visible keypoint."""
    alike = [
        compute_oks_matrix(xy[None], truth, np.array([row]), skeleton.scoring_sigmas).item()
        for row, xy in enumerate(nearest_image_xy)
    ]
    measured = truth["visible"].any(axis=1)
    return np.where(measured, np.nan_to_num(np.array(alike), nan=0.0), np.nan)
