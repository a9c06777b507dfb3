"""What rank 0 does after each validation: score, keep the best model, draw the same crops."""

import json
import math
from collections.abc import Set
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hrnet_ray.config import Experiment
from hrnet_ray.data import pictures, rows
from hrnet_ray.data.manifest import Manifest, read_head, read_table
from hrnet_ray.inference.model_folder import save_model
from hrnet_ray.inference.plots import poses_on_crops
from hrnet_ray.learning.checkpoint import Progress
from hrnet_ray.learning.loop import Predictions
from hrnet_ray.learning.scores import Scores, coco_results, score
from hrnet_ray.runtime.ledger import Row
from hrnet_ray.runtime.recipes import spec_of
from hrnet_ray.runtime.records import tolerated

WORST = 0.0  # of any metric that is searched for
SHOWN = 16  # validation crops drawn after each validation


@dataclass(frozen=True)
class Unkept:
    """A best model that is not on the disk yet."""

    best: Progress
    found: Predictions
    model: nn.Module
    scores: Scores


class Judge:
    """Scores everybody's predictions, keeps the best model, draws the same crops each time."""

    def __init__(
        self,
        experiment: Experiment,
        manifest: Manifest,
        run_folder: Path,
        *,
        shown: rows.Arrays | None = None,
    ) -> None:
        """`shown` are the first `SHOWN` validation rows, where somebody has them decoded."""
        self.experiment, self.manifest, self.run_folder = experiment, manifest, run_folder
        self.last = WORST
        """The newest score, for the search; a score that is no number counts as the worst."""
        self._unkept: Unkept | None = None
        self.truth = rows.labels_of(read_table(manifest, "val", columns=list(rows.LABELS)))
        self.shown = shown or rows.decode_exact(
            rows.checked(read_head(manifest, "val", SHOWN)),
            input_hw=experiment.data.input_hw,
            padding=experiment.data.padding,
        )

    def judge(
        self,
        found: Predictions,
        model: nn.Module,
        *,
        epoch: int,
        done: Progress,
        rotten: Set[Row] = frozenset(),
    ) -> tuple[Progress, dict[str, float]]:
        """Score an epoch; where it is the best so far, keep its model and predictions."""
        found = _numbers(found)
        scores = score(found, self._readable(rotten), self.manifest.skeleton)
        self.last = scores.value if math.isfinite(scores.value) else WORST
        with tolerated(self.run_folder, fixed16(self.run_folder, epoch).name):
            self._draw(found, epoch)
        best = self._unkept.best if self._unkept else done
        if not scores.value <= best.best:  # the first one is the best even when it is NaN
            best = Progress(epoch=epoch, best=scores.value, best_epoch=epoch)
            self._unkept = Unkept(best, found, model, scores)
        if self._unkept and self._kept(self._unkept):
            done, self._unkept = best, None
        figures = {f"val/{name}": value for name, value in scores.summary.items()}
        kind = scores.main.split("_")[0]
        figures |= {f"val/{kind}.{name}": value for name, value in scores.per_keypoint.items()}
        return done, figures | {f"val/best.{scores.main}": best.best}

    def _readable(self, rotten: Set[Row]) -> rows.Arrays:
        """The truth without the rows that nobody could read; the run names and counts them."""
        lost = [id for split, id in rotten if split == "val"]
        readable = ~np.isin(self.truth["id"], lost)
        return {name: column[readable] for name, column in self.truth.items()}

    def _kept(self, unkept: "Unkept") -> bool:
        """Whether there was room for the best model; if not, the next validation tries again."""
        with tolerated(self.run_folder, "the best model"):
            self._keep(unkept.found, unkept.model, unkept.scores)
            return True
        self._unkept = replace(unkept, model=deepcopy(unkept.model))  # the model goes on learning
        return False

    def _keep(self, found: Predictions, model: nn.Module, scores: Scores) -> None:
        spec = spec_of(self.experiment, self.manifest, scores.summary)
        save_model(self.run_folder / "model", model, spec)
        path = self.run_folder / "predictions" / "val.coco.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(coco_results(found, self.truth)), encoding="utf-8")

    def _draw(self, found: Predictions, epoch: int) -> None:
        place = {row: at for at, row in enumerate(found.ids.tolist())}
        shown = {name: column[self.shown["readable"]] for name, column in self.shown.items()}
        order = [place[row] for row in shown["id"].tolist()]
        picture = poses_on_crops(
            list(shown["crop"]),
            shown["crop_from_image"],
            found.image_xy.numpy()[order],
            shown["image_xy"],
            shown["visible"],
            self.manifest.skeleton,
        )
        pictures.write(fixed16(self.run_folder, epoch), picture)


def _numbers(found: Predictions) -> Predictions:
    """The same where it is numbers; where a net came to none, a keypoint at (0, 0) scoring 0."""

    def finite(tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(tensor.isfinite(), tensor, 0.0)

    return replace(found, image_xy=finite(found.image_xy), scores=finite(found.scores))


def fixed16(run_folder: Path, epoch: int) -> Path:
    """Where the drawn validation crops of an epoch are."""
    return run_folder / "plots" / "fixed16" / f"epoch_{epoch:04d}.jpg"
