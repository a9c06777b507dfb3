"""Optimizers and schedules: every learning rate of a run, resumed or not."""

from pathlib import Path

import pytest
import torch
from torch import nn

from hrnet_ray.training import checkpoint
from hrnet_ray.training.checkpoint_store import write_manifest
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer, scale_lr

LR, STEPS = 1e-3, 3


def build(
    schedule: str, *, epochs: int = 6, milestones: tuple[int, ...] = (), warmup_steps: int = 0
) -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    model = nn.Linear(2, 1)
    optimizer = build_optimizer(model, optimizer_name="adam", lr=LR, weight_decay=0.0)
    scheduler = build_lr_scheduler(
        optimizer,
        schedule=schedule,
        milestones=milestones,
        epochs=epochs,
        warmup_steps=warmup_steps,
        steps_per_epoch=STEPS,
    )
    return model, optimizer, scheduler


def collect_lrs(
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    steps: int,
) -> list[float]:
    """The learning rate that each step is taken with."""
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


STEPPED = [LR] * 6 + [LR / 10] * 9 + [LR / 100] * 3  # drops after 2 and 5 epochs


def test_the_step_schedule_drops_tenfold_at_exactly_the_milestones():
    _, optimizer, scheduler = build("steps", milestones=(2, 5))

    assert collect_lrs(optimizer, scheduler, 18) == pytest.approx(STEPPED, rel=1e-12)


def test_the_step_schedule_drops_at_the_milestones_when_every_epoch_is_resumed(tmp_path: Path):
    lrs: list[float] = []
    for epoch in range(6):
        model, optimizer, scheduler = build("steps", milestones=(2, 5))
        if epoch:
            checkpoint.load_train_state(tmp_path, model, optimizer, scheduler)
        lrs += collect_lrs(optimizer, scheduler, STEPS)
        progress = checkpoint.TrainState(epoch=epoch)
        entries = checkpoint.save_train_state(tmp_path, model, optimizer, scheduler, progress)
        write_manifest(tmp_path, entries, epoch=epoch, metadata={})

    assert lrs == pytest.approx(STEPPED, rel=1e-12)


def test_the_warm_up_rises_in_equal_steps():
    _, optimizer, scheduler = build("steps", warmup_steps=4)

    lrs = collect_lrs(optimizer, scheduler, 6)

    assert lrs == pytest.approx([LR / 4, LR / 2, 3 * LR / 4, LR, LR, LR], rel=1e-12)


def test_the_cosine_schedule_starts_at_the_peak_is_half_in_the_middle_and_ends_at_0():
    _, optimizer, scheduler = build("cosine")

    lrs = collect_lrs(optimizer, scheduler, 6 * STEPS)

    assert lrs[0] == LR
    assert lrs[9] == pytest.approx(LR / 2, rel=1e-12)
    assert lrs == sorted(lrs, reverse=True)
    assert 0 < lrs[-1] < 0.01 * LR
    assert collect_lrs(optimizer, scheduler, 3) == [0.0, 0.0, 0.0]  # further steps stay at 0


def test_adamw_decouples_weight_decay_and_adam_does_not():
    lr, decay, start = 0.1, 0.5, 2.0
    after = {}
    for optimizer_name in ("adam", "adamw"):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, start)
        optimizer = build_optimizer(model, optimizer_name=optimizer_name, lr=lr, weight_decay=decay)
        model.weight.grad = torch.zeros(1, 1)
        optimizer.step()
        after[optimizer_name] = model.weight.item()

    assert after["adamw"] == pytest.approx(start * (1 - lr * decay), rel=1e-6)
    assert after["adam"] == pytest.approx(start - lr, rel=1e-6)  # a gradient of decay * weight


def test_adamw_does_not_decay_biases_and_batchnorm_scales():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, optimizer_name="adamw", lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    optimizer.step()

    changed = {name for name, value in model.named_parameters() if not value.equal(before[name])}
    assert changed == {"0.weight"}


@pytest.mark.parametrize(("scaling", "lr"), [("none", 1e-3), ("linear", 2.5e-4), ("sqrt", 5e-4)])
def test_the_learning_rate_scales_with_the_batch_size(scaling: str, lr: float):
    assert scale_lr(1e-3, scaling=scaling, batch_size=32, reference_batch_size=128) == pytest.approx(lr)


@pytest.mark.parametrize("optimizer_name", ["adam", "adamw"])
def test_the_fused_kernel_takes_the_step_of_the_plain_one(optimizer_name: str):
    plain = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer_name]
    models = []
    for make in (
        lambda model: build_optimizer(model, optimizer_name=optimizer_name, lr=1e-2, weight_decay=0.0),
        lambda model: plain(model.parameters(), lr=1e-2, weight_decay=0.0),
    ):
        torch.manual_seed(0)
        model = nn.Linear(7, 5)
        optimizer = make(model)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(3, 7)).square().mean().backward()
            optimizer.step()
        models.append(model)

    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=1e-5, atol=1e-7)
