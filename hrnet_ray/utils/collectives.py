"""Collective operations between training workers; no-ops without a process group."""

from inspect import signature
from typing import Any, TypeVar

from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

_BUFFER_SYNC_OPTION = "forward_sync_buffers"
if _BUFFER_SYNC_OPTION not in signature(DistributedDataParallel).parameters:  # an older torch
    _BUFFER_SYNC_OPTION = "broadcast_buffers"
DDP_OPTIONS = {"gradient_as_bucket_view": True, _BUFFER_SYNC_OPTION: False}
"""How DDP ties replicas: gradients lie where they are summed up, instead of being copied there; and
statistics of BatchNorm are not broadcast before each step, only before a validation
(`share_buffers`)."""

T = TypeVar("T")


def get_world_size() -> int:
    """How many workers train this model together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_mean(value: Tensor) -> float:
    """The mean of every worker's number."""
    if get_world_size() > 1:
        value = value.clone()
        distributed.all_reduce(value)
        value /= get_world_size()
    return value.item()


def gather_objects(local_value: T) -> list[T]:
    """Every worker's value on every worker, by rank."""
    if get_world_size() == 1:
        return [local_value]
    parts: list[Any] = [None] * get_world_size()
    distributed.all_gather_object(parts, local_value)
    return parts


def sync_buffers_from_rank0(model: nn.Module) -> None:
    """Broadcast the BatchNorm statistics of rank 0, so that all ranks validate one model."""
    if get_world_size() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)
