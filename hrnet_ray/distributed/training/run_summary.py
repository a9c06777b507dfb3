"""What a run says when it begins, and what it came to when it ends."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import Experiment
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.distributed.cluster.resources import Share
from hrnet_ray.errors import DivergedError
from hrnet_ray.models.pretrained import WeightsReport
from hrnet_ray.runs.event_log import read_epochs, tolerated
from hrnet_ray.runs.run_dir import write_summary
from hrnet_ray.training.validator import CURVE, WORST16, drawn
from hrnet_ray.visualization import plots


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    folder: Path
    main: str
    """The metric that decides, such as `OKS_AP`."""
    best: float
    best_epoch: int
    epochs: int


def announce(
    experiment: Experiment,
    manifest: Manifest,
    folder: Path,
    share: Share,
    start: WeightsReport | None,
) -> None:
    """Say what begins, or goes on, and what may not be meant so."""
    train, val = manifest.splits["train"].rows, manifest.splits["val"].rows
    print(
        f"{manifest.name}: {train:,} training and {val:,} validation instances, "
        f"{len(manifest.skeleton)} keypoints"
    )
    done = len(read_epochs(folder))
    if done >= experiment.optim.epochs:
        print(f"{folder} is finished: {done} epochs")
    elif done:
        print(f"going on in {folder} after epoch {done}")
    else:
        print(f"writing to {folder}")
        if start:
            print(f"starting from {start}")
    optim = experiment.optim
    if optim.schedule == "steps" and optim.milestones and min(optim.milestones) >= optim.epochs:
        first = min(optim.milestones)
        print(f"note: the rate never drops: --optim.milestones {first} of {optim.epochs} epochs")
    if not share.gpus:
        threads = "1 thread" if share.threads == 1 else f"{share.threads} threads"
        print(f"on CPUs, {threads} a worker: Ray has no GPU, or none was asked for")


def conclude(folder: Path, experiment: Experiment) -> Outcome:
    """Read what was recorded; write summary.json and the plots.

    Raises:
        DivergedError: the loss is no number any more, or no epoch ended with a score.
    """
    epochs = read_epochs(folder)
    if epochs and not math.isfinite(epochs[-1]["train/loss"]):
        raise DivergedError(
            f"the training diverged: its loss is {epochs[-1]['train/loss']}",
            f"{folder}: epoch {epochs[-1]['epoch'] + 1}",
            f"lower --optim.lr (it was {experiment.optim.lr:g}), and give the run another --name",
        )
    main = next(
        (name for name in ("OKS_AP", "PCKh_0.5") if epochs and f"val/{name}" in epochs[-1]), None
    )
    scored = [e for e in epochs if main and e.get(f"val/{main}", float("nan")) >= -1]
    if not main or not scored:
        raise DivergedError(
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
    plots.curves(folder / "plots" / "curves.png", epochs, main)
    plots.per_keypoint(folder / "plots" / "per_keypoint.png", keypoints, of=kind)
    with tolerated(folder, "pictures of the best model"):
        _draw_best(folder, main, best["epoch"])
    outcome = Outcome(folder, main, best[f"val/{main}"], best["epoch"], len(epochs))
    scores = {name: value for name, value in best.items() if name.startswith("val/")}
    summary = {
        "name": experiment.name,
        "metric": main,
        "best": outcome.best,
        "best_epoch": outcome.best_epoch,
        "last": epochs[-1][f"val/{main}"],
        "epochs": outcome.epochs,
        "optim.lr": experiment.optim.lr,
        "heatmap.sigma": experiment.heatmap.sigma,
        "scores": scores,
    }
    write_summary(folder, summary)
    return outcome


def _draw_best(folder: Path, main: str, epoch: int) -> None:
    """The best model's curve, and where it was worst, by the names that every run has."""
    if (folder / CURVE).is_file():
        with (folder / CURVE).open(newline="", encoding="utf-8") as file:
            curve = [(float(x), float(y)) for x, y in list(csv.reader(file))[1:]]
        plots.pck_curve(folder / "plots" / "pck_curve.png", {main: curve}, main=main)
    if (worst := drawn(folder, WORST16, epoch)).is_file():
        codec.write(folder / "plots" / "worst16.png", codec.read(worst))
