"""A failing compiler costs one log line and does not change the model."""

import pytest
import torch
from torch import nn

from hrnet_ray.training.compile import try_compile_model

CROPS = (2, 3, 64, 32)


@pytest.mark.parametrize(
    ("backend", "messages"),
    [
        ("eager", []),
        (
            "nowhere",
            ["optim.compile: continuing uncompiled (InvalidBackend: Invalid backend: 'nowher"],
        ),
    ],
)
def test_compilation_does_not_change_the_model(backend: str, messages: list[str]):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    heatmaps = model.eval()(torch.ones(CROPS))
    logged: list[str] = []

    compiled = try_compile_model(model, crops_shape=CROPS, backend=backend, log_line=logged.append)

    assert compiled == (backend == "eager")
    assert [line.splitlines()[0][:78] for line in logged] == messages
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.grad is None
    assert torch.equal(model.eval()(torch.ones(CROPS)), heatmaps)
