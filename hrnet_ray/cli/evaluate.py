"""`hrnet-ray evaluate`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from hrnet_ray.cli.prepare import counter
from hrnet_ray.data.labels import check_folder, make_folder
from hrnet_ray.data.manifest import Manifest, read_manifest
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.inference.evaluation import Candidate, Evaluation, Question, evaluate
from hrnet_ray.inference.evaluation_page import page
from hrnet_ray.inference.evaluation_plots import draw
from hrnet_ray.inference.evaluation_text import as_document, as_text
from hrnet_ray.inference.model_folder import CONFIG, WEIGHTS, load_model
from hrnet_ray.learning.assessment import results_of
from hrnet_ray.learning.bootstrap import RESAMPLES, SEED
from hrnet_ray.learning.oks import NMS_OKS


@dataclass(frozen=True, kw_only=True)
class Args:
    """Score a model on a prepared data set: the tables that papers print, and how sure they are."""

    model: str
    """A model folder, a run's folder, or a model.safetensors beside its config.json."""
    data: Path
    """A prepared data set."""
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


def run(args: Args) -> None:
    """Predict every row once, score once, print and write it all."""
    question = _question(args)
    check_folder(args.data, "--data")
    manifest = read_manifest(args.data)
    candidate = _candidate(args.model, args, "--model")
    against = _candidate(args.against, args, "--against") if args.against else None
    if args.out:
        make_folder(args.out, "--out")  # before the work, not after it
    evaluation = evaluate(manifest, question, candidate, against, progress=counter)
    print(as_text(evaluation))
    if args.out:
        _write(evaluation, manifest, args.out)


def find_model(text: str, flag: str) -> Path:
    """The model folder that a user means by `text`.

    Raises:
        DataError: there is none.
    """
    path = Path(text)
    if path.suffix == ".safetensors" and path.name == WEIGHTS:
        path = path.parent
    for folder in (path, path / "model"):
        if (folder / CONFIG).is_file():
            return folder
    raise DataError(
        "no model there",
        f"{flag} {text}",
        f"give a folder with {CONFIG} and {WEIGHTS}, or a run's folder: runs/<data set>/<run>",
    )


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


def _candidate(text: str, args: Args, flag: str) -> Candidate:
    model, spec = load_model(find_model(text, flag))
    spec = replace(
        spec,
        decode=args.decode or spec.decode,
        flip_test=spec.flip_test if args.flip_test is None else args.flip_test,
    )
    return Candidate(name=text, model=model, spec=spec, device=_device(args.device))


def _device(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name == "gpu" and not there:
        raise UsageError("no GPU that torch can use", "--device gpu", "leave it out, or give cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def _write(evaluation: Evaluation, manifest: Manifest, out: Path) -> None:
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
    print(f"\nwritten: {out / 'evaluation.html'}, scores.json and more beside it")
