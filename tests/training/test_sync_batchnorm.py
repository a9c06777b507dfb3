"""BatchNorm over two workers is the BatchNorm of one that has all the crops."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hrnet_ray.training.sync_batchnorm import CpuSyncBatchNorm2d, convert_sync_batchnorm
from tests.utils.two_workers import together

CPU = torch.device("cpu")
ROWS = ([0, 1, 2], [3, 4])  # uneven


def a_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3, momentum=0.1), nn.Conv2d(3, 1, 1)
    )


def crops() -> Tensor:
    return torch.randn(5, 2, 4, 6, generator=torch.Generator().manual_seed(1)) * 3 + 1


def work(rank: int, folder: Path) -> None:
    """What each of two processes does."""
    net = convert_sync_batchnorm(a_net(), CPU)
    wrapped = DistributedDataParallel(net)
    mine = crops()[ROWS[rank]]
    loss = wrapped(mine).square().sum() / 5 * 2  # DDP takes the mean over the workers
    loss.backward()
    known = {name: value.grad for name, value in net.named_parameters()}
    torch.save(known | dict(net.named_buffers()), folder / f"{rank}.pt")


def test_two_workers_normalise_and_learn_as_one_with_all_crops(tmp_path: Path):
    together(work, tmp_path)

    net = a_net()
    (net(crops()).square().sum() / 5).backward()
    wanted = {name: value.grad for name, value in net.named_parameters()}
    wanted |= dict(net.named_buffers())
    for rank in range(2):
        known = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert known.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(known[name], wanted[name], rtol=1e-4, atol=1e-5)


def test_alone_it_is_the_plain_norm_with_the_same_names_and_tensors():
    plain, net = a_net(), convert_sync_batchnorm(a_net(), CPU)

    assert isinstance(net[1], CpuSyncBatchNorm2d)
    assert torch.equal(net(crops()), plain(crops()))
    assert torch.equal(net.eval()(crops()), plain.eval()(crops()))
    assert list(net.state_dict()) == list(plain.state_dict())
