"""`hrnet-ray evaluate`."""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch

from hrnet_ray.cli.log_evaluation import Telling
from hrnet_ray.cli.model_resolution import Loaded, Store, device_of, load
from hrnet_ray.data.annotations import make_folder
from hrnet_ray.data.manifest import Manifest, read_manifest
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.evaluation.model_evaluation import (
    Candidate,
    Evaluation,
    Finder,
    Question,
    evaluate,
    find_here,
)
from hrnet_ray.metrics.bootstrap import RESAMPLES, SEED
from hrnet_ray.metrics.oks import NMS_OKS
from hrnet_ray.metrics.report_metrics import results_of
from hrnet_ray.reports.evaluation.evaluation_page import page
from hrnet_ray.reports.evaluation.figures import draw
from hrnet_ray.reports.evaluation.formatting import as_document, as_text
from hrnet_ray.runs.progress import counter


@dataclass(frozen=True, kw_only=True)
class Args:
    """Score a model on a prepared data set: the tables that papers print, and how sure they are."""

    model: str
    """A model folder, a run's folder, weights beside their config.json, the id of an MLflow run,
    models:/NAME@champion or models:/NAME/3."""
    data: str
    """A prepared data set: its folder or URI."""
    split: str = "val"
    boxes: Path | None = None
    """COCO detections (JSON) to look for poses in; by default the true boxes."""
    against: str | None = None
    """Another model, compared on the same rows."""
    decode: Literal["argmax", "quarter", "dark"] | None = None
    """By default as the model was trained to be read."""
    flip_test: bool | None = None
    """By default as the model was trained to be read."""
    oks_nms: float = NMS_OKS
    """Two poses of a picture that are more alike than this are one; 1 keeps all."""
    confidence: float = 0.95
    """Of the intervals."""
    resamples: int = RESAMPLES
    """Draws of the pictures that the intervals are made from."""
    seed: int = SEED
    """Of these draws."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    out: Path | None = None
    """Folder for scores.json, predictions.coco.json, evaluation.html and the plots."""
    workers: int | None = None
    """Share the rows among so many workers of a Ray cluster; by default this process does it."""
    address: str | None = None
    """The Ray cluster of these workers; without one (and without RAY_ADDRESS), this machine."""
    log: bool | None = None
    """Copy figures, tables and plots to the model's MLflow run; by default for a model that is
    named by MLflow."""
    tracking_uri: str | None = None
    """MLflow server; without one, the file in `storage`."""
    storage: Path = Path("runs")
    """Folder of the trainings, which has the MLflow file."""


def run(args: Args) -> None:
    """Predict every row once, score once, print and write it all."""
    question = _question(args)
    manifest = read_manifest(args.data, "--data")
    store = Store(args.tracking_uri, args.storage)
    loaded = load(args.model, "--model", store)
    candidate = _candidate(args.model, loaded, args)
    against = None
    if args.against:
        against = _candidate(args.against, load(args.against, "--against", store), args)
    tells = Telling.of(loaded, args.model, manifest, store) if _logs(args, loaded) else None
    if args.out:
        make_folder(args.out, "--out")  # before the work, not after it
    evaluation = evaluate(
        manifest, question, candidate, against, finder=finder_of(args), progress=counter
    )
    print(as_text(evaluation))
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        out = args.out or Path(scratch)
        if args.out or tells:
            write(evaluation, manifest, out)
        if args.out:
            print(f"\nwritten: {out / 'evaluation.html'}, scores.json and more beside it")
        if tells:
            print(tells.tell(evaluation, out))


def finder_of(args: "HasWorkers") -> Finder:
    """Who looks at the rows: this process, or workers of a cluster.

    Raises:
        UsageError: there cannot be so many.
        ClusterError: the machines are not there.
    """
    if args.workers is None and args.address is None:
        return find_here
    if args.workers is None or args.workers < 1:
        said = f"--workers {args.workers}" if args.workers is not None else "no --workers"
        raise UsageError("workers that cannot be", said, "give 1 or more")
    from hrnet_ray.config import Cluster
    from hrnet_ray.distributed.training.ray_predictor import Sharing

    return Sharing(Cluster(workers=args.workers, device=args.device, address=args.address))


class HasWorkers(Protocol):
    """The flags that say who works."""

    @property
    def workers(self) -> int | None: ...
    @property
    def address(self) -> str | None: ...
    @property
    def device(self) -> Literal["auto", "cpu", "gpu"]: ...


def _logs(args: Args, loaded: Loaded) -> bool:
    return bool(loaded.run_id) if args.log is None else args.log


def _question(args: Args) -> Question:
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
    return Question(
        split=args.split,
        boxes=args.boxes,
        nms_oks=args.oks_nms,
        confidence=args.confidence,
        resamples=args.resamples,
        seed=args.seed,
    )


def _candidate(text: str, loaded: Loaded, args: Args) -> Candidate:
    spec = replace(
        loaded.spec,
        decode=args.decode or loaded.spec.decode,
        flip_test=loaded.spec.flip_test if args.flip_test is None else args.flip_test,
    )
    here = torch.device("cpu") if args.workers else device_of(args.device)
    return Candidate(name=text, model=loaded.model, spec=spec, device=here)


def write(evaluation: Evaluation, manifest: Manifest, out: Path) -> None:
    """Write the figures, the predictions, the plots and the page.

    Raises:
        DataError: they cannot be written.
    """
    try:
        scores = json.dumps(as_document(evaluation), indent=2, allow_nan=False)
        (out / "scores.json").write_text(scores, encoding="utf-8")
        results = json.dumps(results_of(evaluation.judged.assessment.poses), allow_nan=False)
        (out / "predictions.coco.json").write_text(results, encoding="utf-8")
        plots = draw(evaluation, manifest, out)
        (out / "evaluation.html").write_text(page(evaluation, plots), encoding="utf-8")
    except OSError as error:
        raise DataError(
            "results that cannot be written",
            f"--out {out}: {error.strerror}",
            "give a folder that can be written",
        ) from error
