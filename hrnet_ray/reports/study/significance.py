"""Significance of the best trial, from bootstrap resampling of the validation images."""

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
"""Largest difference of a score recomputed from the predictions to the recorded score."""
NMS_DISABLED_OKS = 1.1
"""OKS threshold above every OKS: like the validation of a training, no pose is dropped."""


@dataclass(frozen=True)
class RunnerUp:
    """One of the trials after the best, compared with it."""

    trial: TrialResult
    score_gap: float
    """Score of the best trial less that of this trial."""
    interval: ConfidenceInterval
    """Interval of the difference, from the same resampled images for both."""


@dataclass(frozen=True)
class BestTrialSignificance:
    """Intervals of the best trial and of its margins."""

    interval: ConfidenceInterval
    """Interval of the best trial's score."""
    runners_up: list[RunnerUp]
    """Next trials, by score, the best first."""
    num_images: int

    @property
    def indistinguishable_trials(self) -> list[TrialResult]:
        """Runners-up whose difference to the best trial is not significant."""
        return [r.trial for r in self.runners_up if not r.interval.excludes_zero]


def compare_best_trials(study: StudyResults, *, resamples: int = NUM_RESAMPLES) -> BestTrialSignificance:
    """Compare the best trial with the next ones, by the predictions of their best epochs.

    Raises:
        DataError: the validation split or the predictions are missing, or do not match.
    """
    best, *others = study.scored_trials
    manifest = read_manifest(str(best.settings.get("data.root", "")))
    ground_truth = load_ground_truth(manifest, "val")
    num_images = len(ground_truth.image_names)
    compared = [best, *others[:MAX_RUNNERS_UP]]
    metrics = [_evaluate_trial(study, trial, manifest, ground_truth) for trial in compared]
    best_samples, *other_samples = compute_bootstrap_samples(
        [m.bootstrap_statistic for m in metrics], num_images=num_images, resamples=resamples
    )
    compute_interval = partial(compute_percentile_interval, confidence=CONFIDENCE_LEVEL, num_images=num_images)
    return BestTrialSignificance(
        compute_interval(best_samples),
        [
            RunnerUp(trial, best.score - trial.score, compute_interval(best_samples - samples))
            for trial, samples in zip(compared[1:], other_samples, strict=True)
        ],
        num_images,
    )


def _evaluate_trial(
    study: StudyResults, trial: TrialResult, manifest: DatasetManifest, ground_truth: GroundTruth
) -> EvaluationMetrics:
    path = study.study_dir / "trials" / trial.name / "predictions" / "val.coco.json"
    try:
        poses = _parse_coco_results(json.loads(path.read_text(encoding="utf-8")), ground_truth)
        metrics = compute_evaluation_metrics(
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
    if metrics.primary_metric != study.metric or abs(metrics.primary_value - trial.score) > SCORE_TOLERANCE:
        raise DataError(
            f"the predictions of trial #{trial.name} do not give its score",
            f"{path}: {metrics.primary_metric} {metrics.primary_value:.4f}, recorded {study.metric} {trial.score:.4f}",
            "the dataset may have been prepared again since then: repeat the search",
        )
    return metrics


def _parse_coco_results(results: Sequence[dict[str, Any]], ground_truth: GroundTruth) -> DetectedPoses:
    """Parse the predictions of a training, which must be in the order of the dataset rows.

    Raises:
        ValueError: number or order of the poses differ from the rows.
    """
    images = np.array([result["image_id"] for result in results], np.int64)
    if not np.array_equal(images, ground_truth.columns["image_id"]):
        raise ValueError(f"{len(results):,} poses for {len(ground_truth):,} rows, or another order")
    points = np.array([result["keypoints"] for result in results], np.float64)
    points = points.reshape(len(results), -1, 3)
    return DetectedPoses(
        image_index=ground_truth.columns["image_index"],
        image_id=images,
        category_id=np.array([result["category_id"] for result in results], np.int64),
        image_xy=points[..., :2],
        keypoint_scores=points[..., 2],
        score=np.array([result["score"] for result in results], np.float64),
        area=ground_truth.columns["area"].astype(np.float64),
    )
