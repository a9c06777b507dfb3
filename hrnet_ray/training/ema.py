"""Exponential moving average (EMA) of a model's weights. It never changes the training itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

DECAY_WARMUP_STEPS = 10
"""Steps: after n steps the decay is at most (1 + n) / (DECAY_WARMUP_STEPS + n)."""


class ModelEma:
    """Average of `model`: after each step, `average = decay * average + (1 - decay) * weights`.

    The decay is smaller at first, so that the random start is forgotten. BatchNorm statistics are
    averaged like weights; integers are copied.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        weights = model.state_dict()
        self.averaged_weights = {name: value.clone() for name, value in weights.items()}
        floats = [name for name, value in weights.items() if value.is_floating_point()]
        integers = [name for name, value in weights.items() if not value.is_floating_point()]
        # Pairs of averages and live weights, because `state_dict` is too slow for every step.
        self._float_pairs, self._integer_pairs = (
            ([self.averaged_weights[name] for name in names], [weights[name] for name in names])
            for names in (floats, integers)
        )

    @torch.no_grad()
    def update_parameters(self, *, skipped: Tensor | None = None) -> None:
        """Update the average after a step; `skipped` is 1 if the step was not taken."""
        self.steps += 1
        if skipped is not None and skipped.device.type == "cpu" and skipped.item():
            return
        weight = 1 - min(self.decay, (1 + self.steps) / (DECAY_WARMUP_STEPS + self.steps))
        averages, live = self._integer_pairs
        if averages:
            torch._foreach_copy_(averages, live)  # pyright: ignore[reportPrivateImportUsage]
        averages, live = self._float_pairs
        if skipped is None or skipped.device.type == "cpu":
            torch._foreach_lerp_(averages, live, weight)  # pyright: ignore[reportPrivateImportUsage]
        else:
            _apply_tensor_lerp(averages, live, weight * (1 - skipped))

    @contextmanager
    def use_averaged_weights(self) -> Iterator[None]:
        """Let the model hold the averaged weights while open, then restore its own bit for bit.

        Changes of the model in between are discarded.
        """
        own_weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self._copy_into_model(self.averaged_weights)
        try:
            yield
        finally:
            self._copy_into_model(own_weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and integers only."""
        return {"steps": self.steps, "weights": self.averaged_weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self.steps = int(state["steps"])
        for name, value in state["weights"].items():
            self.averaged_weights[name].copy_(value)

    @torch.no_grad()
    def _copy_into_model(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in self.model.state_dict().items():
            value.copy_(weights[name])


def _apply_tensor_lerp(averages: list[Tensor], current: list[Tensor], lerp_weight: Tensor) -> None:
    """In-place lerp with a weight on the device; avoids a host sync."""
    difference = torch._foreach_sub(current, averages)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_mul_(difference, lerp_weight)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_add_(averages, difference)  # pyright: ignore[reportPrivateImportUsage]
