"""`hrnet-ray demo`: the whole path on made-up tigers, on any laptop."""

import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.cli.smoke import SMALL_NET
from hrnet_ray.cli.train import mlflow_command
from hrnet_ray.cli.tune import search_and_tell
from hrnet_ray.config import (
    AugmentConfig,
    Cluster,
    DataConfig,
    EvaluationConfig,
    Experiment,
    HeatmapConfig,
    OptimConfig,
    override,
)
from hrnet_ray.data.dataset_preparation import prepare
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import Manifest, read_manifest, read_table
from hrnet_ray.data.records import labels_of
from hrnet_ray.data.splits import Source
from hrnet_ray.data.synthetic.datasets import write_tigers
from hrnet_ray.distributed.training.run_summary import Outcome
from hrnet_ray.distributed.training.train import fit
from hrnet_ray.distributed.tuning.search_space import parse_space
from hrnet_ray.distributed.tuning.tune import Search, Study
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.metrics.validation import score
from hrnet_ray.reports.dataset.dataset_report import write_report
from hrnet_ray.runs.progress import counter
from hrnet_ray.skeletons import ATRW
from hrnet_ray.training.builders import recipe_of
from hrnet_ray.visualization.drawing import draw_pose, fitted, sheet

NAME, SEARCH_NAME = "tigers", "search"
DATA, UNSEEN = Path("data", NAME), Path("pictures", "unseen")
SHEET, FIGURES = "predictions.png", "summary.json"
CANVAS_PX = 176  # 1.3 times the longer side of the crop, as large canvases have it
SHOWN = 12  # pictures on the sheet of predictions

BASE = Experiment(
    name="train",
    data=DataConfig(input_hw=(96, 128)),
    model=SMALL_NET,
    heatmap=HeatmapConfig(sigma=1.1, rounded=False),
    augment=AugmentConfig(scale_factor=0.1, rotation_deg=8.0),
    optim=OptimConfig(lr=2e-3, schedule="cosine", warmup_steps=30, epochs=14, batch_size=8),
    evaluation=EvaluationConfig(decode="dark", every=2),
)
"""A small HRNet; unrounded targets and DARK decoding make the most of its 24 x 32 heatmaps."""

SPACE = parse_space(["optim.lr=log(5e-4,5e-3)", "heatmap.sigma=uniform(0.8,2.0)"])
SEARCH = Search(trials=4, at_once=2, grace_epochs=1, reduction=2)
TRIAL_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class Args:
    """Draw tigers, train on them with two workers, search lr x sigma, score, and show it all.

    Needs no data, no network and no GPU: it trains on CPUs everywhere. Repeat it to see the results
    again.
    """

    out: Path = Path("runs/demo")
    pictures: int = 440
    """Training pictures, with one to three tigers each."""
    workers: int = 2
    fresh: bool = False
    """Forget an earlier demo in `out`: its data, runs and figures. Other runs stay, and MLflow's
    file."""


def run(args: Args) -> None:
    """Tell each step, and end with the score and what to do next."""
    started = time.monotonic()
    if args.fresh:
        forget(args.out)
    cluster = cluster_of(args)

    _step(1, "tigers: drawn, labelled, packed into Parquet shards")
    tigers = args.out / DATA
    manifest = _tigers(tigers, count=args.pictures)
    experiment = override(BASE, {"data.root": str(manifest.root)})
    _step(2, "a look at the data, before and after augmentation")
    page = write_report(
        manifest,
        tigers / "check",
        recipe=recipe_of(experiment, manifest),
        sigma=experiment.heatmap.sigma,
    )
    print(f"  {_here(page)}")
    _step(3, f"training: {args.workers} workers on CPUs, DDP under Ray Train")
    trained = fit(experiment, cluster)
    _step(4, "search: learning rate x sigma, under Ray Tune with early stopping")
    study = _search(experiment, cluster)
    _step(5, "score: tigers that neither the training nor the search has seen")
    summary = _score(manifest, trained, study, args.out, seconds=time.monotonic() - started)
    _ending(summary, page, trained, cluster, args.out)


def forget(out: Path) -> None:
    """Delete what a demo made in `out`, and nothing where there was none."""
    if not (out / DATA / UNSEEN).is_dir():
        return
    for name in (SHEET, FIGURES):
        (out / name).unlink(missing_ok=True)
    for folder in (out / NAME / BASE.name, out / NAME / SEARCH_NAME, out / DATA):
        shutil.rmtree(folder, ignore_errors=True)  # the data last: by them a demo is known


