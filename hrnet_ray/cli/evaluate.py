"""`hrnet-ray evaluate`: score a model on a prepared dataset."""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from hrnet_ray.cli.log_evaluation import EvaluationLogger
from hrnet_ray.cli.model_resolution import (
    ModelArgs,
    ResolvedModel,
    resolve_model,
    select_device,
)
from hrnet_ray.data.annotations import ensure_dir
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.evaluation.model_evaluation import (
    EvalModel,
    EvaluationResult,
    EvaluationSpec,
    SplitPredictor,
    evaluate_model,
    predict_in_process,
)
from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.metrics.bootstrap import BOOTSTRAP_SEED, NUM_RESAMPLES
from hrnet_ray.metrics.oks import NMS_OKS_THRESHOLD
from hrnet_ray.metrics.report_metrics import convert_poses_to_coco_results
from hrnet_ray.reports.evaluation.evaluation_page import render_page
from hrnet_ray.reports.evaluation.figures import write_plots
from hrnet_ray.reports.evaluation.formatting import format_report, to_json_dict
from hrnet_ray.runs.progress import make_progress_line
from hrnet_ray.utils.files import write_text_atomically


@dataclass(frozen=True, kw_only=True)
class ScoringArgs:
    """Flags of a verb that scores models: bootstrap intervals, and where the model runs."""

    confidence: float = 0.95
    """Confidence level of the intervals."""
    resamples: int = NUM_RESAMPLES
    """Number of bootstrap resamples of the images."""
    seed: int = BOOTSTRAP_SEED
    """Seed of the bootstrap resamples."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the model; auto takes a GPU if torch finds one."""
    num_workers: int | None = None
    """Number of workers of a Ray cluster that share the rows; by default this process does all."""
    ray_address: str | None = None
    """Ray cluster of the workers; without it and RAY_ADDRESS, Ray starts on this machine."""


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs(ModelArgs, ScoringArgs):
    """Score a model on a prepared dataset: the metrics of the papers, with confidence intervals."""

    data: str
    """Folder or URI of a prepared dataset."""
    split: str = "val"
    """Split of the dataset to score."""
    boxes: Path | None = None
    """COCO detections (JSON) to find poses in; by default the labelled boxes."""
    compare_to: str | None = None
    """Another model, which is scored on the same rows."""
    decode: Literal["argmax", "quarter", "dark"] | None = None
    """Decoding of the heatmaps; by default that of the model's config."""
    flip_test: bool | None = None
    """Average with the flipped crop; by default as in the model's config."""
    oks_nms: float = NMS_OKS_THRESHOLD
    """OKS above which two poses of an image count as duplicates; 1 keeps all poses."""
    out: Path | None = None
    """Folder for scores.json, predictions.coco.json, evaluation.html and the plots."""
    log_to_mlflow: bool | None = None
    """Log metrics, tables and plots to the model's MLflow run; by default for models that MLflow
    names."""


def run(args: EvaluateArgs) -> None:
    """Score the model, print the report, and write and log the results."""
    eval_spec = build_evaluation_spec(args, split=args.split, detections_path=args.boxes, nms_oks=args.oks_nms)
    manifest = read_manifest(args.data, "--data")
    resolved_model = resolve_model(args.model, "--model", args)
    eval_model = _build_eval_model(args.model, resolved_model, args)
    baseline = None
    if args.compare_to:
        resolved_baseline = resolve_model(args.compare_to, "--compare-to", args)
        baseline = _build_eval_model(args.compare_to, resolved_baseline, args)
    logger = None
    if resolved_model.run_id if args.log_to_mlflow is None else args.log_to_mlflow:
        logger = EvaluationLogger.from_model(resolved_model, args.model, manifest, args)
    if args.out:
        ensure_dir(args.out, "--out")  # fails before the evaluation, not after it
    evaluation = evaluate_model(
        manifest,
        eval_spec,
        eval_model,
        baseline,
        split_predictor=select_predictor(args),
        progress=make_progress_line,
    )
    print(format_report(evaluation))
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        out = args.out or Path(scratch)
        if args.out or logger:
            write_results(evaluation, manifest, out)
        if args.out:
            print(f"\nwrote {out / 'evaluation.html'}, scores.json and other files")
        if logger:
            print(logger.log_evaluation(evaluation, out))


