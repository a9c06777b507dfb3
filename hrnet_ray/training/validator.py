"""What rank 0 does after each validation: score, keep the best model, draw the same crops."""

import csv
import json
import math
from collections.abc import Callable, Set
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import nn

from hrnet_ray.config import Experiment
from hrnet_ray.data import records
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import Manifest, read_table
from hrnet_ray.inference.model_package import save_model
from hrnet_ray.metrics.predictions import Predictions
from hrnet_ray.metrics.validation import Scores, coco_results, curve, errors, paired, score
from hrnet_ray.runs.event_log import tolerated
from hrnet_ray.training.builders import spec_of
from hrnet_ray.training.checkpoint import Progress
from hrnet_ray.training.sample_log import Row
from hrnet_ray.visualization.crop_grid import poses_on_crops

WORST = 0.0  # of any metric that is searched for
SHOWN = 16
"""Validation crops that are drawn: the same after each validation, the worst after each best."""
FIXED, WORST16 = "fixed16", "worst16"
CURVE = "plots/pck_curve.csv"
"""Of the best model; the run's end draws it."""

Look = Callable[[UInt8[np.ndarray, "N H W 3"]], Float[np.ndarray, "N K h w"]]
"""The heatmaps that the model sees in crops."""
Crops = Callable[[Int[np.ndarray, " N"]], records.Arrays]
"""Validation rows by their numbers, as `rows.decode_exact` gives them."""


@dataclass(frozen=True)
class Unkept:
    """A best model that is not on the disk yet."""

    best: Progress
    found: Predictions
    model: nn.Module
    scores: Scores
    curve: list[tuple[float, float]]


class Judge:
    """Scores everybody's predictions, keeps the best model, draws the same crops each time."""

    def __init__(
        self,
        experiment: Experiment,
        manifest: Manifest,
        run_folder: Path,
        *,
        crops: Crops,
    ) -> None:
        self.experiment, self.manifest, self.run_folder = experiment, manifest, run_folder
        self.last = WORST
        """The newest score, for the search; a score that is no number counts as the worst."""
        self._unkept: Unkept | None = None
        self.truth = records.labels_of(read_table(manifest, "val", columns=list(records.LABELS)))
        self._crops = crops
        self._fixed = _readable(crops(np.arange(min(SHOWN, len(self.truth["id"])))))  # once

    def judge(
        self,
        found: Predictions,
        model: nn.Module,
        *,
        look: Look,
        epoch: int,
        done: Progress,
        rotten: Set[Row] = frozenset(),
    ) -> tuple[Progress, dict[str, float]]:
        """Score an epoch; where it is the best so far, keep its model and predictions."""
        found = _numbers(found)
        truth = self._truth_without(rotten)
        scores = score(found, truth, self.manifest.skeleton)
        self.last = scores.value if math.isfinite(scores.value) else WORST
        self._draw(self._fixed, found, FIXED, epoch, heatmaps=look(self._fixed["crop"]))
        best = self._unkept.best if self._unkept else done
        if not scores.value <= best.best:  # the first one is the best even when it is NaN
            best = Progress(epoch=epoch, best=scores.value, best_epoch=epoch)
            line = curve(found, truth, self.manifest.skeleton)
            self._unkept = Unkept(best, found, model, scores, line)
            worst = _readable(self._crops(self._worst(found, truth)))
            self._draw(worst, found, WORST16, epoch)
        if self._unkept and self._kept(self._unkept):
            done, self._unkept = best, None
        figures = {f"val/{name}": value for name, value in scores.summary.items()}
        kind = scores.main.split("_")[0]
        figures |= {f"val/{kind}.{name}": value for name, value in scores.per_keypoint.items()}
        if found.losses is not None:
            figures["val/loss"] = float(found.losses.double().mean())
        return done, figures | {f"val/best.{scores.main}": best.best}

    def _truth_without(self, rotten: Set[Row]) -> records.Arrays:
        """The truth without the rows that nobody could read; the run names and counts them."""
        lost = [id for split, id in rotten if split == "val"]
        readable = ~np.isin(self.truth["id"], lost)
        return {name: column[readable] for name, column in self.truth.items()}

    def _kept(self, unkept: Unkept) -> bool:
        """Whether there was room for the best model; if not, the next validation tries again."""
        with tolerated(self.run_folder, "the best model"):
            self._keep(unkept)
            return True
        self._unkept = replace(unkept, model=deepcopy(unkept.model))  # the model goes on learning
        return False

    def _keep(self, unkept: Unkept) -> None:
        spec = spec_of(self.experiment, self.manifest, unkept.scores.summary)
        save_model(self.run_folder / "model", unkept.model, spec)
        path = self.run_folder / "predictions" / "val.coco.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(coco_results(unkept.found, self.truth)), encoding="utf-8")
        (self.run_folder / CURVE).parent.mkdir(exist_ok=True)
        part = (self.run_folder / CURVE).with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            line = [(f"{threshold:g}", value) for threshold, value in unkept.curve]
            csv.writer(file).writerows([("threshold", "value"), *line])
        part.replace(self.run_folder / CURVE)

    def _worst(self, found: Predictions, truth: records.Arrays) -> Int[np.ndarray, " N"]:
        """The numbers of the rows that came out worst, the very worst first."""
        found, truth = paired(found, truth)
        worst = truth["id"][np.argsort(-errors(found, truth), kind="stable")][:SHOWN]
        number = {id: at for at, id in enumerate(self.truth["id"].tolist())}
        return np.array([number[id] for id in worst.tolist()])

    def _draw(
        self,
        shown: records.Arrays,
        found: Predictions,
        name: str,
        epoch: int,
        *,
        heatmaps: np.ndarray | None = None,
    ) -> None:
        if not len(shown["id"]):
            return
        place = {row: at for at, row in enumerate(found.ids.tolist())}
        order = [place[row] for row in shown["id"].tolist()]
        picture = poses_on_crops(
            list(shown["crop"]),
            shown["crop_from_image"],
            found.image_xy.numpy()[order],
            shown["image_xy"],
            shown["visible"],
            self.manifest.skeleton,
            heatmaps=heatmaps,
        )
        path = drawn(self.run_folder, name, epoch)
        with tolerated(self.run_folder, path.name):
            codec.write(path, picture)


def _readable(crops: records.Arrays) -> records.Arrays:
    return {name: column[crops["readable"]] for name, column in crops.items()}


def _numbers(found: Predictions) -> Predictions:
    """The same where it is numbers; where a net came to none, a keypoint at (0, 0) scoring 0."""

    def finite(tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(tensor.isfinite(), tensor, 0.0)

    return replace(found, image_xy=finite(found.image_xy), scores=finite(found.scores))


def drawn(run_folder: Path, name: str, epoch: int) -> Path:
    """Where the drawn validation crops of an epoch are."""
    return run_folder / "plots" / name / f"epoch_{epoch:04d}.jpg"
