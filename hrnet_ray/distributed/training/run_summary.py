"""What a run says when it begins, and what it came to when it ends."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.cluster.resources import WorkerResources
from hrnet_ray.errors import TrainingDivergedError
from hrnet_ray.models.pretrained import LoadReport
from hrnet_ray.runs.event_log import ignore_write_errors, read_metrics
from hrnet_ray.runs.run_dir import write_summary
from hrnet_ray.training.validator import PCK_CURVE_FILE, WORST_PREDICTIONS, get_epoch_image_path
from hrnet_ray.visualization import plots


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    folder: Path
    primary_metric: str
    """The metric that decides, such as `OKS_AP`."""
    best_score: float
    best_epoch: int
    num_epochs: int


def print_run_header(
    experiment: ExperimentConfig,
    manifest: DatasetManifest,
    folder: Path,
    worker_resources: WorkerResources,
    load_report: LoadReport | None,
) -> None:
    """Say what begins, or goes on, and what may not be meant so."""
    train, val = manifest.splits["train"].rows, manifest.splits["val"].rows
    print(
        f"{manifest.name}: {train:,} training and {val:,} validation instances, "
        f"{len(manifest.skeleton)} keypoints"
    )
    done = len(read_metrics(folder))
    if done >= experiment.optim.epochs:
        print(f"{folder} is finished: {done} epochs")
    elif done:
        print(f"going on in {folder} after epoch {done}")
    else:
        print(f"writing to {folder}")
        if load_report:
            print(f"starting from {load_report}")
    optim = experiment.optim
    if optim.schedule == "steps" and optim.milestones and min(optim.milestones) >= optim.epochs:
        first = min(optim.milestones)
        print(f"note: the rate never drops: --optim.milestones {first} of {optim.epochs} epochs")
    if not worker_resources.gpus:
        threads = (
            "1 thread" if worker_resources.threads == 1 else f"{worker_resources.threads} threads"
        )
        print(f"on CPUs, {threads} a worker: Ray has no GPU, or none was asked for")


def summarize_run(folder: Path, experiment: ExperimentConfig) -> RunResult:
    """Read what was recorded; write summary.json and the plots.

    Raises:
        DivergedError: the loss is no number any more, or no epoch ended with a score.
    """
    epochs = read_metrics(folder)
    if epochs and not math.isfinite(epochs[-1]["train/loss"]):
        raise TrainingDivergedError(
            f"the training diverged: its loss is {epochs[-1]['train/loss']}",
            f"{folder}: epoch {epochs[-1]['epoch'] + 1}",
            f"lower --optim.lr (it was {experiment.optim.lr:g}), and give the run another --name",
        )
    main = next(
        (name for name in ("OKS_AP", "PCKh_0.5") if epochs and f"val/{name}" in epochs[-1]), None
    )
    scored = [e for e in epochs if main and e.get(f"val/{main}", float("nan")) >= -1]
    if not main or not scored:
        raise TrainingDivergedError(
            "the training ended without a score",
            f"{folder / 'metrics.jsonl'}: {len(epochs)} epochs",
            "lower --optim.lr, or look at the data with `hrnet-ray check`",
        )
    best = max(scored, key=lambda entry: entry[f"val/{main}"])
    kind = main.split("_")[0]
    keypoints = {
        name.removeprefix(f"val/{kind}."): value
        for name, value in best.items()
        if name.startswith(f"val/{kind}.")
    }
    plots.plot_training_curves(folder / "plots" / "curves.png", epochs, main)
    plots.plot_per_keypoint(folder / "plots" / "per_keypoint.png", keypoints, metric=kind)
    with ignore_write_errors(folder, "pictures of the best model"):
        _draw_best_model(folder, main, best["epoch"])
    outcome = RunResult(folder, main, best[f"val/{main}"], best["epoch"], len(epochs))
    scores = {name: value for name, value in best.items() if name.startswith("val/")}
    summary = {
        "name": experiment.name,
        "metric": main,
        "best": outcome.best_score,
        "best_epoch": outcome.best_epoch,
        "last": epochs[-1][f"val/{main}"],
        "epochs": outcome.num_epochs,
        "optim.lr": experiment.optim.lr,
        "heatmap.sigma": experiment.heatmap.sigma,
        "scores": scores,
    }
    write_summary(folder, summary)
    return outcome


def _draw_best_model(folder: Path, primary_metric: str, epoch: int) -> None:
    """The best model's curve, and where it was worst, by the names that every run has."""
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
