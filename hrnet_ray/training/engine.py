"""One epoch of training: the loop knows batches, not datasets, clusters or settings."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hrnet_ray.data.batch import PoseBatch
from hrnet_ray.data.sampler import LEAST_ROWS
from hrnet_ray.pose.targets import LOSSES, Target, encode_targets
from hrnet_ray.training.ema import Average
from hrnet_ray.training.nan_guard import Guard, number_or_nan


def train_epoch(
    model: nn.Module,
    batches: Iterable[PoseBatch],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    target: Target,
    bf16: bool = False,
    accumulate: int = 1,
    clip_norm: float = 0.0,
    average: Average | None = None,
    each_step: Callable[[int], None] = lambda crops: None,
    guard: Guard | None = None,
) -> Float[Tensor, ""]:
    """Take one optimizer step per batch and return the mean loss (on the device).

    `accumulate` takes a batch in so many parts, for less memory: the gradient is the whole batch's,
    while BatchNorm sees a part. `clip_norm` shortens a longer gradient to that; 0 never does.
    `average` follows the weights. `each_step` is told how many crops were learnt from, and ends the
    epoch there if it raises. `guard` (of this epoch) leaves out steps whose loss or gradient is no
    number; the schedule goes on.

    Raises:
        Diverging: these are too many.
    """
    guard = guard or Guard(model)
    model.train()
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = _learn(model, batch, target=target, bf16=bf16, parts=accumulate)
        bad = guard.step(optimizer, loss, clip_norm=clip_norm)
        scheduler.step()
        if average:
            average.update(unless=bad)
        guard.look()
        each_step(len(batch.crops))
    return guard.end()


def _learn(
    model: nn.Module, batch: PoseBatch, *, target: Target, bf16: bool, parts: int
) -> Float[Tensor, ""]:
    """Add the batch's gradient, part by part, and return its loss."""
    shares = _shares(batch, parts)
    losses = []
    for share in shares:
        # DDP sums the gradients up over the workers with the last part only.
        early = share is not shares[-1]
        quiet = early and isinstance(model, DistributedDataParallel) and model.no_sync()
        with quiet or nullcontext():
            part = len(share.crops) / len(batch.crops)
            loss = _loss(model, share, target=target, bf16=bf16) * (batch.weight * part)
            loss.backward(number_or_nan(loss))
        losses.append(loss.detach())  # stays on the device: .item() here would stall every step
    return torch.stack(losses).sum()


def _shares(batch: PoseBatch, parts: int) -> list[PoseBatch]:
    """The batch in equal parts, as many as leave every worker's BatchNorm something to learn from.

    They are as many on every worker: in each one, a shared BatchNorm waits for all of them.
    """
    fewest = len(batch.crops) if batch.fewest is None else batch.fewest
    parts = max(1, min(parts, fewest // LEAST_ROWS))
    if parts == 1:
        return [batch]
    crops, crop_xy, visible = (
        column.tensor_split(parts) for column in (batch.crops, batch.crop_xy, batch.visible)
    )
    return [PoseBatch(crops[at], crop_xy[at], visible[at], batch.weight) for at in range(parts)]


def _loss(model: nn.Module, batch: PoseBatch, *, target: Target, bf16: bool) -> Float[Tensor, ""]:
    heatmaps, weights = encode_targets(batch.crop_xy, batch.visible, target)
    with torch.autocast(batch.crops.device.type, torch.bfloat16, enabled=bf16):
        predicted = model(batch.crops.contiguous(memory_format=torch.channels_last))
    return LOSSES[target.loss](predicted.float(), heatmaps, weights)
