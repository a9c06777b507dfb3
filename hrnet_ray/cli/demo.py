"""`hrnet-ray demo`: the whole path on made-up tigers, on any laptop."""

import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.cli.smoke import SMALL_MODEL_CONFIG
from hrnet_ray.cli.train import format_mlflow_ui_command
from hrnet_ray.cli.tune import run_study_and_report
from hrnet_ray.config import (
    AugmentationConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    HeatmapConfig,
    OptimizerConfig,
    with_overrides,
)
from hrnet_ray.data.dataset_preparation import prepare_dataset
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest, read_manifest, read_split
from hrnet_ray.data.records import get_label_columns
from hrnet_ray.data.splits import SplitSource
from hrnet_ray.data.synthetic.datasets import write_tiger_dataset
from hrnet_ray.distributed.training.run_summary import RunResult
from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.distributed.tuning.search_space import parse_search_space
from hrnet_ray.distributed.tuning.tune import SearchConfig, StudyResult
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.metrics.validation import compute_validation_metrics
from hrnet_ray.reports.dataset.dataset_report import write_dataset_report
from hrnet_ray.runs.progress import make_progress_line
from hrnet_ray.skeletons import ATRW
from hrnet_ray.training.builders import build_augmentation_config
from hrnet_ray.visualization.drawing import draw_pose, render_image_grid, resize_to_fit

DATASET_NAME, SEARCH_NAME = "tigers", "search"
DATASET_DIR, TEST_IMAGES_DIR = Path("data", DATASET_NAME), Path("pictures", "unseen")
PREDICTIONS_IMAGE, SUMMARY_FILE = "predictions.png", "summary.json"
MAX_IMAGE_SIZE_PX = 176  # 1.3 times the longer side of the crop, as large canvases have it
MAX_SHOWN_IMAGES = 12  # pictures on the sheet of predictions

BASE_CONFIG = ExperimentConfig(
    name="train",
    data=DataConfig(input_hw=(96, 128)),
    model=SMALL_MODEL_CONFIG,
    heatmap=HeatmapConfig(sigma=1.1, quantize_center=False),
    augment=AugmentationConfig(scale_factor=0.1, rotation_deg=8.0),
    optim=OptimizerConfig(lr=2e-3, schedule="cosine", warmup_steps=30, epochs=14, batch_size=8),
    evaluation=EvaluationConfig(decode="dark", val_interval=2),
)
"""A small HRNet; unrounded targets and DARK decoding make the most of its 24 x 32 heatmaps."""

SEARCH_SPACE = parse_search_space(["optim.lr=log(5e-4,5e-3)", "heatmap.sigma=uniform(0.8,2.0)"])
SEARCH_CONFIG = SearchConfig(
    num_trials=4, max_concurrent_trials=2, grace_period=1, reduction_factor=2
)
TRIAL_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """Draw tigers, train on them with two workers, search lr x sigma, score, and show it all.

    Needs no data, no network and no GPU: it trains on CPUs everywhere. Repeat it to see the results
    again.
    """

    out: Path = Path("runs/demo")
    num_images: int = 440
    """Training pictures, with one to three tigers each."""
    num_workers: int = 2
    overwrite: bool = False
    """Forget an earlier demo in `out`: its data, runs and figures. Other runs stay, and MLflow's
    file."""


def run(args: DemoArgs) -> None:
    """Tell each step, and end with the score and what to do next."""
    started = time.monotonic()
    if args.overwrite:
        delete_demo(args.out)
    cluster = build_demo_cluster_config(args)

    _print_step(1, "tigers: drawn, labelled, packed into Parquet shards")
    tigers = args.out / DATASET_DIR
    manifest = _prepare_tigers(tigers, num_images=args.num_images)
    experiment = with_overrides(BASE_CONFIG, {"data.root": str(manifest.root)})
    _print_step(2, "a look at the data, before and after augmentation")
    page = write_dataset_report(
        manifest,
        tigers / "check",
        pipeline_config=build_augmentation_config(experiment, manifest),
        sigma=experiment.heatmap.sigma,
    )
    print(f"  {_to_relative_path(page)}")
    _print_step(3, f"training: {args.num_workers} workers on CPUs, DDP under Ray Train")
    trained = train_experiment(experiment, cluster)
    _print_step(4, "search: learning rate x sigma, under Ray Tune with early stopping")
    study = _run_search(experiment, cluster)
    _print_step(5, "score: tigers that neither the training nor the search has seen")
    summary = _evaluate_on_test_split(
        manifest, trained, study, args.out, seconds=time.monotonic() - started
    )
    _print_summary(summary, page, trained, cluster, args.out)


def delete_demo(out: Path) -> None:
    """Delete what a demo made in `out`, and nothing where there was none."""
    if not (out / DATASET_DIR / TEST_IMAGES_DIR).is_dir():
        return
    for name in (PREDICTIONS_IMAGE, SUMMARY_FILE):
        (out / name).unlink(missing_ok=True)
    for folder in (
        out / DATASET_NAME / BASE_CONFIG.name,
        out / DATASET_NAME / SEARCH_NAME,
        out / DATASET_DIR,
    ):
        shutil.rmtree(folder, ignore_errors=True)  # the data last: by them a demo is known


