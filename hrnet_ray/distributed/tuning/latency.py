"""How long a model takes for one crop, measured in the trial that trains it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hrnet_ray.distributed.training.backends import TrialHost
from hrnet_ray.models.bn_folding import folded
from hrnet_ray.training.checkpoint_manager import Save

LATENCY = "perf/latency_ms"
ROUNDS, WARM_UP = 20, 5


class TimedHost(TrialHost):
    """A trial's host that times the model once, before it learns, and reports it each epoch.

    How long a forward pass takes follows from the net and not from its weights. The quickest
    round tells least of what else the machine had to do.
    """

    def __init__(
        self, run_folder: Path, about: Mapping[str, Any], *, gpu: bool, input_hw: tuple[int, int]
    ) -> None:
        super().__init__(run_folder, about, gpu=gpu)
        self.input_hw = input_hw
        self.latency_ms = float("nan")

    def wrap(self, model: nn.Module) -> nn.Module:
        """Move the model to the device, and time it there."""
        model = super().wrap(model)
        self.latency_ms = forward_ms(model, input_hw=self.input_hw)
        return model

    def report(self, metrics: dict[str, Any], *, epoch: int, save: Save | None) -> None:
        """Report an epoch, with the latency beside it."""
        super().report(metrics | {LATENCY: self.latency_ms}, epoch=epoch, save=save)


@torch.inference_mode()
def forward_ms(model: nn.Module, *, input_hw: tuple[int, int]) -> float:
    """Milliseconds of a forward pass of one crop in fp32, BatchNorm folded: the quickest of 20."""
    device = next(model.parameters()).device
    crop = torch.zeros(1, 3, *input_hw, device=device)
    net, taken = folded(model), []
    for _ in range(WARM_UP + ROUNDS):
        began = time.perf_counter()
        net(crop)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(1000 * (time.perf_counter() - began))
    return min(taken[WARM_UP:])
