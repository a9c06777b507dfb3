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

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data import records
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.inference.model_package import save_model
from hrnet_ray.metrics.predictions import KeypointPredictions
from hrnet_ray.metrics.validation import (
    ValidationMetrics,
    compute_metric_curve,
    compute_normalized_errors,
    compute_validation_metrics,
    match_rows_by_id,
    to_coco_results,
)
from hrnet_ray.runs.event_log import ignore_write_errors
from hrnet_ray.training.builders import build_model_spec
from hrnet_ray.training.checkpoint import TrainState
from hrnet_ray.training.sample_log import RowKey
from hrnet_ray.visualization.crop_grid import draw_crop_grid

WORST_SCORE = 0.0  # of any metric that is searched for
NUM_SAMPLE_CROPS = 16
"""Validation crops that are drawn: the same after each validation, the worst after each best."""
SAMPLE_PREDICTIONS, WORST_PREDICTIONS = "sample_predictions", "worst_predictions"
PCK_CURVE_FILE = "plots/pck_curve.csv"
"""Of the best model; the run's end draws it."""

HeatmapFn = Callable[[UInt8[np.ndarray, "N H W 3"]], Float[np.ndarray, "N K h w"]]
"""The heatmaps that the model sees in crops."""
LoadCropsFn = Callable[[Int[np.ndarray, " N"]], records.Arrays]
"""Validation rows by their numbers, as `rows.decode_exact` gives them."""


@dataclass(frozen=True)
class PendingBestModel:
    """A best model that is not on the disk yet."""

    train_state: TrainState
    predictions: KeypointPredictions
    model: nn.Module
    scores: ValidationMetrics
    pck_curve: list[tuple[float, float]]


