"""An evaluation: what was asked, what was found, how sure that is, and whether a model is better.

It uses a model package and a prepared dataset, without Ray; a caller that parallelizes prediction
among workers (a `Finder`) gets the same figures.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from hrnet_ray.data.manifest import DatasetManifest, RowKind
from hrnet_ray.data.shards import ProgressCallback
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.evaluation.ground_truth import GroundTruth, load_ground_truth
from hrnet_ray.evaluation.predict_split import (
    PartialPredictions,
    SplitPoses,
    finalize_predictions,
    predict_partition,
)
from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.metrics.bootstrap import (
    BOOTSTRAP_SEED,
    NUM_RESAMPLES,
    ConfidenceInterval,
    compute_bootstrap_samples,
    compute_percentile_interval,
)
from hrnet_ray.metrics.detections import DetectedBoxes, load_coco_detections
from hrnet_ray.metrics.oks import NMS_OKS_THRESHOLD
from hrnet_ray.metrics.report_metrics import EvaluationMetrics, compute_evaluation_metrics
from hrnet_ray.models import HRNet


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """What is evaluated, and how; the same for two models that are compared."""

    split: str = "val"
    detections_path: Path | None = None
    """COCO detections; None for the true boxes."""
    nms_oks: float = NMS_OKS_THRESHOLD
    confidence: float = 0.95
    resamples: int = NUM_RESAMPLES
    seed: int = BOOTSTRAP_SEED


@dataclass(frozen=True, kw_only=True)
class EvalModel:
    """A loaded model, by the name that the user gave it."""

    name: str
    model: HRNet
    spec: ModelSpec
    device: torch.device


SplitPredictor = Callable[
    [EvalModel, DatasetManifest, str, GroundTruth, DetectedBoxes | None, ProgressCallback],
    PartialPredictions,
]
"""How a candidate's poses are found in a split: in this process, or by workers."""


def predict_in_process(
    eval_model: EvalModel,
    manifest: DatasetManifest,
    split: str,
    ground_truth: GroundTruth,
    detections: DetectedBoxes | None,
    progress: ProgressCallback,
) -> PartialPredictions:
    """Look at the whole split in this process."""
    predictor = Predictor(eval_model.model, eval_model.spec, device=eval_model.device)
    return predict_partition(predictor, manifest, split, ground_truth, detections=detections, progress=progress)


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation:
    """One model's part of an evaluation."""

    name: str
    spec: ModelSpec
    split_poses: SplitPoses
    metrics: EvaluationMetrics
    interval: ConfidenceInterval
    """Of the main figure."""


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """The same rows, looked at by another model."""

    baseline: ModelEvaluation
    difference: float
    """Main figure, less the other model's."""
    interval: ConfidenceInterval
    """Of the difference: both models are drawn the same images."""

    @property
    def is_significant(self) -> bool:
        return self.interval.excludes_zero


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Everything that is printed, written and drawn."""

    dataset_name: str
    dataset_digest: str
    eval_spec: EvaluationSpec
    rows_read: int
    detections: DetectedBoxes | None
    """A detector's; None for the true ones."""
    model_evaluation: ModelEvaluation
    comparison: ModelComparison | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ground_truth(self) -> GroundTruth:
        """The rows that were used."""
        return self.model_evaluation.split_poses.ground_truth


