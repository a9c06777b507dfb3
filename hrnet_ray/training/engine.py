"""One epoch of training on any iterable of batches."""

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

    `gradient_accumulation_steps` splits a batch into parts to save memory: the gradient is that of
    the whole batch, but BatchNorm sees one part. `max_grad_norm` clips the gradient; 0 disables
    clipping. `on_step` gets the number of crops of each step, and may raise to end the epoch.
    `guard` skips steps with a NaN or Inf loss or gradient; the schedule advances anyway.

    Raises:
        DivergenceDetected: too many steps were skipped.
    """
    guard = guard or NonFiniteStepGuard(model)
    model.train()
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = _run_forward_backward(model, batch, target=target, bf16=bf16, num_parts=gradient_accumulation_steps)
        skipped = guard.step_if_finite(optimizer, loss, max_grad_norm=max_grad_norm)
        scheduler.step()
        if ema:
            ema.update_parameters(skipped=skipped)
        guard.poll_skipped_steps()
        on_step(len(batch.crops))
    return guard.finish_epoch()


def _run_forward_backward(
    model: nn.Module, batch: TrainBatch, *, target: HeatmapTargetConfig, bf16: bool, num_parts: int
) -> Float[Tensor, ""]:
    """Accumulate the gradient of a batch, part by part, and return its loss."""
    parts = _split_batch(batch, num_parts)
    losses = []
    for part in parts:
        # DDP reduces the gradients over the ranks with the last part only.
        is_early = part is not parts[-1]
        no_sync = is_early and isinstance(model, DistributedDataParallel) and model.no_sync()
        with no_sync or nullcontext():
            weight = batch.loss_weight * (len(part.crops) / len(batch.crops))
            loss = _compute_loss(model, part, target=target, bf16=bf16) * weight
            loss.backward(make_nan_propagating_grad(loss))
        losses.append(loss.detach())  # on the device: .item() would stall every step
    return torch.stack(losses).sum()


def _split_batch(batch: TrainBatch, max_parts: int) -> list[TrainBatch]:
    """Split a batch into at most `max_parts` equal parts, each large enough for BatchNorm.

    All ranks get the same number of parts, because a synchronized BatchNorm waits in each.
    """
    min_crops = len(batch.crops) if batch.min_crops_per_rank is None else batch.min_crops_per_rank
    max_parts = max(1, min(max_parts, min_crops // MIN_ROWS_PER_WORKER))
    if max_parts == 1:
        return [batch]
    crops, crop_xy, visible = (column.tensor_split(max_parts) for column in (batch.crops, batch.crop_xy, batch.visible))
    return [TrainBatch(crops[part], crop_xy[part], visible[part], batch.loss_weight) for part in range(max_parts)]


def _compute_loss(model: nn.Module, batch: TrainBatch, *, target: HeatmapTargetConfig, bf16: bool) -> Float[Tensor, ""]:
    heatmaps, weights = encode_targets(batch.crop_xy, batch.visible, target)
    with torch.autocast(batch.crops.device.type, torch.bfloat16, enabled=bf16):
        predicted = model(batch.crops.contiguous(memory_format=torch.channels_last))
    return LOSS_FUNCTIONS[target.loss](predicted.float(), heatmaps, weights)