def cluster_of(args: Args) -> Cluster:
    """CPUs, for which the recipe is made: each worker and each trial would want its own GPU."""
    return Cluster(workers=args.workers, storage=str(args.out), device="cpu")


def _tigers(root: Path, *, count: int) -> Manifest:
    if (root / "manifest.json").is_file():
        print("  from the earlier demo")
        return read_manifest(root)
    raw = root / "pictures"
    write_tigers(raw / "seen", train=count, val=50, seed=0, progress=counter("drawn"))
    write_tigers(root / UNSEEN, train=0, val=60, seed=1)
    return prepare(
        {
            split: Source(
                read_coco(raw / part / "annotations" / f"keypoint_{kind}.json", skeleton=ATRW),
                raw / part / "images" / kind,
            )
            for split, part, kind in (
                ("train", "seen", "train"),
                ("val", "seen", "val"),
                ("test", "unseen", "val"),
            )
        },
        out=root,
        name=NAME,
        canvas_px=CANVAS_PX,
    )


def _search(experiment: Experiment, cluster: Cluster) -> Study:
    changes = {"name": SEARCH_NAME, "optim.epochs": TRIAL_EPOCHS, "evaluation.every": 1}
    alone = replace(cluster, workers=1)  # a trial a core
    return search_and_tell(override(experiment, changes), SPACE, alone, SEARCH)


def _score(
    manifest: Manifest, trained: Outcome, study: Study, out: Path, *, seconds: float
) -> dict[str, Any]:
    predictor = Predictor.from_folder(trained.folder / "model")
    table = read_table(manifest, "test")
    truth = labels_of(table)
    found = predictor.predict_table(table)
    scores = score(found, truth, manifest.skeleton)
    images = table["image"].to_pylist()
    folder = Path(manifest.root) / UNSEEN / "images" / "val"
    _overlays(folder, images, truth["id"], found.ids.numpy(), found.image_xy.numpy(), out)
    summary = {
        "OKS_AP": scores.summary["OKS_AP"],
        "scores": scores.summary,
        "per_keypoint": scores.per_keypoint,
        "validation_OKS_AP": trained.best,
        "best_lr": study.best["optim.lr"],
        "best_sigma": study.best["heatmap.sigma"],
        "best_trial_OKS_AP": study.best["score"],
        "trials": study.trials,
        "test_tigers": table.num_rows,
        "seconds": round(seconds, 1),
    }
    (out / FIGURES).write_text(json.dumps(summary, indent=2), encoding="utf-8")
    return summary


def _overlays(
    folder: Path,
    images: list[str],
    rows: np.ndarray,
    found: np.ndarray,
    image_xy: np.ndarray,
    out: Path,
) -> None:
    """One sheet of pictures with every predicted tiger on it."""
    place = {row: at for at, row in enumerate(found.tolist())}
    tiles = []
    for name in list(dict.fromkeys(images))[:SHOWN]:
        picture = codec.read(folder / name)
        for row, image in zip(rows.tolist(), images, strict=True):
            if image == name:
                everything = np.ones(len(ATRW), bool)
                picture = draw_pose(picture, image_xy[place[row]], everything, ATRW)
        tiles.append(fitted(picture, size_hw=(240, 320))[0])
    codec.write(out / SHEET, sheet(tiles, columns=4))


def _step(number: int, what: str) -> None:
    print(f"\n[{number}/5] {what}", flush=True)


def _here(path: Path) -> str:
    return os.path.relpath(path)


def _ending(
    summary: dict[str, Any], page: Path, trained: Outcome, cluster: Cluster, out: Path
) -> None:
    print(
        f"""
done in {summary["seconds"]:.0f} s
  OKS AP {summary["OKS_AP"]:.3f} on {summary["test_tigers"]} unseen tigers (challenge sigmas; {
            summary["scores"]["OKS_AP_mmpose"]:.3f} with mmpose's)
  best of the search: lr {summary["best_lr"]:.2g}, sigma {summary["best_sigma"]:.2g}

look at
  the predictions   {_here(out / SHEET)}
  the data          {_here(page)}
  the training      {_here(trained.folder / "plots" / "curves.png")}
  all the figures   {_here(out / FIGURES)}
  runs side by side {mlflow_command(cluster)}

with your own pictures
  hrnet-ray prepare coco --images DIR --annotations FILE --out data/mine
  hrnet-ray check data/mine
  hrnet-ray train --name first --data.root data/mine"""
    )
