"""What the training workers tell each other. With one worker and no process group: nothing."""

from inspect import signature
from typing import Any, TypeVar

from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

_SEND_ROUND = "forward_sync_buffers"
if _SEND_ROUND not in signature(DistributedDataParallel).parameters:  # an older torch
    _SEND_ROUND = "broadcast_buffers"
TOGETHER = {"gradient_as_bucket_view": True, _SEND_ROUND: False}
"""How DDP ties replicas: gradients lie where they are summed up, instead of being copied there; and
statistics of BatchNorm are not sent round before each step, only before somebody judges by them
(`share_buffers`)."""

T = TypeVar("T")


def world_size() -> int:
    """How many workers train this model together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def mean_of_all(value: Tensor) -> float:
    """The mean of every worker's number."""
    if world_size() > 1:
        value = value.clone()
        distributed.all_reduce(value)
        value /= world_size()
    return value.item()


def of_everybody(mine: T) -> list[T]:
    """Every worker's value on every worker, by rank."""
    if world_size() == 1:
        return [mine]
    parts: list[Any] = [None] * world_size()
    distributed.all_gather_object(parts, mine)
    return parts


def share_buffers(model: nn.Module) -> None:
    """Give everybody the first worker's BatchNorm statistics, so that all judge one model."""
    if world_size() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)
