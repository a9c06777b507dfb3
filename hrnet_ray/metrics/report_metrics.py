"""Metrics of an evaluation: MPII table, all sets of OKS sigmas, keypoints, curves, bootstrap sums.

`metrics.validation` computes the smaller set that training needs after an epoch, by the same sums.
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
    """Metrics of D poses and N instances."""

    primary_metric: str
    summary: dict[str, float]
    mpii_pckh_table: dict[str, float] | None
    """Table of MPII papers, in percent; None for other skeletons."""
    oks_by_sigma_set: dict[str, dict[str, float]]
    """COCO's ten metrics by the name of the set of OKS sigmas."""
    per_keypoint: dict[str, KeypointMetrics]
    metric_curve: list[tuple[float, float]]
    """PCKh per threshold, or AP per OKS threshold."""
    bootstrap_statistic: Statistic
    """Primary metric as a function of image counts."""
    per_instance_score: np.ndarray
    """float64 [N]: PCKh or OKS; NaN for an instance that has no measure."""
    indices_worst_first: np.ndarray
    """int [M]: measurable instances, lowest score first."""
    nearest_image_xy: np.ndarray
    """float64 [N, K, 2]: the pose compared with each instance; NaN without one."""
    poses: DetectedPoses
    """Poses of the primary metric; for OKS, those that OKS-NMS kept."""
    num_nms_dropped: int
    """Number of poses that OKS-NMS removed."""

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
    """Score poses; with `with_gt_boxes`, pose n belongs to the box of instance n.

    With detected boxes, PCK, EPE and per-keypoint metrics use the pairs that match at OKS 0.5. The
    primary metric is then OKS AP, because PCKh needs a pose for each instance.
    """
    if with_gt_boxes and select_primary_metric(truth) == "PCKh_0.5":
        return _compute_pckh_evaluation(poses, truth, skeleton, num_images)
    is_kept = apply_oks_nms(poses, skeleton.scoring_sigmas, max_oks=nms_oks_threshold)
    scored_poses = poses.select_poses(is_kept)
    matches = match_poses(scored_poses, truth, skeleton.scoring_sigmas, num_images=num_images)
    oks = _compute_oks_by_sigma_set(scored_poses, truth, skeleton)
    summary = _flatten_oks_metrics(oks)
    if with_gt_boxes:
        nearest = np.arange(len(poses))
        compared = MatchedPoses.from_poses(poses, truth, nearest, nearest)
        oks_without_nms = oks if is_kept.all() else _compute_oks_by_sigma_set(poses, truth, skeleton)
        # Validation during training does not apply OKS-NMS: this is the comparable value.
        summary["OKS_AP_without_nms"] = _flatten_oks_metrics(oks_without_nms)["OKS_AP"]
    else:
        compared = MatchedPoses.from_poses(scored_poses, truth, *matches.pose_instance_pairs.T)
        nearest = _find_nearest_poses(scored_poses, truth, skeleton)
        summary["instances_matched"] = float(len(matches.pose_instance_pairs))
    nearest_xy = _gather_keypoints(poses if with_gt_boxes else scored_poses, nearest)
    instance_oks = _compute_instance_oks(nearest_xy, truth, skeleton)
    return EvaluationMetrics(
        primary_metric="OKS_AP",
        summary=summary | compared.compute_box_pck() | {"EPE_px": compared.compute_epe_px()},
        mpii_pckh_table=None,
        oks_by_sigma_set=oks,
        per_keypoint=compared.build_keypoint_metrics(skeleton, compared.compute_keypoint_oks(skeleton)),
        metric_curve=list(zip(OKS_THRESHOLDS.tolist(), compute_average_precision(matches)[0].tolist(), strict=True)),
        bootstrap_statistic=lambda image_counts: float(compute_average_precision(matches, image_counts)[0].mean()),
        per_instance_score=instance_oks,
        indices_worst_first=np.argsort(instance_oks, kind="stable")[: int(np.isfinite(instance_oks).sum())],
        nearest_image_xy=nearest_xy,
        poses=scored_poses,
        num_nms_dropped=int((~is_kept).sum()),
    )


def get_sigma_sets(skeleton: Skeleton) -> dict[str, tuple[float, ...]]:
    """Return all sets of OKS sigmas by name; the first one gives the primary metric."""
    own = "own" if skeleton.oks_sigmas else f"all_{DEFAULT_OKS_SIGMA:g}"
    return {own: skeleton.scoring_sigmas, **skeleton.other_oks_sigmas}


