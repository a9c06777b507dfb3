"""Optimisers and schedules by name. Schedules move per step and know their own epochs."""

import math
from collections.abc import Callable

import torch
from torch import nn


def make_optimizer(
    model: nn.Module, *, algorithm: str, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam as published, or AdamW with decoupled weight decay."""
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[algorithm]
    return make(model.parameters(), lr=lr, weight_decay=weight_decay)


def make_scheduler(
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
    shape = {"steps": _steps(milestones), "cosine": _cosine(epochs)}[schedule]

    def factor(step: int) -> float:
        climb = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return climb * shape(step / steps_per_epoch)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _steps(milestones: tuple[int, ...]) -> Callable[[float], float]:
    return lambda epoch: 0.1 ** sum(epoch >= milestone for milestone in milestones)


def _cosine(epochs: int) -> Callable[[float], float]:
    return lambda epoch: 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / epochs)))
