"""Predictions for the validation split during training, on all ranks."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import nn

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.inference.predict_loop import predict_batches, predict_heatmaps
from hrnet_ray.metrics.predictions import KeypointPredictions, all_gather_predictions
from hrnet_ray.models.bn_folding import fold_batchnorm
from hrnet_ray.training.builders import build_decode_config, build_target_config
from hrnet_ray.training.components import TrainComponents
from hrnet_ray.training.epoch_trainer import TrainDataLoader
from hrnet_ray.training.fault_injection import FaultInjector
from hrnet_ray.utils.collectives import sync_buffers_from_rank0


class ValPredictor:
    """Predicts the validation split with the current weights; BatchNorm is folded."""

    _eval_model: nn.Module
    """The folded model of the last `predict_split`."""

    def __init__(
        self,
        components: TrainComponents,
        data_loader: TrainDataLoader,
        experiment: ExperimentConfig,
        manifest: DatasetManifest,
        *,
        fault_injector: FaultInjector,
    ) -> None:
        self._components, self._data_loader = components, data_loader
        self._batch_size = experiment.evaluation.batch_size
        self._decoding = build_decode_config(experiment, manifest)
        self._target = build_target_config(experiment)
        self._fault_injector = fault_injector

    def predict_split(self, epoch: int) -> KeypointPredictions:
        """Predict this rank's rows and gather all ranks'; without DDP, as slices are uneven."""
        sync_buffers_from_rank0(self._components.unwrapped_model)
        self._eval_model = fold_batchnorm(
            self._components.unwrapped_model, bf16=self._components.bf16
        )
        batches = self._data_loader.iter_val_batches(batch_size=self._batch_size)
        own_predictions = predict_batches(
            self._eval_model,
            self._fault_injector.wrap_val_batches(batches, epoch=epoch),
            decoding=self._decoding,
            bf16=self._components.bf16,
            target=self._target,
        )
        return all_gather_predictions(own_predictions)

    def predict_crop_heatmaps(
        self, crops: UInt8[np.ndarray, "N H W 3"]
    ) -> Float[np.ndarray, "N K h w"]:
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
