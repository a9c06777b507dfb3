"""An evaluation: what was asked, what was found, how sure that is, and whether a model is better.

It is made from a model folder and a prepared data set, here without Ray; whoever shares the looking
among workers (a `Finder`) gets the same figures.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from hrnet_ray.data.manifest import Kind, Manifest
from hrnet_ray.data.shards import Progress
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.evaluation.ground_truth import Labelled, read_labels
from hrnet_ray.evaluation.predict_split import Found, Seen, find, seen_of
from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.metrics.bootstrap import RESAMPLES, SEED, Interval, bootstrap, interval
from hrnet_ray.metrics.detections import Boxes, read_detections
from hrnet_ray.metrics.oks import NMS_OKS
from hrnet_ray.metrics.report_metrics import Assessment, assess
from hrnet_ray.models import HRNet


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is evaluated, and how; the same for two models that are compared."""

    split: str = "val"
    boxes: Path | None = None
    """COCO detections; None for the true boxes."""
    nms_oks: float = NMS_OKS
    confidence: float = 0.95
    resamples: int = RESAMPLES
    seed: int = SEED


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A loaded model, by the name that the user gave it."""

    name: str
    model: HRNet
    spec: ModelSpec
    device: torch.device


Finder = Callable[[Candidate, Manifest, str, Labelled, Boxes | None, Progress], Found]
"""How a candidate's poses are found in a split: in this process, or by workers."""


def find_here(
    candidate: Candidate,
    manifest: Manifest,
    split: str,
    labelled: Labelled,
    boxes: Boxes | None,
    progress: Progress,
) -> Found:
    """Look at the whole split in this process."""
    predictor = Predictor(candidate.model, candidate.spec, device=candidate.device)
    return find(predictor, manifest, split, labelled, boxes=boxes, progress=progress)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One model's part of an evaluation."""

    name: str
    spec: ModelSpec
    seen: Seen
    assessment: Assessment
    interval: Interval
    """Of the main figure."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The same rows, looked at by another model."""

    other: Judged
    difference: float
    """Main figure, less the other model's."""
    interval: Interval
    """Of the difference: both models are drawn the same pictures."""

    @property
    def beyond_noise(self) -> bool:
        return self.interval.leaves_out_zero


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that is printed, written and drawn."""

    data: str
    digest: str
    question: Question
    read: int
    boxes: Boxes | None
    """A detector's; None for the true ones."""
    judged: Judged
    against: Comparison | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> Labelled:
        """The rows that were used."""
        return self.judged.seen.labelled


def evaluate(
    manifest: Manifest,
    question: Question,
    candidate: Candidate,
    against: Candidate | None = None,
    *,
    finder: Finder = find_here,
    progress: Callable[[str], Progress] = lambda what: lambda done, total: None,
) -> Evaluation:
    """Look, score, and draw the pictures again for the intervals.

    Raises:
        DataError: the model has other keypoints than the data; nothing is left to score; the
            detections cannot be used.
    """
    both = [one for one in (candidate, against) if one]
    for one in both:
        _require_same_keypoints(one.spec, manifest)
    labelled = read_labels(manifest, question.split)
    boxes = _boxes(question, manifest, labelled)
    judge = partial(_judge, manifest, question, labelled, boxes, finder)
    seen = [judge(one, progress("predicted")) for one in both]
    pictures = len(seen[0][0].labelled.pictures)
    within = partial(interval, confidence=question.confidence, pictures=pictures)
    draws = bootstrap(
        [assessment.statistic for _, assessment in seen],
        pictures=pictures,
        resamples=question.resamples,
        seed=question.seed,
    )
    judged = [
        Judged(
            name=one.name,
            spec=one.spec,
            seen=rows,
            assessment=assessment,
            interval=within(values),
        )
        for one, (rows, assessment), values in zip(both, seen, draws, strict=True)
    ]
    comparison = None
    if against:
        comparison = Comparison(
            other=judged[1],
            difference=judged[0].assessment.value - judged[1].assessment.value,
            interval=within(draws[0] - draws[1]),
        )
    return Evaluation(
        data=manifest.name,
        digest=manifest.digest,
        question=question,
        read=len(labelled),
        boxes=boxes,
        judged=judged[0],
        against=comparison,
        notes=_notes(judged[0], boxes, labelled, manifest.splits[question.split].kind),
    )


def _require_same_keypoints(spec: ModelSpec, manifest: Manifest) -> None:
    if spec.skeleton.keypoints != manifest.skeleton.keypoints:
        raise DataError(
            "a model of other keypoints than the data",
            f"model: {', '.join(spec.skeleton.keypoints)} | "
            f"data: {', '.join(manifest.skeleton.keypoints)}",
            "use a model that was trained on this skeleton",
        )


def _boxes(question: Question, manifest: Manifest, labelled: Labelled) -> Boxes | None:
    if question.boxes is None:
        return None
    if manifest.splits[question.split].kind != "exact":
        raise UsageError(
            f"{question.split} rows hold only what lies around each labelled instance: a "
            "detector's boxes may lie elsewhere",
            f"--boxes with --split {question.split}",
            "use --split val, or leave --boxes out",
        )
    categories = set(labelled.truth["category_id"].tolist())
    return read_detections(question.boxes, pictures=labelled.places(), categories=categories)


def _judge(
    manifest: Manifest,
    question: Question,
    labelled: Labelled,
    boxes: Boxes | None,
    finder: Finder,
    candidate: Candidate,
    progress: Progress,
) -> tuple[Seen, Assessment]:
    split = question.split
    found = finder(candidate, manifest, split, labelled, boxes, progress)
    seen = seen_of(found, manifest, split, labelled, boxes=boxes, spec=candidate.spec)
    return seen, assess(
        seen.poses,
        seen.labelled.truth,
        manifest.skeleton,  # the data's sigmas, whatever a model was once trained with
        pictures=len(seen.labelled.pictures),
        true_boxes=boxes is None,
        nms_oks=question.nms_oks,
    )


def _notes(judged: Judged, boxes: Boxes | None, labelled: Labelled, kind: Kind) -> list[str]:
    """What a reader must know before trusting the figures."""
    notes = []
    if kind != "exact":
        notes.append("its rows were prepared for training: crops come from regions, kept as JPEG")
    if boxes is not None:
        notes.append(
            "crowds and instances without a labelled keypoint were left out when the data was "
            "prepared: a pose of one counts as a false alarm here, but not to COCO"
        )
        empty = len(labelled.pictures) - len(set(boxes.picture.tolist()))
        if empty:
            notes.append(f"{empty:,} pictures have no box: what is in them counts as missed")
    if judged.seen.skipped:
        notes.append(
            f"{len(judged.seen.skipped):,} rows are left out: their pictures are not what was "
            "prepared"
        )
    if unmeasured := judged.assessment.summary.get("rows_without_head"):
        notes.append(f"{unmeasured:,.0f} rows have no head to measure by: PCKh leaves them out")
    return notes
