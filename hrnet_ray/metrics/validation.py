"""Predictions against the truth: the figures that a run is judged by.

Every labelled row must have been predicted exactly once; then the score is made once, from all of
them, so it does not depend on how many workers there were.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from hrnet_ray.errors import DataError, shortened
from hrnet_ray.metrics.keypoint_metrics import (
    epe,
    oks_curve,
    oks_per_keypoint,
    oks_summary,
    pckh,
    pckh_curve,
)
from hrnet_ray.metrics.predictions import Predictions, instance_scores
from hrnet_ray.skeletons import Skeleton

PCKH_THRESHOLDS = {"PCKh_0.5": 0.5, "PCKh_0.1": 0.1, "PCKh_0.11_legacy": 0.11}
"""The published table's "Mean@0.1" is really taken at 0.11, so that one is reported too."""


@dataclass(frozen=True)
class Scores:
    """`summary` by metric name, `per_keypoint` by keypoint name; `main` names the one to tune."""

    main: str
    summary: dict[str, float]
    per_keypoint: dict[str, float]

    @property
    def value(self) -> float:
        """The figure that decides which model is best."""
        return self.summary[self.main]


def main_metric(truth: Mapping[str, np.ndarray]) -> str:
    """PCKh where heads were measured (MPII), OKS AP elsewhere."""
    return "PCKh_0.5" if np.isfinite(truth["head_size"]).any() else "OKS_AP"


def score(predictions: Predictions, truth: Mapping[str, np.ndarray], skeleton: Skeleton) -> Scores:
    """Score predictions against the label columns (`data.rows.labels_of`) of the same rows.

    Raises:
        DataError: a row was predicted twice, or not at all, or is none of these.
    """
    predictions, truth = paired(predictions, truth)
    main = main_metric(truth)
    if main == "PCKh_0.5":
        summary, per_keypoint = _pckh(predictions, truth)
    else:
        summary, per_keypoint = _oks(predictions, truth, skeleton)
    predicted, true_xy, visible = _points(predictions, truth)
    summary["EPE_px"] = float(epe(predicted, true_xy, visible).mean())
    return Scores(main, summary, dict(zip(skeleton.keypoints, per_keypoint, strict=True)))


def paired(
    predictions: Predictions, truth: Mapping[str, np.ndarray]
) -> tuple[Predictions, dict[str, np.ndarray]]:
    """Both in the order of their row ids, so that number n of the one belongs to n of the other.

    Raises:
        DataError: a row was predicted twice, or not at all, or is none of these.
    """
    order = np.argsort(truth["id"], kind="stable")
    ordered = {name: column[order] for name, column in truth.items()}
    predictions = Predictions.joined([predictions])
    _each_row_once(predictions.ids.numpy(), ordered["id"])
    return predictions, ordered


def errors(predictions: Predictions, truth: Mapping[str, np.ndarray]) -> Float[np.ndarray, " N"]:
    """How far each `paired` instance is off: the mean distance of its keypoints, by its size.

    That is the head's where it was measured, the root of the area elsewhere. 0 where nothing is
    labelled.
    """
    predicted, true_xy, visible = _points(predictions, truth)
    distance = (predicted - true_xy).square().sum(-1).sqrt()
    size = np.where(
        np.isfinite(truth["head_size"]), truth["head_size"], np.sqrt(truth["area"].clip(min=1))
    )
    mean = (distance * visible).sum(-1) / visible.sum(-1).clamp(min=1)
    return mean.numpy() / size


def curve(
    predictions: Predictions, truth: Mapping[str, np.ndarray], skeleton: Skeleton
) -> list[tuple[float, float]]:
    """Threshold and value of what the main figure is a part of: PCKh, or AP at each OKS."""
    predictions, truth = paired(predictions, truth)
    if main_metric(truth) == "PCKh_0.5":
        parts = pckh_curve(*_measured(predictions, truth))
        return [(part.threshold, part.mean()) for part in parts]
    document, results = coco_truth(truth), coco_results(predictions, truth)
    return oks_curve(document, results, sigmas=skeleton.scoring_sigmas)


def coco_results(predictions: Predictions, truth: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Predictions in COCO's results form; an instance scores its confident keypoints' mean."""
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
            instance_scores(predictions).double().tolist(),
            strict=True,
        )
    ]


def coco_truth(truth: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The label columns as a COCO document."""
    xyv = np.concatenate([truth["image_xy"], 2.0 * truth["visible"][..., None]], axis=-1)
    return {
        "images": [{"id": int(image)} for image in np.unique(truth["image_id"])],
        "categories": [{"id": int(one)} for one in np.unique(truth["category_id"])],
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


def _pckh(
    predictions: Predictions, truth: Mapping[str, np.ndarray]
) -> tuple[dict[str, float], list[float]]:
    measured = _measured(predictions, truth)
    parts = {
        name: pckh(*measured, threshold=threshold) for name, threshold in PCKH_THRESHOLDS.items()
    }
    summary = {name: float(part.mean()) for name, part in parts.items()}
    summary["rows_without_head"] = float((~np.isfinite(truth["head_size"])).sum())
    return summary, parts["PCKh_0.5"].per_keypoint().tolist()


def _measured(
    predictions: Predictions, truth: Mapping[str, np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What PCKh compares, and the head sizes; a row without one has nothing to measure by."""
    predicted, true_xy, visible = _points(predictions, truth)
    head_size = torch.from_numpy(truth["head_size"])
    measured = head_size.isfinite()
    return predicted, true_xy, visible & measured[:, None], head_size.nan_to_num(1.0)


def _oks(
    predictions: Predictions, truth: Mapping[str, np.ndarray], skeleton: Skeleton
) -> tuple[dict[str, float], list[float]]:
    document, results = coco_truth(truth), coco_results(predictions, truth)
    figures = oks_summary(document, results, sigmas=skeleton.scoring_sigmas)
    summary = {f"OKS_{name}": value for name, value in figures.items()}
    for name, sigmas in skeleton.other_oks_sigmas.items():
        summary[f"OKS_AP_{name}"] = oks_summary(document, results, sigmas=sigmas)["AP"]
    predicted, true_xy, visible = _points(predictions, truth)
    area = torch.from_numpy(truth["area"]).clamp(min=1.0)
    parts = oks_per_keypoint(predicted, true_xy, visible, area, sigmas=skeleton.scoring_sigmas)
    return summary, parts.per_keypoint().tolist()


def _points(
    predictions: Predictions, truth: Mapping[str, np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        predictions.image_xy.double(),
        torch.from_numpy(truth["image_xy"]),
        torch.from_numpy(truth["visible"]),
    )


def _each_row_once(predicted: np.ndarray, wanted: np.ndarray) -> None:
    if np.array_equal(predicted, wanted) and len(np.unique(wanted)) == len(wanted):
        return
    found, truth = Counter(predicted.tolist()), Counter(wanted.tolist())
    faults = {
        "missing": sorted(truth.keys() - found.keys()),
        "unknown": sorted(found.keys() - truth.keys()),
        "more than once": sorted(row for row, times in (found | truth).items() if times > 1),
    }
    named = [f"{how}: {shortened([*map(str, ids)])}" for how, ids in faults.items() if ids]
    raise DataError(
        f"{len(predicted):,} predictions for {len(wanted):,} validation rows",
        f"row ids {'; '.join(named)}",
        "this is a fault of the pipeline or of ids that repeat: prepare the data set again",
    )
