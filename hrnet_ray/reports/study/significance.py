"""Is the best trial really better? The predictions of the best few, on the same drawn pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.errors import DataError
from hrnet_ray.evaluation.ground_truth import GroundTruth, load_ground_truth
from hrnet_ray.metrics.bootstrap import (
    NUM_RESAMPLES,
    ConfidenceInterval,
    compute_bootstrap_samples,
    compute_percentile_interval,
)
from hrnet_ray.metrics.oks import DetectedPoses
from hrnet_ray.metrics.report_metrics import EvaluationMetrics, compute_evaluation_metrics
from hrnet_ray.reports.study.trial_results import StudyResults, TrialResult

MAX_RUNNERS_UP = 4
CONFIDENCE_LEVEL = 0.95
SCORE_TOLERANCE = 0.002
"""A score made anew from the predictions may differ by so much from the recorded one."""
NMS_DISABLED_OKS = 1.1  # no two poses are as alike: a training drops none either


@dataclass(frozen=True)
class RunnerUp:
    """A trial that came close."""

    trial: TrialResult
    score_gap: float
    """The best trial's score, less this one's."""
    interval: ConfidenceInterval
    """Of that difference; both are drawn the same pictures."""


@dataclass(frozen=True)
class BestTrialSignificance:
    """How sure the order of the best few is."""

    interval: ConfidenceInterval
    """Of the best trial's score."""
    runners_up: list[RunnerUp]
    """In the order of their scores, the second first."""
    num_images: int

    @property
    def indistinguishable_trials(self) -> list[TrialResult]:
        """Those that cannot be told from the best one."""
        return [rival.trial for rival in self.runners_up if not rival.interval.excludes_zero]


def compare_best_trials(
    study: StudyResults, *, resamples: int = NUM_RESAMPLES
) -> BestTrialSignificance:
    """Compare the best trial with the next few, by the predictions of their best epochs.

    Raises:
        DataError: the validation set or the predictions are not there, or do not fit.
    """
    best, *others = study.scored_trials
    manifest = read_manifest(str(best.settings.get("data.root", "")))
    labelled = load_ground_truth(manifest, "val")
    rivals = others[:MAX_RUNNERS_UP]
    assessments = [_evaluate_trial(study, trial, manifest, labelled) for trial in (best, *rivals)]
    pictures = len(labelled.image_names)
    within = partial(compute_percentile_interval, confidence=CONFIDENCE_LEVEL, num_images=pictures)
    draws = compute_bootstrap_samples(
        [one.bootstrap_statistic for one in assessments], num_images=pictures, resamples=resamples
    )
    return BestTrialSignificance(
        within(draws[0]),
        [
            RunnerUp(trial, best.score - trial.score, within(draws[0] - one))
            for trial, one in zip(rivals, draws[1:], strict=True)
        ],
        pictures,
    )


def _evaluate_trial(
    study: StudyResults, trial: TrialResult, manifest: DatasetManifest, ground_truth: GroundTruth
) -> EvaluationMetrics:
    path = study.study_dir / "trials" / trial.name / "predictions" / "val.coco.json"
    try:
        poses = _parse_coco_results(json.loads(path.read_text(encoding="utf-8")), ground_truth)
        found = compute_evaluation_metrics(
            poses,
            ground_truth.columns,
            manifest.skeleton,
            num_images=len(ground_truth.image_names),
            with_gt_boxes=True,
            nms_oks_threshold=NMS_DISABLED_OKS,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the predictions of trial #{trial.name} cannot be compared",
            f"{path}: {error}",
            "`hrnet-ray evaluate --model A --compare-to B` compares two model folders",
        ) from error
    if (
        found.primary_metric != study.metric
        or abs(found.primary_value - trial.score) > SCORE_TOLERANCE
    ):
        raise DataError(
            f"the predictions of trial #{trial.name} do not give its score",
            f"{path}: {found.primary_metric} {found.primary_value:.4f}, recorded {study.metric} {trial.score:.4f}",
            "the data set may have been prepared anew since: search again",
        )
    return found


def _parse_coco_results(
    results: Sequence[dict[str, Any]], ground_truth: GroundTruth
) -> DetectedPoses:
    """A training's predictions, which are in the order of the rows: pose n is that of row n."""
    images = np.array([result["image_id"] for result in results], np.int64)
    if not np.array_equal(images, ground_truth.columns["image_id"]):
        raise ValueError(
            f"{len(results):,} poses for {len(ground_truth):,} rows, or in another order"
        )
    points = np.array([result["keypoints"] for result in results], np.float64)
    points = points.reshape(len(results), -1, 3)
    return DetectedPoses(
        image_index=ground_truth.columns["picture"],
        image_id=images,
        category_id=np.array([result["category_id"] for result in results], np.int64),
        image_xy=points[..., :2],
        keypoint_scores=points[..., 2],
        score=np.array([result["score"] for result in results], np.float64),
        area=ground_truth.columns["area"].astype(np.float64),
    )
