"""Optimizers and learning-rate schedules by name. Schedules advance per step."""

import math
from collections.abc import Callable

import torch
from torch import nn

FUSED_DEVICE_TYPES = ("cpu", "cuda")
"""Devices on which torch has fused optimizers."""


def build_optimizer(model: nn.Module, *, optimizer_name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Build Adam as published, or AdamW with decoupled weight decay, fused where available.

    AdamW does not decay biases and BatchNorm scales.
    """
    parameters = list(model.parameters())
    fused = all(p.device.type in FUSED_DEVICE_TYPES and p.is_floating_point() for p in parameters)
    if optimizer_name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
    matrices = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=fused)


def scale_lr(lr: float, *, scaling: str, batch_size: int, reference_batch_size: int) -> float:
    """Scale a learning rate that was tuned for `reference_batch_size` to `batch_size`.

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
    """Build a schedule that sets the learning rate at each step.

    "steps" drops tenfold after as many epochs as each milestone names, whether a run was resumed
    or not. The published code with a current torch drops one epoch early, and one more after each
    resume.
    """
    compute_decay = {"steps": _make_step_decay(milestones), "cosine": _make_cosine_decay(epochs)}[schedule]

    def compute_lr_factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return warmup * compute_decay(step / steps_per_epoch)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, compute_lr_factor)


def _make_step_decay(milestones: tuple[int, ...]) -> Callable[[float], float]:
    return lambda epoch: 0.1 ** sum(epoch >= milestone for milestone in milestones)


def _make_cosine_decay(epochs: int) -> Callable[[float], float]:
    return lambda epoch: 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / epochs)))
