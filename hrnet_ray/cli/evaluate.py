"""`hrnet-ray evaluate`."""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch

from hrnet_ray.cli.log_evaluation import EvaluationLogger
from hrnet_ray.cli.model_resolution import (
    MlflowStoreArgs,
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
from hrnet_ray.metrics.bootstrap import BOOTSTRAP_SEED, NUM_RESAMPLES
from hrnet_ray.metrics.oks import NMS_OKS_THRESHOLD
from hrnet_ray.metrics.report_metrics import convert_poses_to_coco_results
from hrnet_ray.reports.evaluation.evaluation_page import render_page
from hrnet_ray.reports.evaluation.figures import write_plots
from hrnet_ray.reports.evaluation.formatting import format_report, to_json_dict
from hrnet_ray.runs.progress import make_progress_line


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs:
    """Score a model on a prepared data set: the tables that papers print, and how sure they are."""

    model: str
    """A model folder, a run's folder, weights beside their config.json, the id of an MLflow run,
    models:/NAME@champion or models:/NAME/3."""
    data: str
    """A prepared data set: its folder or URI."""
    split: str = "val"
    boxes: Path | None = None
    """COCO detections (JSON) to look for poses in; by default the true boxes."""
    compare_to: str | None = None
    """Another model, compared on the same rows."""
    decode: Literal["argmax", "quarter", "dark"] | None = None
    """By default as the model was trained to be read."""
    flip_test: bool | None = None
    """By default as the model was trained to be read."""
    oks_nms: float = NMS_OKS_THRESHOLD
    """Two poses of a picture that are more alike than this are one; 1 keeps all."""
    confidence: float = 0.95
    """Of the intervals."""
    resamples: int = NUM_RESAMPLES
    """Draws of the pictures that the intervals are made from."""
    seed: int = BOOTSTRAP_SEED
    """Of these draws."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    out: Path | None = None
    """Folder for scores.json, predictions.coco.json, evaluation.html and the plots."""
    num_workers: int | None = None
    """Share the rows among so many workers of a Ray cluster; by default this process does it."""
    ray_address: str | None = None
    """The Ray cluster of these workers; without one (and without RAY_ADDRESS), this machine."""
    log_to_mlflow: bool | None = None
    """Copy figures, tables and plots to the model's MLflow run; by default for a model that is
    named by MLflow."""
    tracking_uri: str | None = None
    """MLflow server; without one, the file in `storage`."""
    storage_path: Path = Path("runs")
    """Folder of the trainings, which has the MLflow file."""


def run(args: EvaluateArgs) -> None:
    """Predict every row once, score once, print and write it all."""
    question = _build_evaluation_spec(args)
    manifest = read_manifest(args.data, "--data")
    store = MlflowStoreArgs(args.tracking_uri, args.storage_path)
    loaded = resolve_model(args.model, "--model", store)
    candidate = _build_eval_model(args.model, loaded, args)
    against = None
    if args.compare_to:
        against = _build_eval_model(
            args.compare_to, resolve_model(args.compare_to, "--compare-to", store), args
        )
    tells = (
        EvaluationLogger.from_model(loaded, args.model, manifest, store)
        if _should_log(args, loaded)
        else None
    )
    if args.out:
        ensure_dir(args.out, "--out")  # before the work, not after it
    evaluation = evaluate_model(
        manifest,
        question,
        candidate,
        against,
        split_predictor=select_predictor(args),
        progress=make_progress_line,
    )
    print(format_report(evaluation))
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        out = args.out or Path(scratch)
        if args.out or tells:
            write_results(evaluation, manifest, out)
        if args.out:
            print(f"\nwritten: {out / 'evaluation.html'}, scores.json and more beside it")
        if tells:
            print(tells.log_evaluation(evaluation, out))


def select_predictor(args: "WorkerArgs") -> SplitPredictor:
    """Who looks at the rows: this process, or workers of a cluster.

    Raises:
        UsageError: there cannot be so many.
        ClusterError: the machines are not there.
    """
    if args.num_workers is None and args.ray_address is None:
        return predict_in_process
    if args.num_workers is None or args.num_workers < 1:
        said = (
            f"--num-workers {args.num_workers}"
            if args.num_workers is not None
            else "no --num-workers"
        )
        raise UsageError("workers that cannot be", said, "give 1 or more")
    from hrnet_ray.config import ClusterConfig
    from hrnet_ray.distributed.training.ray_predictor import RayPredictor

    return RayPredictor(
        ClusterConfig(
            num_workers=args.num_workers, device=args.device, ray_address=args.ray_address
        )
    )


class WorkerArgs(Protocol):
    """The flags that say who works."""

    @property
    def num_workers(self) -> int | None: ...
    @property
    def ray_address(self) -> str | None: ...
    @property
    def device(self) -> Literal["auto", "cpu", "gpu"]: ...


def _should_log(args: EvaluateArgs, resolved_model: ResolvedModel) -> bool:
    return bool(resolved_model.run_id) if args.log_to_mlflow is None else args.log_to_mlflow


def _build_evaluation_spec(args: EvaluateArgs) -> EvaluationSpec:
    checks = {
        f"--confidence {args.confidence:g}": 0 < args.confidence < 1,
        f"--oks-nms {args.oks_nms:g}": 0 < args.oks_nms <= 1,
        f"--resamples {args.resamples}": args.resamples >= 2,
        f"--seed {args.seed}": args.seed >= 0,
    }
    for said, fits in checks.items():
        if not fits:
            raise UsageError(
                "a value that cannot be",
                said,
                "confidence lies between 0 and 1, oks-nms above 0 and up to 1, resamples from 2 "
                "on, seed from 0 on",
            )
    return EvaluationSpec(
        split=args.split,
        detections_path=args.boxes,
        nms_oks=args.oks_nms,
        confidence=args.confidence,
        resamples=args.resamples,
        seed=args.seed,
    )


def _build_eval_model(
    model_ref: str, resolved_model: ResolvedModel, args: EvaluateArgs
) -> EvalModel:
    spec = replace(
        resolved_model.spec,
        decode=args.decode or resolved_model.spec.decode,
        flip_test=resolved_model.spec.flip_test if args.flip_test is None else args.flip_test,
    )
    here = torch.device("cpu") if args.num_workers else select_device(args.device)
    return EvalModel(name=model_ref, model=resolved_model.model, spec=spec, device=here)


def write_results(evaluation: EvaluationResult, manifest: DatasetManifest, out: Path) -> None:
    """Write the figures, the predictions, the plots and the page.

    Raises:
        DataError: they cannot be written.
    """
    try:
        scores = json.dumps(to_json_dict(evaluation), indent=2, allow_nan=False)
        (out / "scores.json").write_text(scores, encoding="utf-8")
        results = json.dumps(
            convert_poses_to_coco_results(evaluation.model_evaluation.metrics.poses),
            allow_nan=False,
        )
        (out / "predictions.coco.json").write_text(results, encoding="utf-8")
        plots = write_plots(evaluation, manifest, out)
        (out / "evaluation.html").write_text(render_page(evaluation, plots), encoding="utf-8")
    except OSError as error:
        raise DataError(
            "results that cannot be written",
            f"--out {out}: {error.strerror}",
            "give a folder that can be written",
        ) from error