class Validator:
    """Scores everybody's predictions, keeps the best model, draws the same crops each time."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        manifest: DatasetManifest,
        run_folder: Path,
        *,
        load_crops: LoadCropsFn,
    ) -> None:
        self.experiment, self.manifest, self.run_folder = experiment, manifest, run_folder
        self.last_score = WORST_SCORE
        """The newest score, for the search; a score that is no number counts as the worst."""
        self._pending_best: PendingBestModel | None = None
        self.ground_truth = records.get_label_columns(
            read_split(manifest, "val", columns=list(records.LABEL_COLUMNS))
        )
        self._load_crops = load_crops
        self._sample_crops = _filter_readable(
            load_crops(np.arange(min(NUM_SAMPLE_CROPS, len(self.ground_truth["id"]))))
        )  # once

    def validate(
        self,
        predictions: KeypointPredictions,
        model: nn.Module,
        *,
        heatmap_fn: HeatmapFn,
        epoch: int,
        train_state: TrainState,
        corrupt_rows: Set[RowKey] = frozenset(),
    ) -> tuple[TrainState, dict[str, float]]:
        """Score an epoch; where it is the best so far, keep its model and predictions."""
        predictions = _replace_nonfinite(predictions)
        truth = self._drop_corrupt_rows(corrupt_rows)
        scores = compute_validation_metrics(predictions, truth, self.manifest.skeleton)
        self.last_score = (
            scores.primary_value if math.isfinite(scores.primary_value) else WORST_SCORE
        )
        self._draw_sample_grid(
            self._sample_crops,
            predictions,
            SAMPLE_PREDICTIONS,
            epoch,
            heatmaps=heatmap_fn(self._sample_crops["crop"]),
        )
        best = self._pending_best.train_state if self._pending_best else train_state
        if (
            not scores.primary_value <= best.best_score
        ):  # the first one is the best even when it is NaN
            best = TrainState(epoch=epoch, best_score=scores.primary_value, best_epoch=epoch)
            line = compute_metric_curve(predictions, truth, self.manifest.skeleton)
            self._pending_best = PendingBestModel(best, predictions, model, scores, line)
            worst = _filter_readable(self._load_crops(self._select_worst_rows(predictions, truth)))
            self._draw_sample_grid(worst, predictions, WORST_PREDICTIONS, epoch)
        if self._pending_best and self._try_save_best_model(self._pending_best):
            train_state, self._pending_best = best, None
        figures = {f"val/{name}": value for name, value in scores.summary.items()}
        kind = scores.primary_metric.split("_")[0]
        figures |= {f"val/{kind}.{name}": value for name, value in scores.per_keypoint.items()}
        if predictions.losses is not None:
            figures["val/loss"] = float(predictions.losses.double().mean())
        return train_state, figures | {f"val/best.{scores.primary_metric}": best.best_score}

    def _drop_corrupt_rows(self, corrupt_rows: Set[RowKey]) -> records.Arrays:
        """The truth without the rows that nobody could read; the run names and counts them."""
        lost = [id for split, id in corrupt_rows if split == "val"]
        readable = ~np.isin(self.ground_truth["id"], lost)
        return {name: column[readable] for name, column in self.ground_truth.items()}

    def _try_save_best_model(self, pending_best: PendingBestModel) -> bool:
        """Whether there was room for the best model; if not, the next validation tries again."""
        with ignore_write_errors(self.run_folder, "the best model"):
            self._save_best_model(pending_best)
            return True
        self._pending_best = replace(
            pending_best, model=deepcopy(pending_best.model)
        )  # the model goes on learning
        return False

    def _save_best_model(self, pending_best: PendingBestModel) -> None:
        spec = build_model_spec(self.experiment, self.manifest, pending_best.scores.summary)
        save_model(self.run_folder / "model", pending_best.model, spec)
        path = self.run_folder / "predictions" / "val.coco.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps(to_coco_results(pending_best.predictions, self.ground_truth)),
            encoding="utf-8",
        )
        (self.run_folder / PCK_CURVE_FILE).parent.mkdir(exist_ok=True)
        part = (self.run_folder / PCK_CURVE_FILE).with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            line = [(f"{threshold:g}", value) for threshold, value in pending_best.pck_curve]
            csv.writer(file).writerows([("threshold", "value"), *line])
        part.replace(self.run_folder / PCK_CURVE_FILE)

    def _select_worst_rows(
        self, predictions: KeypointPredictions, ground_truth: records.Arrays
    ) -> Int[np.ndarray, " N"]:
        """The numbers of the rows that came out worst, the very worst first."""
        predictions, ground_truth = match_rows_by_id(predictions, ground_truth)
        worst = ground_truth["id"][
            np.argsort(-compute_normalized_errors(predictions, ground_truth), kind="stable")
        ][:NUM_SAMPLE_CROPS]
        number = {id: at for at, id in enumerate(self.ground_truth["id"].tolist())}
        return np.array([number[id] for id in worst.tolist()])

    def _draw_sample_grid(
        self,
        crops: records.Arrays,
        predictions: KeypointPredictions,
        grid_name: str,
        epoch: int,
        *,
        heatmaps: np.ndarray | None = None,
    ) -> None:
        if not len(crops["id"]):
            return
        place = {row: at for at, row in enumerate(predictions.ids.tolist())}
        order = [place[row] for row in crops["id"].tolist()]
        picture = draw_crop_grid(
            list(crops["crop"]),
            crops["crop_from_image"],
            predictions.image_xy.numpy()[order],
            crops["image_xy"],
            crops["visible"],
            self.manifest.skeleton,
            heatmaps=heatmaps,
        )
        path = get_epoch_image_path(self.run_folder, grid_name, epoch)
        with ignore_write_errors(self.run_folder, path.name):
            codec.write_image(path, picture)


def _filter_readable(crops: records.Arrays) -> records.Arrays:
    return {name: column[crops["readable"]] for name, column in crops.items()}


def _replace_nonfinite(predictions: KeypointPredictions) -> KeypointPredictions:
    """The same where it is numbers; where a net came to none, a keypoint at (0, 0) scoring 0."""

    def fill_nonfinite(tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(tensor.isfinite(), tensor, 0.0)

    return replace(
        predictions,
        image_xy=fill_nonfinite(predictions.image_xy),
        scores=fill_nonfinite(predictions.scores),
    )


def get_epoch_image_path(run_folder: Path, grid_name: str, epoch: int) -> Path:
    """Where the drawn validation crops of an epoch are."""
    return run_folder / "plots" / grid_name / f"epoch_{epoch:04d}.jpg"
