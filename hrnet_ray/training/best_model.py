"""The best model of a run on disk: `model/`, its predictions and its PCK curve."""

import csv
import io
import json
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data import records
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.inference.model_package import save_model
from hrnet_ray.metrics.validation import compute_metric_curve, to_coco_results
from hrnet_ray.runs.event_log import ignore_write_errors
from hrnet_ray.training.builders import build_model_spec
from hrnet_ray.training.checkpoint import TrainState
from hrnet_ray.training.validator import ModelScore, ValidationResult
from hrnet_ray.utils.files import write_text_atomically

PCK_CURVE_FILE = "plots/pck_curve.csv"
"""Thresholds and values of the best model; `summarize_run` plots them."""
PREDICTIONS_FILE = "predictions/val.coco.json"


@dataclass(frozen=True)
class PendingBestModel:
    """A best model that is not on disk yet."""

    result: ValidationResult
    model: nn.Module


class BestModelWriter:
    """Writes each new best model; if the disk is full, tries again after the next validation."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        manifest: DatasetManifest,
        run_folder: Path,
        *,
        ground_truth: records.Arrays,
    ) -> None:
        self.experiment, self.manifest, self.run_folder = experiment, manifest, run_folder
        self._ground_truth = ground_truth
        self._pending: PendingBestModel | None = None

    def get_best_score(self, train_state: TrainState) -> ModelScore:
        """Return the best score so far, whether its model is on disk or not."""
        if self._pending:
            return self._pending.result.model_score
        return ModelScore(train_state.best_score, train_state.best_epe_px, train_state.best_loss)

    def update(self, result: ValidationResult, model: nn.Module, train_state: TrainState) -> TrainState:
        """Write the model if it is the best; the returned state names the best model on disk."""
        if result.is_best:
            self._pending = PendingBestModel(result, model)
        if not self._pending or not self._try_save(self._pending):
            return train_state
        saved, self._pending = self._pending.result, None
        score, epe_px, loss = saved.model_score
        return replace(train_state, best_score=score, best_epe_px=epe_px, best_loss=loss, best_epoch=saved.epoch)

    def _try_save(self, pending: PendingBestModel) -> bool:
        with ignore_write_errors(self.run_folder, "the best model"):
            self._save(pending)
            return True
        # Training continues with `model`, so the pending model needs its own weights.
        self._pending = replace(pending, model=deepcopy(pending.model))
        return False

    def _save(self, pending: PendingBestModel) -> None:
        result = pending.result
        spec = build_model_spec(self.experiment, self.manifest, result.metrics.summary)
        save_model(self.run_folder / "model", pending.model, spec)
        curve = compute_metric_curve(result.predictions, result.ground_truth, self.manifest.skeleton)
        rows = [(f"{threshold:g}", value) for threshold, value in curve]
        curve_csv = io.StringIO(newline="")
        csv.writer(curve_csv).writerows([("threshold", "value"), *rows])
        coco_results = to_coco_results(result.predictions, self._ground_truth)
        for name, text in (
            (PREDICTIONS_FILE, json.dumps(coco_results)),
            (PCK_CURVE_FILE, curve_csv.getvalue()),
        ):
            (self.run_folder / name).parent.mkdir(exist_ok=True)
            write_text_atomically(self.run_folder / name, text)
