"""Validation metrics of a run, from predictions and labels.

Each labelled row must be predicted exactly once. Metrics are computed once from all rows, so they
do not depend on the number of workers.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from hrnet_ray.errors import DataError, format_list
from hrnet_ray.metrics.keypoint_metrics import (
    coco_oks_metrics,
    compute_ap_per_oks_threshold,
    compute_endpoint_error,
    compute_oks_per_keypoint,
    compute_pckh_curve,
    pckh,
)
from hrnet_ray.metrics.predictions import KeypointPredictions, compute_pose_scores
from hrnet_ray.skeletons import Skeleton

PCKH_THRESHOLDS = {"PCKh_0.5": 0.5, "PCKh_0.1": 0.1, "PCKh_0.11_legacy": 0.11}
"""PCKh thresholds by metric name. Published code computes "Mean@0.1" at 0.11."""


@dataclass(frozen=True)
class ValidationMetrics:
    """Metrics by name and by keypoint; `primary_metric` names the objective of tuning."""

    primary_metric: str
    summary: dict[str, float]
    per_keypoint: dict[str, float]

    @property
    def primary_value(self) -> float:
        """Value that selects the best model."""
        return self.summary[self.primary_metric]


def select_primary_metric(truth: Mapping[str, np.ndarray]) -> str:
    """Select PCKh if the dataset has head sizes (MPII), else OKS AP."""
    return "PCKh_0.5" if np.isfinite(truth["head_size"]).any() else "OKS_AP"


def compute_validation_metrics(
    predictions: KeypointPredictions, truth: Mapping[str, np.ndarray], skeleton: Skeleton
) -> ValidationMetrics:
    """Score predictions against the label columns (`data.records`) of the same rows.

    Raises:
        DataError: a row is predicted twice or not at all, or is unknown.
    """
    predictions, truth = match_rows_by_id(predictions, truth)
    primary_metric = select_primary_metric(truth)
    if primary_metric == "PCKh_0.5":
        summary, per_keypoint = _compute_pckh_summary(predictions, truth)
    else:
        summary, per_keypoint = _compute_oks_summary(predictions, truth, skeleton)
    predicted, true_xy, visible = _get_keypoint_tensors(predictions, truth)
    summary["EPE_px"] = float(compute_endpoint_error(predicted, true_xy, visible).mean())
    return ValidationMetrics(primary_metric, summary, dict(zip(skeleton.keypoints, per_keypoint, strict=True)))


def match_rows_by_id(
    predictions: KeypointPredictions, truth: Mapping[str, np.ndarray]
) -> tuple[KeypointPredictions, dict[str, np.ndarray]]:
    """Sort predictions and labels by row id, so that entry n of both is the same row.

    Raises:
        DataError: a row is predicted twice or not at all, or is unknown.
    """
    order = np.argsort(truth["id"], kind="stable")
    ordered = {name: column[order] for name, column in truth.items()}
    predictions = KeypointPredictions.concat_parts([predictions])
    _require_each_row_once(predictions.ids.numpy(), ordered["id"])
    return predictions, ordered


def compute_normalized_errors(
    predictions: KeypointPredictions, truth: Mapping[str, np.ndarray]
) -> Float[np.ndarray, " N"]:
    """Compute the mean keypoint distance of each instance of matched rows, divided by its size.

    The size is the head size if known, else the square root of the area. The error is 0 without a
    visible keypoint.
    """
    predicted, true_xy, visible = _get_keypoint_tensors(predictions, truth)
    distance = (predicted - true_xy).square().sum(-1).sqrt()
    size = np.where(np.isfinite(truth["head_size"]), truth["head_size"], np.sqrt(truth["area"].clip(min=1)))
    mean = (distance * visible).sum(-1) / visible.sum(-1).clamp(min=1)
    return mean.numpy() / size


def compute_metric_curve(
    predictions: KeypointPredictions, truth: Mapping[str, np.ndarray], skeleton: Skeleton
) -> list[tuple[float, float]]:
    """Compute the curve of the primary metric: PCKh per threshold, or AP per OKS threshold."""
    predictions, truth = match_rows_by_id(predictions, truth)
    if select_primary_metric(truth) == "PCKh_0.5":
        parts = compute_pckh_curve(*_prepare_pckh_inputs(predictions, truth))
        return [(part.threshold, part.mean()) for part in parts]
    document, results = to_coco_ground_truth(truth), to_coco_results(predictions, truth)
    return compute_ap_per_oks_threshold(document, results, sigmas=skeleton.scoring_sigmas)


def to_coco_results(predictions: KeypointPredictions, truth: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Convert predictions to COCO results; the score is the mean of the confident keypoints."""
    image_of = dict(zip(truth["id"].tolist(), truth["image_id"].tolist(), strict=True))
    category_of = dict(zip(truth["id"].tolist(), truth["category_id"].tolist(), strict=True))
    points = torch.cat([predictions.image_xy, predictions.scores[..., None]], dim=-1)
    return [
        {
            "image_id": image_of[row],
            "category_id": category_of[row],
            "keypoints": xys,
            "score": instance_score,
        }
        for row, xys, instance_score in zip(
            predictions.ids.tolist(),
            points.double().flatten(1).tolist(),
            compute_pose_scores(predictions).double().tolist(),
            strict=True,
        )
    ]