def select_predictor(args: ScoringArgs) -> SplitPredictor:
    """Return the function that predicts the rows: in this process or on workers of a cluster.

    Raises:
        UsageError: the number of workers is invalid.
        ClusterError: the cluster lacks the resources.
    """
    if args.num_workers is None and args.ray_address is None:
        return predict_in_process
    if args.num_workers is None or args.num_workers < 1:
        value = args.num_workers if args.num_workers is not None else "none"
        address = f"--ray-address {args.ray_address}" if args.ray_address else "hrnet-ray"
        raise UsageError(
            f"--num-workers must be at least 1, got {value}",
            address,
            "give --num-workers 1 or more",
        )
    from hrnet_ray.config import ClusterConfig
    from hrnet_ray.distributed.training.ray_predictor import RayPredictor

    return RayPredictor(ClusterConfig(num_workers=args.num_workers, device=args.device, ray_address=args.ray_address))


def build_evaluation_spec(
    args: ScoringArgs,
    *,
    split: str = "val",
    detections_path: Path | None = None,
    nms_oks: float = NMS_OKS_THRESHOLD,
) -> EvaluationSpec:
    """Validate the flags of an evaluation.

    Raises:
        UsageError: a value is out of range.
    """
    for flag, value, is_valid, constraint in (
        ("confidence", args.confidence, 0 < args.confidence < 1, "between 0 and 1 (exclusive)"),
        ("oks-nms", nms_oks, 0 < nms_oks <= 1, "above 0 and at most 1"),
        ("resamples", args.resamples, args.resamples >= 2, "at least 2"),
        ("seed", args.seed, args.seed >= 0, "at least 0"),
    ):
        if not is_valid:
            raise UsageError(
                f"--{flag} must be {constraint}, got {value:g}",
                f"--{flag} {value:g}",
                f"give a value {constraint}",
            )
    return EvaluationSpec(
        split=split,
        detections_path=detections_path,
        nms_oks=nms_oks,
        confidence=args.confidence,
        resamples=args.resamples,
        seed=args.seed,
    )


def _build_eval_model(model_ref: str, resolved_model: ResolvedModel, args: EvaluateArgs) -> EvalModel:
    spec = replace(
        resolved_model.spec,
        decode=args.decode or resolved_model.spec.decode,
        flip_test=resolved_model.spec.flip_test if args.flip_test is None else args.flip_test,
    )
    return build_eval_model(model_ref, resolved_model, args, spec)


def build_eval_model(model_ref: str, resolved_model: ResolvedModel, args: ScoringArgs, spec: ModelSpec) -> EvalModel:
    """Build a model to score, on the CPU if workers predict and else on the device of the flags."""
    device = torch.device("cpu") if args.num_workers else select_device(args.device)
    return EvalModel(name=model_ref, model=resolved_model.model, spec=spec, device=device)


def write_results(evaluation: EvaluationResult, manifest: DatasetManifest, out: Path) -> None:
    """Write the scores, the predictions, the plots and the page.

    Raises:
        DataError: a file cannot be written.
    """
    try:
        scores = json.dumps(to_json_dict(evaluation), indent=2, allow_nan=False)
        write_text_atomically(out / "scores.json", scores)
        results = json.dumps(
            convert_poses_to_coco_results(evaluation.model_evaluation.metrics.poses),
            allow_nan=False,
        )
        write_text_atomically(out / "predictions.coco.json", results)
        plots = write_plots(evaluation, manifest, out)
        write_text_atomically(out / "evaluation.html", render_page(evaluation, plots))
    except OSError as error:
        raise DataError(
            "the results cannot be written",
            f"--out {out}: {error.strerror}",
            "give a writable folder",
        ) from error
