"""Validation during training: all ranks predict, rank 0 scores and keeps the best model."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import nn

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.inference.predict_loop import predict_batches, predict_heatmaps
from hrnet_ray.inference.predictor import build_decode_config
from hrnet_ray.metrics.predictions import KeypointPredictions, all_gather_predictions
from hrnet_ray.models.bn_folding import fold_batchnorm
from hrnet_ray.training.best_model import BestModelWriter
from hrnet_ray.training.builders import build_model_spec, build_target_config
from hrnet_ray.training.checkpoint import TrainState
from hrnet_ray.training.components import TrainComponents
from hrnet_ray.training.epoch_trainer import TrainDataLoader
from hrnet_ray.training.fault_injection import FaultInjector
from hrnet_ray.training.sample_log import SampleLog
from hrnet_ray.training.validator import Validator
from hrnet_ray.utils.collectives import gather_objects, sync_buffers_from_rank0


class WorkerValidation:
    """Validates one worker's components; `validator` and `best_model` exist on rank 0 only."""

    _eval_model: nn.Module
    """The model of the last `predict_split`, with BatchNorm folded."""

    def __init__(
        self,
        components: TrainComponents,
        data_loader: TrainDataLoader,
        experiment: ExperimentConfig,
        manifest: DatasetManifest,
        *,
        sample_log: SampleLog,
        validator: Validator | None,
        best_model: BestModelWriter | None,
        fault_injector: FaultInjector,
    ) -> None:
        self._components, self._data_loader = components, data_loader
        self._batch_size = experiment.evaluation.batch_size
        self._decoding = build_decode_config(build_model_spec(experiment, manifest, {}))
        self._target = build_target_config(experiment)
        self._sample_log, self._fault_injector = sample_log, fault_injector
        self.validator, self.best_model = validator, best_model

    def run_epoch(self, epoch: int, train_state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Validate an epoch (from 0); returns the state with the best score, and metrics."""
        with self._components.use_eval_weights():
            predictions = self.predict_split(epoch)
            corrupt_rows = set().union(*gather_objects(self._data_loader.corrupt_rows))
            num_corrupt, new_names = self._sample_log.log_corrupt_rows(corrupt_rows)
            metrics: dict[str, Any] = {
                "data/corrupt_rows": num_corrupt,
                "corrupt_row_names": new_names,
            }
            if not (self.validator and self.best_model):
                return train_state, metrics
            result = self.validator.validate(
                predictions,
                heatmap_fn=self.predict_crop_heatmaps,
                epoch=epoch + 1,
                best_score=self.best_model.get_best_score(train_state),
                corrupt_rows=corrupt_rows,
            )
            model = self._components.unwrapped_model
            train_state = self.best_model.update(result, model, train_state)
        best_score = self.best_model.get_best_score(train_state).score
        metrics |= result.to_metrics() | {f"val/best.{result.metrics.primary_metric}": best_score}
        return train_state, metrics

    def predict_split(self, epoch: int) -> KeypointPredictions:
        """Predict this rank's rows and gather all ranks'; without DDP, as slices are uneven."""
        model = self._components.unwrapped_model
        sync_buffers_from_rank0(model)
        self._eval_model = fold_batchnorm(model, bf16=self._components.bf16)
        batches = self._data_loader.iter_val_batches(batch_size=self._batch_size)
        own_predictions = predict_batches(
            self._eval_model,
            self._fault_injector.wrap_val_batches(batches, epoch=epoch),
            decoding=self._decoding,
            bf16=self._components.bf16,
            target=self._target,
        )
        return all_gather_predictions(own_predictions)

    def predict_crop_heatmaps(self, crops: UInt8[np.ndarray, "N H W 3"]) -> Float[np.ndarray, "N K h w"]:
        """Compute the heatmaps of some crops with the model of the last `predict_split`."""
        parts = [
            predict_heatmaps(
                self._eval_model,
                part.to(self._components.device),
                decoding=self._decoding,
                bf16=self._components.bf16,
            )
            for part in torch.from_numpy(crops).split(self._batch_size)
        ]
        return torch.cat(parts).cpu().numpy()
