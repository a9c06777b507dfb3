"""Evaluate a model on a split, with confidence intervals, and compare it with a second model.

This module does not use Ray. A `SplitPredictor` may distribute the prediction among workers; the
metrics are the same.
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
    """Settings of an evaluation, shared by both models of a comparison."""

    split: str = "val"
    detections_path: Path | None = None
    """Path of COCO detections; None for true boxes."""
    nms_oks: float = NMS_OKS_THRESHOLD
    confidence: float = 0.95
    resamples: int = NUM_RESAMPLES
    seed: int = BOOTSTRAP_SEED


@dataclass(frozen=True, kw_only=True)
class EvalModel:
    """A loaded model with the name given by the user."""

    name: str
    model: HRNet
    spec: ModelSpec
    device: torch.device


SplitPredictor = Callable[
    [EvalModel, DatasetManifest, str, GroundTruth, DetectedBoxes | None, ProgressCallback],
    PartialPredictions,
]
"""Function that predicts all poses of a split, in this process or by workers."""


def predict_in_process(
    eval_model: EvalModel,
    manifest: DatasetManifest,
    split: str,
    ground_truth: GroundTruth,
    detections: DetectedBoxes | None,
    progress: ProgressCallback,
) -> PartialPredictions:
    """Predict the whole split in this process."""
    predictor = Predictor(eval_model.model, eval_model.spec, device=eval_model.device)
    return predict_partition(predictor, manifest, split, ground_truth, detections=detections, progress=progress)


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation:
    """Results of one model."""

    name: str
    spec: ModelSpec
    split_poses: SplitPoses
    metrics: EvaluationMetrics
    interval: ConfidenceInterval
    """Confidence interval of the primary metric."""


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Comparison with a baseline model on the same rows."""

    baseline: ModelEvaluation
    difference: float
    """Primary metric of the model minus that of the baseline."""
    interval: ConfidenceInterval
    """Confidence interval of the difference, from the same resamples for both models."""

    @property
    def is_significant(self) -> bool:
        return self.interval.excludes_zero


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Result of an evaluation, as printed and written to reports."""

    dataset_name: str
    dataset_digest: str
    eval_spec: EvaluationSpec
    rows_read: int
    detections: DetectedBoxes | None
    """Boxes of a detector; None for true boxes."""
    model_evaluation: ModelEvaluation
    comparison: ModelComparison | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ground_truth(self) -> GroundTruth:
        """Labels of the evaluated rows."""
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
    """Predict the split, compute the metrics, and bootstrap their confidence intervals.

    Raises:
        DataError: the keypoints of model and data differ, no row is readable, or the detections
            are unusable.
    """
    models = [model for model in (eval_model, compare_to) if model]
    for model in models:
        _require_same_keypoints(model.spec, manifest)
    ground_truth = load_ground_truth(manifest, eval_spec.split)
    detections = _load_detections(eval_spec, manifest, ground_truth)
    evaluate = partial(_evaluate_single_model, manifest, eval_spec, ground_truth, detections, split_predictor)
    results = [evaluate(model, progress("predicted")) for model in models]
    num_images = len(results[0][0].ground_truth.image_names)
    compute_interval = partial(compute_percentile_interval, confidence=eval_spec.confidence, num_images=num_images)
    samples = compute_bootstrap_samples(
        [metrics.bootstrap_statistic for _, metrics in results],
        num_images=num_images,
        resamples=eval_spec.resamples,
        seed=eval_spec.seed,
    )
    evaluations = [
        ModelEvaluation(
            name=model.name,
            spec=model.spec,
            split_poses=split_poses,
            metrics=metrics,
            interval=compute_interval(values),
        )
        for model, (split_poses, metrics), values in zip(models, results, samples, strict=True)
    ]
    comparison = None
    if compare_to:
        comparison = ModelComparison(
            baseline=evaluations[1],
            difference=evaluations[0].metrics.primary_value - evaluations[1].metrics.primary_value,
            interval=compute_interval(samples[0] - samples[1]),
        )
    return EvaluationResult(
        dataset_name=manifest.name,
        dataset_digest=manifest.digest,
        eval_spec=eval_spec,
        rows_read=len(ground_truth),
        detections=detections,
        model_evaluation=evaluations[0],
        comparison=comparison,
        notes=_collect_caveats(evaluations[0], detections, ground_truth, manifest.splits[eval_spec.split].kind),
    )


def _require_same_keypoints(spec: ModelSpec, manifest: DatasetManifest) -> None:
    if spec.skeleton.keypoints != manifest.skeleton.keypoints:
        raise DataError(
            "the model and the data have different keypoints",
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
            f"rows of {eval_spec.split} hold only the region around each labelled instance, so a "
            "detector's boxes cannot be evaluated on them",
            f"--boxes with --split {eval_spec.split}",
            "use --split val, or omit --boxes",
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
    predictions = split_predictor(eval_model, manifest, split, ground_truth, detections, progress)
    split_poses = finalize_predictions(
        predictions, manifest, split, ground_truth, detections=detections, spec=eval_model.spec
    )
    return split_poses, compute_evaluation_metrics(
        split_poses.poses,
        split_poses.ground_truth.columns,
        manifest.skeleton,  # the OKS sigmas of the dataset, not of the model
        num_images=len(split_poses.ground_truth.image_names),
        with_gt_boxes=detections is None,
        nms_oks_threshold=eval_spec.nms_oks,
    )


def _collect_caveats(
    model_evaluation: ModelEvaluation,
    detections: DetectedBoxes | None,
    ground_truth: GroundTruth,
    row_kind: RowKind,
) -> list[str]:
    """List the restrictions of an evaluation as sentences."""
    notes = []
    if row_kind != "exact":
        notes.append("rows of this split were prepared for training: crops are warped from stored JPEG regions")
    if detections is not None:
        notes.append(
            "prepare skipped crowds and instances without a labelled keypoint: a pose on one of them counts as "
            "a false positive here, but is ignored by COCO"
        )
        num_without_box = len(ground_truth.image_names) - len(set(detections.image_index.tolist()))
        if num_without_box:
            notes.append(f"{num_without_box:,} images have no box: their instances count as missed")
    if model_evaluation.split_poses.skipped_rows:
        notes.append(
            f"{len(model_evaluation.split_poses.skipped_rows):,} rows are skipped: their images are unreadable or "
            "have changed since prepare"
        )
    if without_head := model_evaluation.metrics.summary.get("rows_without_head"):
        notes.append(f"{without_head:,.0f} rows have no head size: PCKh does not use them")
    return notes
