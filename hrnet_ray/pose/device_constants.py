"""Small tensors that stay the same, made once for each GPU.

A tensor made of Python numbers is copied to a GPU from ordinary memory, and the program waits until
the GPU has done all that was asked of it before. The warp and the heatmaps need many of them.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

Number = bool | int | float


def get_cached_constant(values: Sequence[Number], *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The numbers as a tensor on the device; not to be written to."""
    if device.type == "cpu":  # costs nothing there, and nothing that is traced may be kept
        return torch.tensor(values, dtype=dtype)
    return _make_device_constant(tuple(values), device, dtype)


@lru_cache(maxsize=256)
def _make_device_constant(values: tuple[Number, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # a first call from inference must not spoil it for training
        return torch.tensor(values, device=device, dtype=dtype)
