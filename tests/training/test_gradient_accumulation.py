"""Two workers with gradient accumulation end with the weights of whole batches."""

from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hrnet_ray.data.batch import TrainBatch
from hrnet_ray.pose.targets import HeatmapTargetConfig
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.sync_batchnorm import convert_sync_batchnorm
from tests.utils.two_workers import together

TARGET = HeatmapTargetConfig(input_hw=(16, 24), heatmap_hw=(16, 24), sigma=1.0)


def train_rank(rank: int, folder: Path) -> None:
    """Train in one of two processes, with whole batches and with parts."""
    generator = torch.Generator().manual_seed(rank)
    batch = TrainBatch(
        torch.randn(5, 3, 16, 24, generator=generator),
        torch.rand(5, 2, 2, generator=generator) * 14,
        torch.ones(5, 2, dtype=torch.bool),
    )
    for parts in (1, 2):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 2, 3, padding=1)
        sgd = torch.optim.SGD(model.parameters(), lr=0.5)
        scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)
        wrapped = DistributedDataParallel(model)
        train_epoch(wrapped, [batch] * 2, sgd, scheduler, target=TARGET, gradient_accumulation_steps=parts)
        torch.save(model.weight.detach(), folder / f"{rank}-{parts}.pt")


def train_uneven_rank(rank: int, folder: Path) -> None:
    """Train with 4 + 3 crops: rank 0 could split them into two parts, rank 1 cannot."""
    count = 4 - rank
    batch = TrainBatch(
        torch.randn(count, 3, 16, 24),
        torch.rand(count, 2, 2) * 14,
        torch.ones(count, 2, dtype=torch.bool),
        loss_weight=count * 2 / 7,
        min_crops_per_rank=3,
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.BatchNorm2d(2))
    wrapped = DistributedDataParallel(convert_sync_batchnorm(model, torch.device("cpu")))
    sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)
    train_epoch(wrapped, [batch] * 2, sgd, scheduler, target=TARGET, gradient_accumulation_steps=2)
    torch.save(model[0].weight.detach(), folder / f"{rank}.pt")


def test_workers_with_synchronized_batchnorm_take_the_same_number_of_parts(tmp_path: Path):
    together(train_uneven_rank, tmp_path)

    weights_0, weights_1 = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(weights_0, weights_1)


def test_two_workers_with_parts_take_the_steps_of_whole_batches(tmp_path: Path):
    together(train_rank, tmp_path)

    weights = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("*.pt")}
    assert torch.equal(weights["0-1"], weights["1-1"])
    assert torch.equal(weights["0-2"], weights["1-2"])
    torch.testing.assert_close(weights["0-2"], weights["0-1"], rtol=1e-5, atol=1e-7)
