"""`hrnet-ray demo`: run every step on synthetic tigers, on any laptop."""

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
from hrnet_ray.utils.files import write_text_atomically
from hrnet_ray.visualization.drawing import draw_pose, render_image_grid, resize_to_fit

DATASET_NAME, SEARCH_NAME = "tigers", "search"
DATASET_DIR, TEST_IMAGES_DIR = Path("data", DATASET_NAME), Path("pictures", "unseen")
PREDICTIONS_IMAGE, SUMMARY_FILE = "predictions.png", "summary.json"
MAX_IMAGE_SIZE_PX = 176
"""Longest side of a stored image, in pixels: 1.3 times that of the crop, as for real datasets."""
MAX_SHOWN_IMAGES = 12
"""Number of images in the grid of predictions."""

BASE_CONFIG = ExperimentConfig(
    name="train",
    data=DataConfig(input_hw=(96, 128)),
    model=SMALL_MODEL_CONFIG,
    heatmap=HeatmapConfig(sigma=1.1, quantize_center=False),
    augment=AugmentationConfig(scale_factor=0.1, rotation_deg=8.0),
    optim=OptimizerConfig(lr=2e-3, schedule="cosine", warmup_steps=30, epochs=14, batch_size=8),
    evaluation=EvaluationConfig(decode="dark", val_interval=2),
)
"""A small HRNet; unrounded targets and DARK decoding suit its small heatmaps (24 x 32)."""

SEARCH_SPACE = parse_search_space(["optim.lr=log(5e-4,5e-3)", "heatmap.sigma=uniform(0.8,2.0)"])
SEARCH_CONFIG = SearchConfig(num_trials=4, max_concurrent_trials=2, grace_period=1, reduction_factor=2)
TRIAL_EPOCHS = 2
"""Epochs of a trial of the search."""


@dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """Generate tigers, train with two workers, search learning rate and heatmap sigma, and score.

    The demo needs no data, no network and no GPU; it trains on CPUs. The same command resumes it or
    prints the results again.
    """

    out: Path = Path("runs/demo")
    """Folder for the dataset, the runs and the results."""
    num_images: int = 440
    """Number of training images, with one to three tigers each."""
    num_workers: int = 2
    """Number of training workers."""
    overwrite: bool = False
    """Delete the dataset, the runs and the results of an earlier demo in --out. Other runs and the
    MLflow database are kept."""


def run(args: DemoArgs) -> None:
    """Run the five steps, and print the score and the next commands."""
    start_s = time.monotonic()
    if args.overwrite:
        delete_demo(args.out)
    cluster = build_demo_cluster_config(args)

    _print_step(1, "prepare: generate images and labels, write Parquet shards")
    dataset_dir = args.out / DATASET_DIR
    manifest = _prepare_tigers(dataset_dir, num_images=args.num_images)
    experiment = with_overrides(BASE_CONFIG, {"data.root": str(manifest.root)})
    _print_step(2, "check: report on the dataset, before and after augmentation")
    report_path = write_dataset_report(
        manifest,
        dataset_dir / "check",
        pipeline_config=build_augmentation_config(experiment, manifest),
        sigma=experiment.heatmap.sigma,
    )
    print(f"  {os.path.relpath(report_path)}")
    _print_step(3, f"train: {args.num_workers} workers on CPUs, DDP with Ray Train")
    trained = train_experiment(experiment, cluster)
    _print_step(4, "tune: search learning rate and heatmap sigma with Ray Tune and early stopping")
    study = _run_search(experiment, cluster)
    _print_step(5, "evaluate: score the model on a test split")
    summary = _evaluate_on_test_split(manifest, trained, study, args.out, seconds=time.monotonic() - start_s)
    _print_summary(summary, report_path, trained, cluster, args.out)


