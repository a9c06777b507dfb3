"""Steps with a NaN or Inf gradient: skipped on all ranks, counted, and limited."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hrnet_ray.data.batch import TrainBatch
from hrnet_ray.pose.targets import HeatmapTargetConfig
from hrnet_ray.training.ema import ModelEma, _apply_tensor_lerp
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.nan_guard import (
    DivergenceDetected,
    NonFiniteStepGuard,
    all_finite,
    make_nan_propagating_grad,
    scale_lr_schedule,
)
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer
from tests.utils.two_workers import together

TARGET = HeatmapTargetConfig(input_hw=(16, 24), heatmap_hw=(16, 24), sigma=1.0)
STEPS = 4


class Training:
    """A model with BatchNorm, its optimizer, schedule and EMA."""

    def __init__(self, *, optimizer_name: str = "adamw", ddp: bool = False) -> None:
        torch.manual_seed(0)
        self.unwrapped = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
        self.model = DistributedDataParallel(self.unwrapped) if ddp else self.unwrapped
        if optimizer_name == "sgd":  # not fused, so without `found_inf`
            self.optimizer = torch.optim.SGD(self.unwrapped.parameters(), lr=0.1, momentum=0.9)
        else:
            self.optimizer = build_optimizer(self.unwrapped, optimizer_name=optimizer_name, lr=1e-2, weight_decay=0.1)
        self.scheduler = build_lr_scheduler(
            self.optimizer,
            schedule="cosine",
            milestones=(),
            epochs=STEPS,
            warmup_steps=0,
            steps_per_epoch=1,
        )
        self.ema = ModelEma(self.unwrapped, decay=0.9)

    def train(self, batches: list[TrainBatch], *, max_grad_norm: float = 0.0) -> Tensor:
        return train_epoch(
            self.model,
            batches,
            self.optimizer,
            self.scheduler,
            target=TARGET,
            ema=self.ema,
            max_grad_norm=max_grad_norm,
        )

    def skip_step(self) -> None:
        """Advance only the counters, as a skipped step does."""
        self.scheduler.step()
        self.ema.steps += 1

    def state(self) -> dict[str, Tensor]:
        moments = self.optimizer.state_dict()["state"].values()
        parts = [self.unwrapped.state_dict(), self.ema.averaged_weights, *moments]
        tensors = {f"{n}.{k}": v for n, part in enumerate(parts) for k, v in part.items()}
        lr = torch.tensor(self.optimizer.param_groups[0]["lr"])
        return {name: value.clone() for name, value in tensors.items()} | {"lr": lr}


def make_batch(seed: int, *, is_nan: bool = False) -> TrainBatch:
    generator = torch.Generator().manual_seed(seed)
    crops = torch.randn(3, 3, 16, 24, generator=generator)
    crop_xy = torch.rand(3, 2, 2, generator=generator) * 14
    batch = TrainBatch(crops, crop_xy, torch.ones(3, 2, dtype=torch.bool))
    return replace(batch, crops=torch.full_like(crops, torch.nan)) if is_nan else batch


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert [name for name in actual if not torch.equal(actual[name], expected[name])] == []


def train_with_nan_on_rank_1(rank: int, folder: Path) -> None:
    """Run one of two processes: rank 1 gets a batch of NaN at the second step."""
    batches = [make_batch(10 * step + rank) for step in range(STEPS)]
    faulty = Training(ddp=True)
    faulty.train([batches[0], make_batch(0, is_nan=True) if rank else batches[1], *batches[2:]])
    expected = Training(ddp=True)
    expected.train(batches[:1])
    expected.skip_step()
    expected.train(batches[2:])
    torch.save([faulty.state(), expected.state()], folder / f"{rank}.pt")


def test_a_nan_on_one_rank_skips_the_step_on_all_ranks(tmp_path: Path):
    together(train_with_nan_on_rank_1, tmp_path)

    for rank in range(2):
        faulty, expected = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_equal(faulty, expected)
        assert all(value.isfinite().all() for value in faulty.values())


@pytest.mark.parametrize("optimizer_name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.1])
def test_a_skipped_step_advances_only_the_counters(optimizer_name: str, max_grad_norm: float):
    faulty, expected = (
        Training(optimizer_name=optimizer_name),
        Training(optimizer_name=optimizer_name),
    )

    loss = faulty.train([make_batch(0), make_batch(1, is_nan=True), make_batch(2)], max_grad_norm=max_grad_norm)

    first = expected.train([make_batch(0)], max_grad_norm=max_grad_norm)
    expected.skip_step()
    third = expected.train([make_batch(2)], max_grad_norm=max_grad_norm)
    assert_equal(faulty.state(), expected.state())
    assert loss == (first + third) / 2


@pytest.mark.parametrize("optimizer_name", ["adamw", "sgd"])
def test_an_epoch_without_nan_equals_the_plain_loop_bit_for_bit(optimizer_name: str):
    guarded, plain = (
        Training(optimizer_name=optimizer_name),
        Training(optimizer_name=optimizer_name),
    )
    batches = [make_batch(step) for step in range(STEPS)]

    guarded.train(batches)

    for batch in batches:
        plain.optimizer.zero_grad()
        _plain_loss(plain.unwrapped, batch).backward()
        plain.optimizer.step()
        plain.scheduler.step()
        plain.ema.update_parameters()
    assert_equal(guarded.state(), plain.state())


def _plain_loss(model: nn.Module, batch: TrainBatch) -> Tensor:
    from hrnet_ray.training.engine import _compute_loss

    return _compute_loss(model, batch, target=TARGET, bf16=False)


def test_only_a_nonfinite_loss_gives_a_nan_gradient():
    for value, expected in ((3e38, "1.0"), (float("inf"), "nan"), (float("nan"), "nan")):
        assert str(make_nan_propagating_grad(torch.tensor(value)).item()) == expected


class GuardedSteps:
    """Steps of a guard with a plan of which are NaN or Inf."""

    def __init__(self, *, steps: int = 0) -> None:
        self.weight = nn.Parameter(torch.ones(2))
        self.model = nn.ParameterList([self.weight])
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)
        self.guard = NonFiniteStepGuard(self.model, num_steps=steps)

    def take(self, plan: str) -> None:
        """Take steps: `.` is finite, `g` has an Inf gradient, `l` also a NaN loss."""
        for kind in plan:
            self.weight.grad = torch.full((2,), 1.0 if kind == "." else torch.inf)
            self.guard.step_if_finite(self.optimizer, torch.tensor(torch.nan if kind == "l" else 2.0))
            self.guard.poll_skipped_steps()


def test_three_consecutive_skips_are_tolerated_and_a_fourth_is_not():
    tolerated = GuardedSteps(steps=1000)
    tolerated.take("lll.ggg..")
    assert tolerated.guard.list_skipped_steps() == [0, 1, 2, 4, 5, 6]
    assert tolerated.guard.finish_epoch() == 2.0

    with pytest.raises(DivergenceDetected, match="4 steps in a row") as raised:
        GuardedSteps(steps=1000).take(".g.glgl.")

    assert raised.value.skipped_steps == [3, 4, 5, 6]
    assert raised.value.local_nonfinite_steps == [4, 6]


@pytest.mark.parametrize(("steps", "limit"), [(0, 3), (399, 3), (400, 4), (1000, 10)])
def test_one_percent_of_an_epoch_may_be_skipped_and_at_least_three_steps(steps: int, limit: int):
    scattered = GuardedSteps(steps=steps)
    scattered.take("g." * limit)

    with pytest.raises(DivergenceDetected, match=f"{limit + 1} steps of the epoch") as raised:
        scattered.take("g")

    assert raised.value.skipped_steps == [2 * limit]


@pytest.mark.parametrize("cut", range(8))
def test_an_interrupted_epoch_continues_with_the_same_state(cut: int):
    plan = "l.gg..l."
    uninterrupted, before, after = (GuardedSteps(steps=1000) for _ in range(3))
    uninterrupted.take(plan)
    before.take(plan[:cut])
    if cut:
        after.guard.load_state(*before.guard.get_state())
    after.take(plan[cut:])

    assert after.guard.list_skipped_steps() == uninterrupted.guard.list_skipped_steps()
    assert after.guard.finish_epoch() == uninterrupted.guard.finish_epoch()
    after.take("g" * 3)
    with pytest.raises(DivergenceDetected, match="4 steps in a row"):
        after.take("g")


def test_an_epoch_with_only_skipped_steps_is_an_error():
    skipped = GuardedSteps()
    skipped.take("g")

    with pytest.raises(DivergenceDetected, match="no step of the epoch"):
        skipped.guard.finish_epoch()


def test_lerp_with_a_tensor_weight_moves_only_unskipped_averages():
    averages, live = [torch.ones(3), torch.zeros(2, 2)], [torch.full((3,), 5.0), torch.ones(2, 2)]

    _apply_tensor_lerp(averages, live, 0.25 * (1 - torch.tensor(1.0)))
    assert [part.unique().tolist() for part in averages] == [[1.0], [0.0]]

    _apply_tensor_lerp(averages, live, 0.25 * (1 - torch.tensor(0.0)))
    assert [part.unique().tolist() for part in averages] == [[2.0], [0.25]]


def test_all_finite_checks_everything_in_a_checkpoint():
    training = Training()
    training.train([make_batch(0)])
    components = (training.unwrapped, training.optimizer, training.ema)
    assert all_finite(*components)
    moments = training.optimizer.state[training.unwrapped[0].weight]
    for tensor in (
        training.unwrapped[3].bias.data,
        training.unwrapped[1].running_var,
        moments["exp_avg_sq"],
        training.ema.averaged_weights["0.weight"],
    ):
        before = tensor.clone()
        tensor.view(-1)[-1] = torch.inf
        assert not all_finite(*components)
        tensor.copy_(before)


def test_a_halved_learning_rate_is_half_now_and_at_every_later_step():
    full, half = Training(), Training()
    for training in (full, half):
        training.optimizer.step()
        training.scheduler.step()

    scale_lr_schedule(half.scheduler, 0.5)

    for _ in range(3):
        rates = [t.optimizer.param_groups[0]["lr"] for t in (full, half)]
        assert rates[1] == 0.5 * rates[0] > 0
        for training in (full, half):
            training.scheduler.step()
