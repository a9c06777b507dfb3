"""Scoring of a validation on rank 0, and its image grids."""

import math
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from hrnet_ray.data import records
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.metrics.predictions import KeypointPredictions
from hrnet_ray.metrics.validation import (
    ValidationMetrics,
    compute_normalized_errors,
    compute_validation_metrics,
    match_rows_by_id,
)
from hrnet_ray.runs.event_log import ignore_write_errors
from hrnet_ray.training.sample_log import RowKey
from hrnet_ray.visualization.crop_grid import draw_crop_grid

WORST_SCORE = 0.0
"""The lowest value of every metric that a search can maximize."""
NUM_SAMPLE_CROPS = 16
"""Validation crops in an image grid."""
SAMPLE_PREDICTIONS, WORST_PREDICTIONS = "sample_predictions", "worst_predictions"
"""Folders in `plots`: the same crops after each validation, the worst ones after each best."""

HeatmapFn = Callable[[UInt8[np.ndarray, "N H W 3"]], Float[np.ndarray, "N K h w"]]
"""Computes the model's heatmaps for crops."""
LoadCropsFn = Callable[[Int[np.ndarray, " N"]], records.Arrays]
"""Loads validation rows by position, as `records.decode_eval_batch` returns them."""


class ModelScore(NamedTuple):
    """The primary metric of a model, and what breaks ties: the end-point error, then the validation loss."""

    score: float
    epe_px: float = math.inf
    loss: float = math.inf


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The outcome of one validation."""

    epoch: int
    """Counted from 1."""
    predictions: KeypointPredictions
    ground_truth: records.Arrays
    """Labels of the readable rows."""
    metrics: ValidationMetrics
    is_best: bool
    """Whether no earlier epoch is better, see `is_better`."""

    @property
    def score(self) -> float:
        """Value of the primary metric; may be NaN."""
        return self.metrics.primary_value

    @property
    def loss(self) -> float:
        """Mean validation loss; NaN if it was not computed."""
        losses = self.predictions.losses
        return math.nan if losses is None else float(losses.double().mean())

    @property
    def model_score(self) -> ModelScore:
        """What the choice of the best model compares."""
        return ModelScore(self.score, self.metrics.summary["EPE_px"], self.loss)

    @property
    def objective(self) -> float:
        """Score for a search: NaN and Inf count as the worst."""
        return self.score if math.isfinite(self.score) else WORST_SCORE

    def to_metrics(self) -> dict[str, float]:
        """Return the line for metrics.jsonl: summary, scores by keypoint, and the loss."""
        values = {f"val/{name}": value for name, value in self.metrics.summary.items()}
        kind = self.metrics.primary_metric.split("_")[0]
        values |= {f"val/{kind}.{name}": v for name, v in self.metrics.per_keypoint.items()}
        if self.predictions.losses is not None:
            values["val/loss"] = self.loss
        return values


class Validator:
    """Scores the predictions of all ranks, and draws the same crops each time."""

    def __init__(self, manifest: DatasetManifest, run_folder: Path, *, load_crops: LoadCropsFn) -> None:
        self.manifest, self.run_folder = manifest, run_folder
        self.last_objective = WORST_SCORE
        """Objective of the newest validation."""
        self.ground_truth = records.get_label_columns(read_split(manifest, "val", columns=list(records.LABEL_COLUMNS)))
        self._load_crops = load_crops
        num_samples = min(NUM_SAMPLE_CROPS, len(self.ground_truth["id"]))
        self._sample_crops = _filter_readable(load_crops(np.arange(num_samples)))

    def validate(
        self,
        predictions: KeypointPredictions,
        *,
        heatmap_fn: HeatmapFn,
        epoch: int,
        best_score: ModelScore,
        corrupt_rows: Set[RowKey] = frozenset(),
    ) -> ValidationResult:
        """Score an epoch (counted from 1) and draw its image grids."""
        predictions = _replace_nonfinite(predictions)
        ground_truth = self._drop_corrupt_rows(corrupt_rows)
        metrics = compute_validation_metrics(predictions, ground_truth, self.manifest.skeleton)
        result = ValidationResult(
            epoch=epoch,
            predictions=predictions,
            ground_truth=ground_truth,
            metrics=metrics,
            is_best=False,
        )
        result = replace(result, is_best=is_better(result.model_score, best_score))
        self.last_objective = result.objective
        heatmaps = heatmap_fn(self._sample_crops["crop"])
        self._draw_grid(self._sample_crops, result, SAMPLE_PREDICTIONS, heatmaps=heatmaps)
        if result.is_best:
            worst_crops = _filter_readable(self._load_crops(self._select_worst_rows(result)))
            self._draw_grid(worst_crops, result, WORST_PREDICTIONS)
        return result

    def _drop_corrupt_rows(self, corrupt_rows: Set[RowKey]) -> records.Arrays:
        """Leave out the labels of rows that no rank could decode."""
        corrupt_ids = [id for split, id in corrupt_rows if split == "val"]
        readable = ~np.isin(self.ground_truth["id"], corrupt_ids)
        return {name: column[readable] for name, column in self.ground_truth.items()}

    def _select_worst_rows(self, result: ValidationResult) -> Int[np.ndarray, " N"]:
        """Return the positions of the rows with the largest errors, the largest first."""
        predictions, ground_truth = match_rows_by_id(result.predictions, result.ground_truth)
        errors = compute_normalized_errors(predictions, ground_truth)
        worst_ids = ground_truth["id"][np.argsort(-errors, kind="stable")][:NUM_SAMPLE_CROPS]
        position = {id: index for index, id in enumerate(self.ground_truth["id"].tolist())}
        return np.array([position[id] for id in worst_ids.tolist()])

    def _draw_grid(
        self,
        crops: records.Arrays,
        result: ValidationResult,
        grid_name: str,
        *,
        heatmaps: np.ndarray | None = None,
    ) -> None:
        if not len(crops["id"]):
            return
        position = {id: index for index, id in enumerate(result.predictions.ids.tolist())}
        order = [position[id] for id in crops["id"].tolist()]
        image = draw_crop_grid(
            list(crops["crop"]),
            crops["crop_from_image"],
            result.predictions.image_xy.numpy()[order],
            crops["image_xy"],
            crops["visible"],
            self.manifest.skeleton,
            heatmaps=heatmaps,
        )
        path = get_epoch_image_path(self.run_folder, grid_name, result.epoch)
        with ignore_write_errors(self.run_folder, path.name):
            codec.write_image(path, image)


def is_better(new: ModelScore, best: ModelScore) -> bool:
    """Whether a model replaces the best so far; any score replaces NaN and the initial -Inf.

    Equal scores, such as an AP of 0 in the first epochs or of 1, are decided by the lower end-point
    error, then by the lower loss; of equal models the later one is better.
    """
    if new.score != best.score:
        return new.score > best.score or not math.isfinite(best.score)
    return _sort_nan_last(new[1:]) <= _sort_nan_last(best[1:])


def _sort_nan_last(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(math.inf if math.isnan(value) else value for value in values)


def get_epoch_image_path(run_folder: Path, grid_name: str, epoch: int) -> Path:
    """Return the path of an image grid; epochs count from 1."""
    return run_folder / "plots" / grid_name / f"epoch_{epoch:04d}.jpg"


def _filter_readable(crops: records.Arrays) -> records.Arrays:
    return {name: column[crops["readable"]] for name, column in crops.items()}


def _replace_nonfinite(predictions: KeypointPredictions) -> KeypointPredictions:
    """Replace NaN and Inf coordinates and scores by 0."""

    def fill_nonfinite(tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(tensor.isfinite(), tensor, 0.0)

    return replace(
        predictions,
        image_xy=fill_nonfinite(predictions.image_xy),
        scores=fill_nonfinite(predictions.scores),
    )
