"""Steps without a finite gradient: left out by all, counted, and too many of them an error."""

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
    """A net with a BatchNorm, and all that moves it."""

    def __init__(self, *, algorithm: str = "adamw", ddp: bool = False) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)
        )
        self.model = DistributedDataParallel(self.net) if ddp else self.net
        if algorithm == "sgd":  # a plain one, which knows nothing of `found_inf`
            self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        else:
            self.optimizer = build_optimizer(
                self.net, optimizer_name=algorithm, lr=1e-2, weight_decay=0.1
            )
        self.scheduler = build_lr_scheduler(
            self.optimizer,
            schedule="cosine",
            milestones=(),
            epochs=STEPS,
            warmup_steps=0,
            steps_per_epoch=1,
        )
        self.average = ModelEma(self.net, decay=0.9)

    def learn(self, batches: list[TrainBatch], *, clip_norm: float = 0.0) -> Tensor:
        return train_epoch(
            self.model,
            batches,
            self.optimizer,
            self.scheduler,
            target=TARGET,
            ema=self.average,
            max_grad_norm=clip_norm,
        )

    def leave_out(self) -> None:
        """What a step that is skipped still moves: clocks."""
        self.scheduler.step()
        self.average.steps += 1

    def state(self) -> dict[str, Tensor]:
        moments = self.optimizer.state_dict()["state"].values()
        parts = [self.net.state_dict(), self.average.averaged_weights, *moments]
        tensors = {f"{n}.{k}": v for n, part in enumerate(parts) for k, v in part.items()}
        rate = torch.tensor(self.optimizer.param_groups[0]["lr"])
        return {name: value.clone() for name, value in tensors.items()} | {"rate": rate}


def batch_of(seed: int, *, spoilt: bool = False) -> TrainBatch:
    chance = torch.Generator().manual_seed(seed)
    crops = torch.randn(3, 3, 16, 24, generator=chance)
    crop_xy = torch.rand(3, 2, 2, generator=chance) * 14
    batch = TrainBatch(crops, crop_xy, torch.ones(3, 2, dtype=torch.bool))
    return replace(batch, crops=torch.full_like(crops, torch.nan)) if spoilt else batch


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def spoilt_on_one(rank: int, folder: Path) -> None:
    """What each of two processes does: rank 1 meets a batch of NaN at the second step."""
    batches = [batch_of(10 * step + rank) for step in range(STEPS)]
    hurt = Training(ddp=True)
    hurt.learn([batches[0], batch_of(0, spoilt=True) if rank else batches[1], *batches[2:]])
    spared = Training(ddp=True)
    spared.learn(batches[:1])
    spared.leave_out()
    spared.learn(batches[2:])
    torch.save([hurt.state(), spared.state()], folder / f"{rank}.pt")


def test_one_workers_nan_is_a_step_that_none_of_them_takes(tmp_path: Path):
    together(spoilt_on_one, tmp_path)

    for rank in range(2):
        hurt, spared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_equal(hurt, spared)
        assert all(value.isfinite().all() for value in hurt.values())


@pytest.mark.parametrize("algorithm", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_a_skipped_step_moves_nothing_but_the_clocks(algorithm: str, clip_norm: float):
    hurt, spared = Training(algorithm=algorithm), Training(algorithm=algorithm)

    loss = hurt.learn([batch_of(0), batch_of(1, spoilt=True), batch_of(2)], clip_norm=clip_norm)

    first = spared.learn([batch_of(0)], clip_norm=clip_norm)
    spared.leave_out()
    third = spared.learn([batch_of(2)], clip_norm=clip_norm)
    assert_equal(hurt.state(), spared.state())
    assert loss == (first + third) / 2


@pytest.mark.parametrize("algorithm", ["adamw", "sgd"])
def test_a_calm_epoch_is_the_plain_loop_bit_for_bit(algorithm: str):
    guarded, plain = Training(algorithm=algorithm), Training(algorithm=algorithm)
    batches = [batch_of(step) for step in range(STEPS)]

    guarded.learn(batches)

    for batch in batches:
        plain.optimizer.zero_grad()
        _plain_loss(plain.net, batch).backward()
        plain.optimizer.step()
        plain.scheduler.step()
        plain.average.update_parameters()
    assert_equal(guarded.state(), plain.state())


def _plain_loss(net: nn.Module, batch: TrainBatch) -> Tensor:
    from hrnet_ray.training.engine import _compute_loss

    return _compute_loss(net, batch, target=TARGET, bf16=False)


def test_a_loss_that_overflowed_spoils_its_gradient_and_a_number_does_not():
    for value, wanted in ((3e38, "1.0"), (float("inf"), "nan"), (float("nan"), "nan")):
        assert str(make_nan_propagating_grad(torch.tensor(value)).item()) == wanted


class Steps:
    """Steps of a guard, told by hand which of them are spoilt."""

    def __init__(self, *, steps: int = 0) -> None:
        self.weight = nn.Parameter(torch.ones(2))
        self.model = nn.ParameterList([self.weight])
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)
        self.guard = NonFiniteStepGuard(self.model, num_steps=steps)

    def take(self, plan: str) -> None:
        """`.` a step; `g` a gradient, `l` a loss too that is no number."""
        for what in plan:
            self.weight.grad = torch.full((2,), 1.0 if what == "." else torch.inf)
            self.guard.step_if_finite(
                self.optimizer, torch.tensor(torch.nan if what == "l" else 2.0)
            )
            self.guard.poll_skipped_steps()


