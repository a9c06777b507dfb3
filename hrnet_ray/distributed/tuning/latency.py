"""How long a model takes for one crop, measured in the trial that trains it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hrnet_ray.distributed.training.backends import TuneTrialBackend
from hrnet_ray.models.bn_folding import fold_batchnorm
from hrnet_ray.training.checkpoint_manager import SaveStateFn

LATENCY_METRIC = "perf/latency_ms"
TIMED_ROUNDS, WARMUP_ROUNDS = 20, 5


class LatencyMeasuringBackend(TuneTrialBackend):
    """A trial's host that times the model once, before it learns, and reports it each epoch.

    How long a forward pass takes follows from the net and not from its weights. The quickest
    round depends least on the other load of the machine.
    """

    def __init__(
        self,
        run_folder: Path,
        provenance: Mapping[str, Any],
        *,
        gpu: bool,
        input_hw: tuple[int, int],
    ) -> None:
        super().__init__(run_folder, provenance, gpu=gpu)
        self.input_hw = input_hw
        self.latency_ms = float("nan")

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Move the model to the device, and time it there."""
        model = super().prepare_model(model)
        self.latency_ms = measure_latency_ms(model, input_hw=self.input_hw)
        return model

    def report_epoch(self, metrics: dict[str, Any], *, epoch: int, save_state: SaveStateFn | None) -> None:
        """Report an epoch, with the latency beside it."""
        super().report_epoch(metrics | {LATENCY_METRIC: self.latency_ms}, epoch=epoch, save_state=save_state)


@torch.inference_mode()
def measure_latency_ms(model: nn.Module, *, input_hw: tuple[int, int]) -> float:
    """Milliseconds of a forward pass of one crop in fp32, BatchNorm folded: the quickest of 20."""
    device = next(model.parameters()).device
    crop = torch.zeros(1, 3, *input_hw, device=device)
    net, taken = fold_batchnorm(model), []
    for _ in range(WARMUP_ROUNDS + TIMED_ROUNDS):
        began = time.perf_counter()
        net(crop)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(1000 * (time.perf_counter() - began))
    return min(taken[WARMUP_ROUNDS:])