def to_coco_ground_truth(truth: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert label columns to a COCO document."""
    xyv = np.concatenate([truth["image_xy"], 2.0 * truth["visible"][..., None]], axis=-1)
    return {
        "images": [{"id": int(image)} for image in np.unique(truth["image_id"])],
        "categories": [{"id": int(category)} for category in np.unique(truth["category_id"])],
        "annotations": [
            {
                "id": int(truth["id"][at]),
                "image_id": int(truth["image_id"][at]),
                "category_id": int(truth["category_id"][at]),
                "bbox": truth["box_xywh"][at].tolist(),
                "area": float(truth["area"][at]),
                "iscrowd": 0,
                "keypoints": xyv[at].ravel().tolist(),
                "num_keypoints": int(truth["visible"][at].sum()),
            }
            for at in range(len(truth["id"]))
        ],
    }


def _compute_pckh_summary(
    predictions: KeypointPredictions, truth: Mapping[str, np.ndarray]
) -> tuple[dict[str, float], list[float]]:
    inputs = _prepare_pckh_inputs(predictions, truth)
    parts = {name: pckh(*inputs, threshold=threshold) for name, threshold in PCKH_THRESHOLDS.items()}
    summary = {name: float(part.mean()) for name, part in parts.items()}
    summary["rows_without_head"] = float((~np.isfinite(truth["head_size"])).sum())
    return summary, parts["PCKh_0.5"].per_keypoint().tolist()


def _prepare_pckh_inputs(
    predictions: KeypointPredictions, truth: Mapping[str, np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Build the inputs of PCKh; rows without a head size become invisible."""
    predicted, true_xy, visible = _get_keypoint_tensors(predictions, truth)
    head_size = torch.from_numpy(truth["head_size"])
    measured = head_size.isfinite()
    return predicted, true_xy, visible & measured[:, None], head_size.nan_to_num(1.0)


def _compute_oks_summary(
    predictions: KeypointPredictions, truth: Mapping[str, np.ndarray], skeleton: Skeleton
) -> tuple[dict[str, float], list[float]]:
    document, results = to_coco_ground_truth(truth), to_coco_results(predictions, truth)
    figures = coco_oks_metrics(document, results, sigmas=skeleton.scoring_sigmas)
    summary = {f"OKS_{name}": value for name, value in figures.items()}
    for name, sigmas in skeleton.other_oks_sigmas.items():
        summary[f"OKS_AP_{name}"] = coco_oks_metrics(document, results, sigmas=sigmas)["AP"]
    predicted, true_xy, visible = _get_keypoint_tensors(predictions, truth)
    area = torch.from_numpy(truth["area"]).clamp(min=1.0)
    parts = compute_oks_per_keypoint(predicted, true_xy, visible, area, sigmas=skeleton.scoring_sigmas)
    return summary, parts.per_keypoint().tolist()


def _get_keypoint_tensors(
    predictions: KeypointPredictions, truth: Mapping[str, np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        predictions.image_xy.double(),
        torch.from_numpy(truth["image_xy"]),
        torch.from_numpy(truth["visible"]),
    )


def _require_each_row_once(predicted_ids: np.ndarray, expected_ids: np.ndarray) -> None:
    if np.array_equal(predicted_ids, expected_ids) and len(np.unique(expected_ids)) == len(expected_ids):
        return
    predicted, expected = Counter(predicted_ids.tolist()), Counter(expected_ids.tolist())
    faults = {
        "missing": sorted(expected.keys() - predicted.keys()),
        "unknown": sorted(predicted.keys() - expected.keys()),
        "more than once": sorted(row for row, count in (predicted | expected).items() if count > 1),
    }
    reasons = [f"{fault}: {format_list([*map(str, ids)])}" for fault, ids in faults.items() if ids]
    raise DataError(
        f"{len(predicted_ids):,} predictions for {len(expected_ids):,} validation rows",
        f"row ids {'; '.join(reasons)}",
        "prepare the dataset again; its row ids must be unique",
    )
