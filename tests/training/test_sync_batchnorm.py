"""Synchronized BatchNorm on two ranks equals BatchNorm over all crops."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hrnet_ray.training.sync_batchnorm import CpuSyncBatchNorm2d, convert_sync_batchnorm
from tests.utils.two_workers import together

CPU = torch.device("cpu")
ROWS = ([0, 1, 2], [3, 4])  # uneven


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3, momentum=0.1), nn.Conv2d(3, 1, 1))


def make_crops() -> Tensor:
    return torch.randn(5, 2, 4, 6, generator=torch.Generator().manual_seed(1)) * 3 + 1


def train_rank(rank: int, folder: Path) -> None:
    """Take one step in one of two processes."""
    model = convert_sync_batchnorm(make_model(), CPU)
    wrapped = DistributedDataParallel(model)
    own_crops = make_crops()[ROWS[rank]]
    loss = wrapped(own_crops).square().sum() / 5 * 2  # DDP averages over the ranks
    loss.backward()
    actual = {name: value.grad for name, value in model.named_parameters()}
    torch.save(actual | dict(model.named_buffers()), folder / f"{rank}.pt")


def test_two_workers_have_the_gradients_of_one_with_all_crops(tmp_path: Path):
    together(train_rank, tmp_path)

    model = make_model()
    (model(make_crops()).square().sum() / 5).backward()
    expected = {name: value.grad for name, value in model.named_parameters()}
    expected |= dict(model.named_buffers())
    for rank in range(2):
        actual = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert actual.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_single_process_uses_plain_batchnorm_with_the_same_names():
    plain, synced = make_model(), convert_sync_batchnorm(make_model(), CPU)

    assert isinstance(synced[1], CpuSyncBatchNorm2d)
    assert torch.equal(synced(make_crops()), plain(make_crops()))
    assert torch.equal(synced.eval()(make_crops()), plain.eval()(make_crops()))
    assert list(synced.state_dict()) == list(plain.state_dict())
