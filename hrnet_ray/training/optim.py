"""Optimisers and schedules by name. Schedules move per step and know their own epochs."""

import math
from collections.abc import Callable

import torch
from torch import nn

FUSED_DEVICE_TYPES = ("cpu", "cuda")
"""Devices with fused optimisers."""


def build_optimizer(
    model: nn.Module, *, optimizer_name: str, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam as published, or AdamW with decoupled weight decay.

    AdamW spares what is no matrix: biases, and BatchNorm's scales. One kernel moves all weights
    ("fused") where the device has one.
    """
    parameters = list(model.parameters())
    fused = all(
        one.device.type in FUSED_DEVICE_TYPES and one.is_floating_point() for one in parameters
    )
    if optimizer_name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
    matrices = [one for one in parameters if one.ndim > 1]
    others = [one for one in parameters if one.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=fused)


def scale_lr(lr: float, *, scaling: str, batch_size: int, reference_batch_size: int) -> float:
    """The rate for batches of `batch_size`, when `lr` was found with batches of `reference`.

    "linear" (Goyal et al., 2017) suits SGD; "sqrt" (Malladi et al., 2022) suits Adam; "none" keeps
    `lr`.
    """
    ratio = batch_size / reference_batch_size
    return lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[scaling]


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer,
    *,
    schedule: str,
    milestones: tuple[int, ...],
    epochs: int,
    warmup_steps: int,
    steps_per_epoch: int,
) -> torch.optim.lr_scheduler.LRScheduler:
    """A factor for each step.

    `steps` drops tenfold AT the milestones' epochs (counted from 0), whether or not a run was
    resumed; the published code under today's torch drops one epoch early, and one more after each
    resume.
    """
    shape = {"steps": _make_step_decay(milestones), "cosine": _make_cosine_decay(epochs)}[schedule]

    def compute_lr_factor(step: int) -> float:
        climb = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return climb * shape(step / steps_per_epoch)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, compute_lr_factor)


def _make_step_decay(milestones: tuple[int, ...]) -> Callable[[float], float]:
    return lambda epoch: 0.1 ** sum(epoch >= milestone for milestone in milestones)


def _make_cosine_decay(epochs: int) -> Callable[[float], float]:
    return lambda epoch: 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / epochs)))