def convert_poses_to_coco_results(poses: DetectedPoses) -> list[dict[str, Any]]:
    """Convert poses to COCO results."""
    points = np.concatenate([poses.image_xy, poses.keypoint_scores[..., None]], -1)
    flat = points.reshape(len(poses), points.shape[1] * 3)
    columns = (poses.image_id, poses.category_id, flat, poses.score)
    lists = [column.tolist() for column in columns]
    names = ("image_id", "category_id", "keypoints", "score")
    return [dict(zip(names, pose, strict=True)) for pose in zip(*lists, strict=True)]


def _compute_oks_by_sigma_set(
    poses: DetectedPoses, truth: GroundTruthColumns, skeleton: Skeleton
) -> dict[str, dict[str, float]]:
    document = to_coco_ground_truth({**truth, "image_id": truth["image_index"]})
    results = convert_poses_to_coco_results(replace(poses, image_id=poses.image_index))
    return {
        name: coco_oks_metrics(document, results, sigmas=sigmas) for name, sigmas in get_sigma_sets(skeleton).items()
    }


def _flatten_oks_metrics(oks_by_sigma_set: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Name the first set OKS_AP, OKS_AP50, ...; append the set's name to AP and AR of others."""
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
    """Compute metrics with PCKh as the primary one; rows without a head size are only counted."""
    all_rows = np.arange(len(poses))
    pairs = MatchedPoses.from_poses(poses, truth, all_rows, all_rows)
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
    hits, visible_counts, error = _count_hits_per_instance(half, *compared)
    with np.errstate(invalid="ignore"):
        instance_pckh = hits / visible_counts
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
            sum_per_image(hits, truth["image_index"], num_images=num_images),
            sum_per_image(visible_counts, truth["image_index"], num_images=num_images),
        ),
        per_instance_score=instance_pckh,
        indices_worst_first=np.lexsort((-error, instance_pckh))[: int(np.isfinite(instance_pckh).sum())],
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
    """Count hits and visible keypoints of each instance, and sum its errors: float64 [N] each.

    Keypoints that are excluded from the mean are left out. The sums of the first two give PCKh.
    """
    counted = visible.clone()
    counted[:, list(pckh_score.excluded_keypoints)] = False
    error = compute_head_normalized_error(predicted_xy, true_xy, head_size)
    hit = (error <= pckh_score.threshold) & counted
    sums = (hit.double(), counted.double(), torch.where(counted, error, 0.0))
    hits, visible_counts, errors = (part.sum(1).numpy() for part in sums)
    return hits, visible_counts, errors


def _find_nearest_poses(poses: DetectedPoses, truth: GroundTruthColumns, skeleton: Skeleton) -> np.ndarray:
    """Find the pose with the highest OKS for each instance, -1 without one: int [N]."""
    order = np.argsort(poses.image_index, kind="stable")
    starts = np.searchsorted(poses.image_index[order], truth["image_index"])
    ends = np.searchsorted(poses.image_index[order], truth["image_index"], side="right")
    nearest = np.full(len(truth["id"]), -1)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        near = order[start:end]
        near = near[poses.category_id[near] == truth["category_id"][row]]
        if len(near):
            oks = compute_oks_matrix(poses.image_xy[near], truth, np.array([row]), skeleton.scoring_sigmas)
            nearest[row] = near[oks.argmax()]
    return nearest


def _gather_keypoints(poses: DetectedPoses, pose_indices: np.ndarray) -> np.ndarray:
    """Gather keypoints by pose index, NaN for index -1: float64 [N, K, 2]."""
    missing = np.full((1, *poses.image_xy.shape[1:]), np.nan)
    return np.append(poses.image_xy, missing, 0)[pose_indices]  # -1 is the last entry


def _compute_instance_oks(nearest_image_xy: np.ndarray, truth: GroundTruthColumns, skeleton: Skeleton) -> np.ndarray:
    """Compute the OKS of each instance, 0 without a pose, NaN without a visible keypoint."""
    oks = [
        compute_oks_matrix(xy[None], truth, np.array([row]), skeleton.scoring_sigmas).item()
        for row, xy in enumerate(nearest_image_xy)
    ]
    measured = truth["visible"].any(axis=1)
    return np.where(measured, np.nan_to_num(np.array(oks), nan=0.0), np.nan)