def test_three_in_a_row_are_got_over_and_a_fourth_is_not():
    got_over = Steps(steps=1000)
    got_over.take("lll.ggg..")
    assert got_over.guard.list_skipped_steps() == [0, 1, 2, 4, 5, 6]
    assert got_over.guard.finish_epoch() == 2.0

    with pytest.raises(DivergenceDetected, match="4 steps in a row") as ended:
        Steps(steps=1000).take(".g.glgl.")

    assert ended.value.skipped_steps == [3, 4, 5, 6]
    assert ended.value.local_nonfinite_steps == [4, 6]


@pytest.mark.parametrize(("steps", "most"), [(0, 3), (399, 3), (400, 4), (1000, 10)])
def test_one_percent_of_an_epoch_may_be_skipped_and_three_steps_always(steps: int, most: int):
    scattered = Steps(steps=steps)
    scattered.take("g." * most)

    with pytest.raises(DivergenceDetected, match=f"{most + 1} steps of the epoch") as ended:
        scattered.take("g")

    assert ended.value.skipped_steps == [2 * most]


@pytest.mark.parametrize("cut", range(8))
def test_an_interrupted_epoch_goes_on_as_if_it_had_not_been(cut: int):
    plan = "l.gg..l."
    straight, before, after = (Steps(steps=1000) for _ in range(3))
    straight.take(plan)
    before.take(plan[:cut])
    if cut:
        after.guard.load_state(*before.guard.get_state())
    after.take(plan[cut:])

    assert after.guard.list_skipped_steps() == straight.guard.list_skipped_steps()
    assert after.guard.finish_epoch() == straight.guard.finish_epoch()
    after.take("g" * 3)
    with pytest.raises(DivergenceDetected, match="4 steps in a row"):
        after.take("g")


def test_an_epoch_without_any_step_taken_is_an_error_however_short():
    nothing = Steps()
    nothing.take("g")

    with pytest.raises(DivergenceDetected, match="no step of the epoch"):
        nothing.guard.finish_epoch()


def test_the_average_moves_by_a_share_that_only_the_device_knows():
    held, seen = [torch.ones(3), torch.zeros(2, 2)], [torch.full((3,), 5.0), torch.ones(2, 2)]

    _apply_tensor_lerp(held, seen, 0.25 * (1 - torch.tensor(1.0)))
    assert [part.unique().tolist() for part in held] == [[1.0], [0.0]]

    _apply_tensor_lerp(held, seen, 0.25 * (1 - torch.tensor(0.0)))
    assert [part.unique().tolist() for part in held] == [[2.0], [0.25]]


def test_whatever_a_checkpoint_would_hold_is_looked_at():
    training = Training()
    training.learn([batch_of(0)])
    parts = (training.net, training.optimizer, training.average)
    assert all_finite(*parts)
    moments = training.optimizer.state[training.net[0].weight]
    for tensor in (
        training.net[3].bias.data,
        training.net[1].running_var,
        moments["exp_avg_sq"],
        training.average.averaged_weights["0.weight"],
    ):
        before = tensor.clone()
        tensor.view(-1)[-1] = torch.inf
        assert not all_finite(*parts)
        tensor.copy_(before)


def test_a_halved_rate_is_half_at_once_and_at_every_later_step():
    whole, half = Training(), Training()
    for training in (whole, half):
        training.optimizer.step()
        training.scheduler.step()

    scale_lr_schedule(half.scheduler, 0.5)

    for _ in range(3):
        rates = [t.optimizer.param_groups[0]["lr"] for t in (whole, half)]
        assert rates[1] == 0.5 * rates[0] > 0
        for training in (whole, half):
            training.scheduler.step()