def build_demo_cluster_config(args: DemoArgs) -> ClusterConfig:
    """CPUs, for which the recipe is made: each worker and each trial would want its own GPU."""
    return ClusterConfig(num_workers=args.num_workers, storage_path=str(args.out), device="cpu")


def _prepare_tigers(root: Path, *, num_images: int) -> DatasetManifest:
    if (root / "manifest.json").is_file():
        print("  from the earlier demo")
        return read_manifest(root)
    raw = root / "pictures"
    write_tiger_dataset(
        raw / "seen",
        num_train=num_images,
        num_val=50,
        seed=0,
        on_progress=make_progress_line("drawn"),
    )
    write_tiger_dataset(root / TEST_IMAGES_DIR, num_train=0, num_val=60, seed=1)
    return prepare_dataset(
        {
            split: SplitSource(
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
        name=DATASET_NAME,
        canvas_px=MAX_IMAGE_SIZE_PX,
    )


def _run_search(experiment: ExperimentConfig, cluster: ClusterConfig) -> StudyResult:
    changes = {"name": SEARCH_NAME, "optim.epochs": TRIAL_EPOCHS, "evaluation.val-interval": 1}
    alone = replace(cluster, num_workers=1)  # a trial a core
    return run_study_and_report(
        with_overrides(experiment, changes), SEARCH_SPACE, alone, SEARCH_CONFIG
    )


def _evaluate_on_test_split(
    manifest: DatasetManifest,
    training_result: RunResult,
    study_result: StudyResult,
    out: Path,
    *,
    seconds: float,
) -> dict[str, Any]:
    predictor = Predictor.from_model_dir(training_result.folder / "model")
    table = read_split(manifest, "test")
    truth = get_label_columns(table)
    found = predictor.predict_table(table)
    scores = compute_validation_metrics(found, truth, manifest.skeleton)
    images = table["image"].to_pylist()
    folder = Path(manifest.root) / TEST_IMAGES_DIR / "images" / "val"
    _draw_predictions(folder, images, truth["id"], found.ids.numpy(), found.image_xy.numpy(), out)
    summary = {
        "OKS_AP": scores.summary["OKS_AP"],
        "scores": scores.summary,
        "per_keypoint": scores.per_keypoint,
        "validation_OKS_AP": training_result.best_score,
        "best_lr": study_result.best_trial["optim.lr"],
        "best_sigma": study_result.best_trial["heatmap.sigma"],
        "best_trial_OKS_AP": study_result.best_trial["score"],
        "trials": study_result.trials,
        "test_tigers": table.num_rows,
        "seconds": round(seconds, 1),
    }
    (out / SUMMARY_FILE).write_text(json.dumps(summary, indent=2), encoding="utf-8")
    return summary


def _draw_predictions(
    folder: Path,
    image_names: list[str],
    truth_ids: np.ndarray,
    predicted_ids: np.ndarray,
    image_xy: np.ndarray,
    out: Path,
) -> None:
    """One sheet of pictures with every predicted tiger on it."""
    place = {row: at for at, row in enumerate(predicted_ids.tolist())}
    tiles = []
    for name in list(dict.fromkeys(image_names))[:MAX_SHOWN_IMAGES]:
        picture = codec.read_image(folder / name)
        for row, image in zip(truth_ids.tolist(), image_names, strict=True):
            if image == name:
                everything = np.ones(len(ATRW), bool)
                picture = draw_pose(picture, image_xy[place[row]], everything, ATRW)
        tiles.append(resize_to_fit(picture, size_hw=(240, 320))[0])
    codec.write_image(out / PREDICTIONS_IMAGE, render_image_grid(tiles, columns=4))


def _print_step(number: int, what: str) -> None:
    print(f"\n[{number}/5] {what}", flush=True)


def _to_relative_path(path: Path) -> str:
    return os.path.relpath(path)


def _print_summary(
    summary: dict[str, Any],
    report_path: Path,
    training_result: RunResult,
    cluster: ClusterConfig,
    out: Path,
) -> None:
    print(
        f"""
done in {summary["seconds"]:.0f} s
  OKS AP {summary["OKS_AP"]:.3f} on {summary["test_tigers"]} unseen tigers (challenge sigmas; {
            summary["scores"]["OKS_AP_mmpose"]:.3f} with mmpose's)
  best of the search: lr {summary["best_lr"]:.2g}, sigma {summary["best_sigma"]:.2g}

look at
  the predictions   {_to_relative_path(out / PREDICTIONS_IMAGE)}
  the data          {_to_relative_path(report_path)}
  the training      {_to_relative_path(training_result.folder / "plots" / "curves.png")}
  all the figures   {_to_relative_path(out / SUMMARY_FILE)}
  runs side by side {format_mlflow_ui_command(cluster)}

with your own pictures
  hrnet-ray prepare coco --images DIR --annotations FILE --out data/mine
  hrnet-ray check data/mine
  hrnet-ray train --name first --data.root data/mine"""
    )
