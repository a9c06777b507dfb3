"""A compiler that fails costs one line, and nothing of the model."""

import pytest
import torch
from torch import nn

from hrnet_ray.training.compile import try_compile_model

CROPS = (2, 3, 64, 32)


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("eager", []),
        ("nowhere", ["optim.compile: goes on without (InvalidBackend: Invalid backend: 'nowher"]),
    ],
)
def test_compiled_or_not_the_net_is_what_it_was(backend: str, said: list[str]):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    heatmaps = net.eval()(torch.ones(CROPS))
    heard: list[str] = []

    compiled = try_compile_model(net, crops_shape=CROPS, backend=backend, log_line=heard.append)

    assert compiled == (backend == "eager")
    assert [line.splitlines()[0][:72] for line in heard] == said
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net[0].weight.grad is None
    assert torch.equal(net.eval()(torch.ones(CROPS)), heatmaps)
