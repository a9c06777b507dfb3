"""Small constant tensors, created once per GPU.

Creating a tensor from Python numbers copies pageable memory to the GPU, which waits for all work
queued before. The warp and the heatmaps need many such constants.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

Number = bool | int | float


def get_cached_constant(values: Sequence[Number], *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the numbers as a tensor on the device. Do not modify it: it is shared."""
    if device.type == "cpu":  # cheap there, and a tensor created while tracing must not be cached
        return torch.tensor(values, dtype=dtype)
    return _make_device_constant(tuple(values), device, dtype)


@lru_cache(maxsize=256)
def _make_device_constant(values: tuple[Number, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # a tensor created in inference mode could not be used in training
        return torch.tensor(values, device=device, dtype=dtype)
