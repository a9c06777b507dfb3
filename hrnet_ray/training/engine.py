"""One epoch of training: the loop knows batches, not datasets, clusters or settings."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hrnet_ray.data.batch import TrainBatch
from hrnet_ray.data.sampler import MIN_ROWS_PER_WORKER
from hrnet_ray.pose.targets import LOSS_FUNCTIONS, HeatmapTargetConfig, encode_targets
from hrnet_ray.training.ema import ModelEma
from hrnet_ray.training.nan_guard import NonFiniteStepGuard, make_nan_propagating_grad


def train_epoch(
    model: nn.Module,
    batches: Iterable[TrainBatch],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    target: HeatmapTargetConfig,
    bf16: bool = False,
    gradient_accumulation_steps: int = 1,
    max_grad_norm: float = 0.0,
    ema: ModelEma | None = None,
    on_step: Callable[[int], None] = lambda crops: None,
    guard: NonFiniteStepGuard | None = None,
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
    guard = guard or NonFiniteStepGuard(model)
    model.train()
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = _run_forward_backward(
            model, batch, target=target, bf16=bf16, num_parts=gradient_accumulation_steps
        )
        bad = guard.step_if_finite(optimizer, loss, max_grad_norm=max_grad_norm)
        scheduler.step()
        if ema:
            ema.update_parameters(skipped=bad)
        guard.poll_skipped_steps()
        on_step(len(batch.crops))
    return guard.finish_epoch()


def _run_forward_backward(
    model: nn.Module, batch: TrainBatch, *, target: HeatmapTargetConfig, bf16: bool, num_parts: int
) -> Float[Tensor, ""]:
    """Add the batch's gradient, part by part, and return its loss."""
    shares = _split_batch(batch, num_parts)
    losses = []
    for share in shares:
        # DDP sums the gradients up over the workers with the last part only.
        early = share is not shares[-1]
        quiet = early and isinstance(model, DistributedDataParallel) and model.no_sync()
        with quiet or nullcontext():
            part = len(share.crops) / len(batch.crops)
            loss = _compute_loss(model, share, target=target, bf16=bf16) * (
                batch.loss_weight * part
            )
            loss.backward(make_nan_propagating_grad(loss))
        losses.append(loss.detach())  # stays on the device: .item() here would stall every step
    return torch.stack(losses).sum()


def _split_batch(batch: TrainBatch, max_parts: int) -> list[TrainBatch]:
    """The batch in equal parts, as many as leave every worker's BatchNorm something to learn from.

    They are as many on every worker: in each one, a shared BatchNorm waits for all of them.
    """
    fewest = len(batch.crops) if batch.min_crops_per_rank is None else batch.min_crops_per_rank
    max_parts = max(1, min(max_parts, fewest // MIN_ROWS_PER_WORKER))
    if max_parts == 1:
        return [batch]
    crops, crop_xy, visible = (
        column.tensor_split(max_parts) for column in (batch.crops, batch.crop_xy, batch.visible)
    )
    return [
        TrainBatch(crops[at], crop_xy[at], visible[at], batch.loss_weight)
        for at in range(max_parts)
    ]


def _compute_loss(
    model: nn.Module, batch: TrainBatch, *, target: HeatmapTargetConfig, bf16: bool
) -> Float[Tensor, ""]:
    heatmaps, weights = encode_targets(batch.crop_xy, batch.visible, target)
    with torch.autocast(batch.crops.device.type, torch.bfloat16, enabled=bf16):
        predicted = model(batch.crops.contiguous(memory_format=torch.channels_last))
    return LOSS_FUNCTIONS[target.loss](predicted.float(), heatmaps, weights)