def delete_demo(out: Path) -> None:
    """Delete the files of a demo in `out`; without a demo, delete nothing."""
    if not (out / DATASET_DIR / TEST_IMAGES_DIR).is_dir():
        return
    for name in (PREDICTIONS_IMAGE, SUMMARY_FILE):
        (out / name).unlink(missing_ok=True)
    for folder in (
        out / DATASET_NAME / BASE_CONFIG.name,
        out / DATASET_NAME / SEARCH_NAME,
        out / DATASET_DIR,
    ):
        shutil.rmtree(folder, ignore_errors=True)  # the dataset last: it identifies a demo


def build_demo_cluster_config(args: DemoArgs) -> ClusterConfig:
    """Build cluster settings for CPUs; on GPUs each worker and trial would need its own."""
    return ClusterConfig(num_workers=args.num_workers, storage_path=str(args.out), device="cpu")


def _prepare_tigers(root: Path, *, num_images: int) -> DatasetManifest:
    if (root / "manifest.json").is_file():
        print("  reusing the dataset of the earlier demo")
        return read_manifest(root)
    raw = root / "pictures"
    write_tiger_dataset(
        raw / "seen",
        num_train=num_images,
        num_val=50,
        seed=0,
        on_progress=make_progress_line("generated"),
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
    changes = {"name": SEARCH_NAME, "optim.epochs": TRIAL_EPOCHS, "evaluation.val_interval": 1}
    trial_cluster = replace(cluster, num_workers=1)  # so that two trials run at the same time
    return run_study_and_report(with_overrides(experiment, changes), SEARCH_SPACE, trial_cluster, SEARCH_CONFIG)


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
    predictions = predictor.predict_table(table)
    scores = compute_validation_metrics(predictions, truth, manifest.skeleton)
    images = table["image"].to_pylist()
    folder = Path(manifest.root) / TEST_IMAGES_DIR / "images" / "val"
    image_xy = dict(zip(predictions.ids.tolist(), predictions.image_xy.numpy(), strict=True))  # [K, 2] by row id
    _draw_predictions(folder, images, [image_xy[row] for row in truth["id"].tolist()], out)
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
    write_text_atomically(out / SUMMARY_FILE, json.dumps(summary, indent=2))
    return summary


def _draw_predictions(folder: Path, image_names: list[str], poses_xy: list[np.ndarray], out: Path) -> None:
    """Write a grid of images with the predicted poses; both lists have an entry per tiger."""
    all_visible = np.ones(len(ATRW), bool)
    tiles = []
    for name in list(dict.fromkeys(image_names))[:MAX_SHOWN_IMAGES]:
        image = codec.read_image(folder / name)
        for image_name, pose_xy in zip(image_names, poses_xy, strict=True):
            if image_name == name:
                image = draw_pose(image, pose_xy, all_visible, ATRW)
        tiles.append(resize_to_fit(image, size_hw=(240, 320))[0])
    codec.write_image(out / PREDICTIONS_IMAGE, render_image_grid(tiles, columns=4))


def _print_step(number: int, title: str) -> None:
    print(f"\n[{number}/5] {title}", flush=True)


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
  OKS AP {summary["OKS_AP"]:.3f} on {summary["test_tigers"]} test tigers (challenge OKS sigmas; {
            summary["scores"]["OKS_AP_mmpose"]:.3f} with mmpose's)
  best trial: learning rate {summary["best_lr"]:.2g}, heatmap sigma {summary["best_sigma"]:.2g}

results
  predictions     {os.path.relpath(out / PREDICTIONS_IMAGE)}
  dataset report  {os.path.relpath(report_path)}
  training plots  {os.path.relpath(training_result.folder / "plots" / "curves.png")}
  all scores      {os.path.relpath(out / SUMMARY_FILE)}
  compare runs    {format_mlflow_ui_command(cluster)}

with your own images
  hrnet-ray prepare coco --images DIR --annotations FILE --out data/mine
  hrnet-ray check data/mine
  hrnet-ray train --name first --data.root data/mine"""
    )