def evaluate_model(
    manifest: DatasetManifest,
    eval_spec: EvaluationSpec,
    eval_model: EvalModel,
    compare_to: EvalModel | None = None,
    *,
    split_predictor: SplitPredictor = predict_in_process,
    progress: Callable[[str], ProgressCallback] = lambda what: lambda done, total: None,
) -> EvaluationResult:
    """Look, score, and draw the images again for the intervals.

    Raises:
        DataError: the model has other keypoints than the data; nothing is left to score; the
            detections cannot be used.
    """
    both = [one for one in (eval_model, compare_to) if one]
    for one in both:
        _require_same_keypoints(one.spec, manifest)
    labelled = load_ground_truth(manifest, eval_spec.split)
    boxes = _load_detections(eval_spec, manifest, labelled)
    judge = partial(_evaluate_single_model, manifest, eval_spec, labelled, boxes, split_predictor)
    seen = [judge(one, progress("predicted")) for one in both]
    pictures = len(seen[0][0].ground_truth.image_names)
    within = partial(compute_percentile_interval, confidence=eval_spec.confidence, num_images=pictures)
    draws = compute_bootstrap_samples(
        [assessment.bootstrap_statistic for _, assessment in seen],
        num_images=pictures,
        resamples=eval_spec.resamples,
        seed=eval_spec.seed,
    )
    judged = [
        ModelEvaluation(
            name=one.name,
            spec=one.spec,
            split_poses=rows,
            metrics=assessment,
            interval=within(values),
        )
        for one, (rows, assessment), values in zip(both, seen, draws, strict=True)
    ]
    comparison = None
    if compare_to:
        comparison = ModelComparison(
            baseline=judged[1],
            difference=judged[0].metrics.primary_value - judged[1].metrics.primary_value,
            interval=within(draws[0] - draws[1]),
        )
    return EvaluationResult(
        dataset_name=manifest.name,
        dataset_digest=manifest.digest,
        eval_spec=eval_spec,
        rows_read=len(labelled),
        detections=boxes,
        model_evaluation=judged[0],
        comparison=comparison,
        notes=_collect_caveats(judged[0], boxes, labelled, manifest.splits[eval_spec.split].kind),
    )


def _require_same_keypoints(spec: ModelSpec, manifest: DatasetManifest) -> None:
    if spec.skeleton.keypoints != manifest.skeleton.keypoints:
        raise DataError(
            "a model of other keypoints than the data",
            f"model: {', '.join(spec.skeleton.keypoints)} | data: {', '.join(manifest.skeleton.keypoints)}",
            "use a model that was trained on this skeleton",
        )


def _load_detections(
    eval_spec: EvaluationSpec, manifest: DatasetManifest, ground_truth: GroundTruth
) -> DetectedBoxes | None:
    if eval_spec.detections_path is None:
        return None
    if manifest.splits[eval_spec.split].kind != "exact":
        raise UsageError(
            f"{eval_spec.split} rows hold only what lies around each labelled instance: a "
            "detector's boxes may lie elsewhere",
            f"--boxes with --split {eval_spec.split}",
            "use --split val, or leave --boxes out",
        )
    categories = set(ground_truth.columns["category_id"].tolist())
    return load_coco_detections(
        eval_spec.detections_path,
        image_indices=ground_truth.build_image_index(),
        category_ids=categories,
    )


def _evaluate_single_model(
    manifest: DatasetManifest,
    eval_spec: EvaluationSpec,
    ground_truth: GroundTruth,
    detections: DetectedBoxes | None,
    split_predictor: SplitPredictor,
    eval_model: EvalModel,
    progress: ProgressCallback,
) -> tuple[SplitPoses, EvaluationMetrics]:
    split = eval_spec.split
    found = split_predictor(eval_model, manifest, split, ground_truth, detections, progress)
    seen = finalize_predictions(found, manifest, split, ground_truth, detections=detections, spec=eval_model.spec)
    return seen, compute_evaluation_metrics(
        seen.poses,
        seen.ground_truth.columns,
        manifest.skeleton,  # the OKS sigmas of the dataset, not of the model
        num_images=len(seen.ground_truth.image_names),
        with_gt_boxes=detections is None,
        nms_oks_threshold=eval_spec.nms_oks,
    )


def _collect_caveats(
    model_evaluation: ModelEvaluation,
    detections: DetectedBoxes | None,
    ground_truth: GroundTruth,
    row_kind: RowKind,
) -> list[str]:
    """What a reader must know before trusting the figures."""
    notes = []
    if row_kind != "exact":
        notes.append("its rows were prepared for training: crops come from regions, kept as JPEG")
    if detections is not None:
        notes.append(
            "crowds and instances without a labelled keypoint were left out when the data was "
            "prepared: a pose of one counts as a false alarm here, but not to COCO"
        )
        empty = len(ground_truth.image_names) - len(set(detections.image_index.tolist()))
        if empty:
            notes.append(f"{empty:,} images have no box: what is in them counts as missed")
    if model_evaluation.split_poses.skipped_rows:
        notes.append(
            f"{len(model_evaluation.split_poses.skipped_rows):,} rows are left out: their images are not what was "
            "prepared"
        )
    if unmeasured := model_evaluation.metrics.summary.get("rows_without_head"):
        notes.append(f"{unmeasured:,.0f} rows have no head to measure by: PCKh leaves them out")
    return notes
