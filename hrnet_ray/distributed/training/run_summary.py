"""The header that a run prints at its start, and the summary that it writes at its end."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.cluster.resources import WorkerResources
from hrnet_ray.errors import TrainingDivergedError
from hrnet_ray.models.pretrained import LoadReport
from hrnet_ray.runs.event_log import ignore_write_errors, read_metrics
from hrnet_ray.runs.run_dir import write_summary
from hrnet_ray.training.best_model import PCK_CURVE_FILE
from hrnet_ray.training.validator import WORST_PREDICTIONS, ModelScore, get_epoch_image_path, is_better
from hrnet_ray.visualization import plots


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run."""

    folder: Path
    primary_metric: str
    """Name of the metric that selects the best model, such as `OKS_AP`."""
    best_score: float
    best_epoch: int
    """Counted from 1."""
    num_epochs: int
    best_epe_px: float = math.nan
    """End-point error of the best model, in pixels of the image."""


def print_run_header(
    experiment: ExperimentConfig,
    manifest: DatasetManifest,
    folder: Path,
    worker_resources: WorkerResources,
    load_report: LoadReport | None,
) -> None:
    """Print the dataset, the start or resume, and settings that are probably unintended."""
    train, val = manifest.splits["train"].rows, manifest.splits["val"].rows
    print(f"{manifest.name}: {train:,} training and {val:,} validation instances, {len(manifest.skeleton)} keypoints")
    done = len(read_metrics(folder))
    if done >= experiment.optim.epochs:
        print(f"{folder} is finished: {done} epochs")
    elif done:
        print(f"Resuming {folder} from epoch {done}")
    else:
        print(f"Writing to {folder}")
        if load_report:
            print(f"Starting from {load_report}")
    optim = experiment.optim
    if optim.schedule == "steps" and optim.milestones and min(optim.milestones) >= optim.epochs:
        first = min(optim.milestones)
        print(
            "note: the learning rate never drops, because the first --optim.milestones "
            f"{first} is not below --optim.epochs {optim.epochs}"
        )
    if not worker_resources.gpus:
        threads = "1 thread" if worker_resources.threads == 1 else f"{worker_resources.threads} threads"
        print(f"Training on CPUs with {threads} per worker: Ray has no GPU, or none was requested")


def summarize_run(folder: Path, experiment: ExperimentConfig) -> RunResult:
    """Write summary.json and the plots from the recorded epochs.

    Raises:
        TrainingDivergedError: the last loss is NaN or Inf, or no epoch has a score.
    """
    epochs = read_metrics(folder)
    primary, best = select_best_epoch(epochs, folder=folder, lr=experiment.optim.lr)
    result = RunResult(
        folder, primary, best[f"val/{primary}"], best["epoch"], len(epochs), best.get("val/EPE_px", math.nan)
    )
    _draw_run(result, epochs, best)
    summary = {
        "name": experiment.name,
        "metric": primary,
        "best": result.best_score,
        "best_epoch": result.best_epoch,
        "best_epe_px": result.best_epe_px,
        "last": epochs[-1][f"val/{primary}"],
        "epochs": result.num_epochs,
        "optim.lr": experiment.optim.lr,
        "heatmap.sigma": experiment.heatmap.sigma,
        "scores": {name: value for name, value in best.items() if name.startswith("val/")},
    }
    write_summary(folder, summary)
    return result


def select_best_epoch(epochs: Sequence[dict[str, Any]], *, folder: Path, lr: float) -> tuple[str, dict[str, Any]]:
    """Return the primary metric and the epoch of the best model, see `is_better`.

    Raises:
        TrainingDivergedError: the last loss is NaN or Inf, or no epoch has a score.
    """
    if epochs and not math.isfinite(epochs[-1]["train/loss"]):
        raise TrainingDivergedError(
            f"training diverged: train/loss is {epochs[-1]['train/loss']}",
            f"{folder}: epoch {epochs[-1]['epoch']}",
            f"lower --optim.lr (was {lr:g}), and choose another --name",
        )
    primary = next((name for name in ("OKS_AP", "PCKh_0.5") if epochs and f"val/{name}" in epochs[-1]), None)
    scored = [epoch for epoch in epochs if primary and epoch.get(f"val/{primary}", math.nan) >= -1]
    if not primary or not scored:
        raise TrainingDivergedError(
            "training ended without a score",
            f"{folder / 'metrics.jsonl'}: {len(epochs)} epochs",
            "lower --optim.lr, or inspect the dataset with `hrnet-ray check`",
        )
    best = scored[0]
    for epoch in scored[1:]:
        best = epoch if is_better(get_model_score(epoch, primary), get_model_score(best, primary)) else best
    return primary, best


def get_model_score(epoch: Mapping[str, Any], primary_metric: str) -> ModelScore:
    """Return what the choice of the best model compares, from a line of metrics.jsonl."""
    return ModelScore(
        epoch[f"val/{primary_metric}"], epoch.get("val/EPE_px", math.inf), epoch.get("val/loss", math.inf)
    )


def find_constant_score(epochs: Sequence[Mapping[str, Any]], primary_metric: str) -> float | None:
    """Return the score of all validations if there are several and it never changed, else None."""
    scores = [score for epoch in epochs if (score := epoch.get(f"val/{primary_metric}")) is not None]
    return scores[0] if len(scores) > 1 and len(set(scores)) == 1 else None


def print_constant_score_note(epochs: Sequence[Mapping[str, Any]], primary_metric: str) -> None:
    """Print what may be wrong if all validations have the same score."""
    score = find_constant_score(epochs, primary_metric)
    if score is None:
        return
    reason = (
        "the validation split is too easy or too small to tell epochs apart"
        if score > 0.5
        else "too few steps (--optim.epochs, a smaller --optim.batch-size), the dataset's `oks_sigmas`, or its boxes"
    )
    print(f"note: {primary_metric} is {score:.3f} after every epoch, so EPE_px chose the best model")
    print(f"      possible cause: {reason}")


def _draw_run(result: RunResult, epochs: list[dict[str, Any]], best: Mapping[str, Any]) -> None:
    """Draw the curves of a run, and the scores and images of its best model."""
    plots_dir, kind = result.folder / "plots", result.primary_metric.split("_")[0]
    prefix = f"val/{kind}."
    keypoint_scores = {name.removeprefix(prefix): best[name] for name in best if name.startswith(prefix)}
    plots.plot_training_curves(plots_dir / "curves.png", epochs, result.primary_metric)
    plots.plot_per_keypoint(plots_dir / "per_keypoint.png", keypoint_scores, metric=kind)
    with ignore_write_errors(result.folder, "images of the best model"):
        _draw_best_model(result.folder, result.primary_metric, result.best_epoch)


def _draw_best_model(folder: Path, primary_metric: str, epoch: int) -> None:
    """Draw the PCK curve and copy the worst predictions of the best model to fixed names."""
    if (folder / PCK_CURVE_FILE).is_file():
        with (folder / PCK_CURVE_FILE).open(newline="", encoding="utf-8") as file:
            curve = [(float(x), float(y)) for x, y in list(csv.reader(file))[1:]]
        plots.plot_metric_curve(
            folder / "plots" / "pck_curve.png",
            {primary_metric: curve},
            primary_metric=primary_metric,
        )
    if (worst := get_epoch_image_path(folder, WORST_PREDICTIONS, epoch)).is_file():
        codec.write_image(folder / "plots" / "worst_predictions.png", codec.read_image(worst))
