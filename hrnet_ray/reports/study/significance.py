"""Is the best trial really better? The predictions of the best few, on the same drawn pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hrnet_ray.data.manifest import Manifest, read_manifest
from hrnet_ray.errors import DataError
from hrnet_ray.evaluation.ground_truth import Labelled, read_labels
from hrnet_ray.metrics.bootstrap import RESAMPLES, Interval, bootstrap, interval
from hrnet_ray.metrics.oks import Poses
from hrnet_ray.metrics.report_metrics import Assessment, assess
from hrnet_ray.reports.study.trial_results import Trial, Trials

RIVALS = 4
CONFIDENCE = 0.95
NEAR = 0.002
"""A score made anew from the predictions may differ by so much from the recorded one."""
NO_NMS = 1.1  # no two poses are as alike: a training drops none either


@dataclass(frozen=True)
class Rival:
    """A trial that came close."""

    trial: Trial
    behind: float
    """The best trial's score, less this one's."""
    interval: Interval
    """Of that difference; both are drawn the same pictures."""


@dataclass(frozen=True)
class Certainty:
    """How sure the order of the best few is."""

    interval: Interval
    """Of the best trial's score."""
    rivals: list[Rival]
    """In the order of their scores, the second first."""
    pictures: int

    @property
    def as_good(self) -> list[Trial]:
        """Those that cannot be told from the best one."""
        return [rival.trial for rival in self.rivals if not rival.interval.leaves_out_zero]


def certainty(study: Trials, *, resamples: int = RESAMPLES) -> Certainty:
    """Compare the best trial with the next few, by the predictions of their best epochs.

    Raises:
        DataError: the validation set or the predictions are not there, or do not fit.
    """
    best, *others = study.scored
    manifest = read_manifest(str(best.settings.get("data.root", "")))
    labelled = read_labels(manifest, "val")
    rivals = others[:RIVALS]
    assessments = [_assessed(study, trial, manifest, labelled) for trial in (best, *rivals)]
    pictures = len(labelled.pictures)
    within = partial(interval, confidence=CONFIDENCE, pictures=pictures)
    draws = bootstrap(
        [one.statistic for one in assessments], pictures=pictures, resamples=resamples
    )
    return Certainty(
        within(draws[0]),
        [
            Rival(trial, best.score - trial.score, within(draws[0] - one))
            for trial, one in zip(rivals, draws[1:], strict=True)
        ],
        pictures,
    )


def _assessed(study: Trials, trial: Trial, manifest: Manifest, labelled: Labelled) -> Assessment:
    path = study.folder / "trials" / trial.name / "predictions" / "val.coco.json"
    try:
        poses = _poses(json.loads(path.read_text(encoding="utf-8")), labelled)
        found = assess(
            poses,
            labelled.truth,
            manifest.skeleton,
            pictures=len(labelled.pictures),
            true_boxes=True,
            nms_oks=NO_NMS,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the predictions of trial #{trial.name} cannot be compared",
            f"{path}: {error}",
            "`hrnet-ray evaluate --model A --against B` compares two model folders",
        ) from error
    if found.main != study.metric or abs(found.value - trial.score) > NEAR:
        raise DataError(
            f"the predictions of trial #{trial.name} do not give its score",
            f"{path}: {found.main} {found.value:.4f}, recorded {study.metric} {trial.score:.4f}",
            "the data set may have been prepared anew since: search again",
        )
    return found


def _poses(results: Sequence[dict[str, Any]], labelled: Labelled) -> Poses:
    """A training's predictions, which are in the order of the rows: pose n is that of row n."""
    images = np.array([result["image_id"] for result in results], np.int64)
    if not np.array_equal(images, labelled.truth["image_id"]):
        raise ValueError(f"{len(results):,} poses for {len(labelled):,} rows, or in another order")
    points = np.array([result["keypoints"] for result in results], np.float64)
    points = points.reshape(len(results), -1, 3)
    return Poses(
        picture=labelled.truth["picture"],
        image_id=images,
        category_id=np.array([result["category_id"] for result in results], np.int64),
        image_xy=points[..., :2],
        heights=points[..., 2],
        score=np.array([result["score"] for result in results], np.float64),
        area=labelled.truth["area"].astype(np.float64),
    )
