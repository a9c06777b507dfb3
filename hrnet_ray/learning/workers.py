"""What the training workers tell each other. With one worker and no process group: nothing."""

import torch
from torch import Tensor, distributed, nn

from hrnet_ray.learning.loop import Predictions


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


def sum_of_all(value: int) -> int:
    """The sum of every worker's count."""
    if world_size() == 1:
        return value
    total = torch.tensor(value, dtype=torch.int64)
    if distributed.get_backend() == "nccl":
        total = total.cuda()
    distributed.all_reduce(total)
    return int(total.item())


def gather_predictions(mine: Predictions) -> Predictions:
    """Everybody's predictions on every worker, ordered by id."""
    if world_size() == 1:
        return mine
    parts: list[Predictions | None] = [None] * world_size()
    distributed.all_gather_object(parts, mine)
    return Predictions.joined([part for part in parts if part is not None])


def share_buffers(model: nn.Module) -> None:
    """Give everybody the first worker's BatchNorm statistics, so that all judge one model."""
    if world_size() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)
