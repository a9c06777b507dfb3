"""The running average of a model's weights: often better to judge and to keep than the last ones.

What training moves is never touched by it; it only looks on.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

DECAY_WARMUP_STEPS = 10  # steps: after n of them the past counts at most (1 + n) / (YOUNG + n)


class ModelEma:
    """Follows `model`: after each step, `average = decay * average + (1 - decay) * weights`.

    A young average forgets sooner, so that the random start does not linger. BatchNorm's statistics
    are averaged like weights; whole numbers are copied.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        now = model.state_dict()
        self.averaged_weights = {name: value.clone() for name, value in now.items()}
        means = [name for name, value in now.items() if value.is_floating_point()]
        counts = [name for name, value in now.items() if not value.is_floating_point()]
        # Pairs of what is held and what the model has: to ask it for them at each step takes time.
        self._float_pairs, self._integer_pairs = (
            ([self.averaged_weights[name] for name in names], [now[name] for name in names])
            for names in (means, counts)
        )

    @torch.no_grad()
    def update_parameters(self, *, skipped: Tensor | None = None) -> None:
        """Look at the model after a step; where `unless` is 1, the step was left out."""
        self.steps += 1
        if skipped is not None and skipped.device.type == "cpu" and skipped.item():
            return
        forget = 1 - min(self.decay, (1 + self.steps) / (DECAY_WARMUP_STEPS + self.steps))
        held, seen = self._integer_pairs
        if held:
            torch._foreach_copy_(held, seen)  # pyright: ignore[reportPrivateImportUsage]
        held, seen = self._float_pairs
        if skipped is None or skipped.device.type == "cpu":
            torch._foreach_lerp_(held, seen, forget)  # pyright: ignore[reportPrivateImportUsage]
        else:
            _apply_tensor_lerp(held, seen, forget * (1 - skipped))

    @contextmanager
    def use_averaged_weights(self) -> Iterator[None]:
        """While open, the model has the averaged weights; then its own again, bit for bit.

        What happens to the model meanwhile is forgotten.
        """
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self._copy_into_model(self.averaged_weights)
        try:
            yield
        finally:
            self._copy_into_model(own)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and whole numbers only."""
        return {"steps": self.steps, "weights": self.averaged_weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.steps = int(state["steps"])
        for name, value in state["weights"].items():
            self.averaged_weights[name].copy_(value)

    @torch.no_grad()
    def _copy_into_model(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in self.model.state_dict().items():
            value.copy_(weights[name])


def _apply_tensor_lerp(averages: list[Tensor], current: list[Tensor], lerp_weight: Tensor) -> None:
    """As lerp, with a share that only the device knows."""
    way = torch._foreach_sub(current, averages)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_mul_(way, lerp_weight)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_add_(averages, way)  # pyright: ignore[reportPrivateImportUsage]
