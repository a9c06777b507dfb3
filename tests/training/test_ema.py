"""The averaged weights: by hand, in and out of the model, and through a checkpoint."""

import pytest
import torch
from torch import nn

from hrnet_ray.training.ema import ModelEma


def a_net(weight: float) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    put(net, weight)
    return net


def put(net: nn.Module, weight: float) -> None:
    with torch.no_grad():
        net[0].weight.fill_(weight)
        net[1].running_mean.fill_(-weight)
        net[1].num_batches_tracked.fill_(int(weight))


def test_an_old_average_keeps_its_decays_share_of_what_it_was():
    net = a_net(0.0)
    average = ModelEma(net, decay=0.75)
    average.steps = 1000  # old
    for weight in (8.0, 4.0):
        put(net, weight)
        average.update_parameters()

    assert average.averaged_weights["0.weight"].item() == 0.75 * (0.25 * 8) + 0.25 * 4
    assert average.averaged_weights["1.running_mean"].item() == -2.5
    assert average.averaged_weights["1.num_batches_tracked"].item() == 4


def test_a_young_average_forgets_the_start():
    net = a_net(100.0)
    average = ModelEma(net, decay=0.9999)
    put(net, 0.0)
    for _ in range(50):
        average.update_parameters()

    assert average.averaged_weights["0.weight"].item() < 0.1  # with the full decay: 99.5


def test_the_model_is_the_average_while_it_is_judged_and_itself_again_afterwards():
    net = a_net(2.0)
    average = ModelEma(net, decay=0.5)
    put(net, 7.0)

    with average.use_averaged_weights():
        inside = {name: value.clone() for name, value in net.state_dict().items()}
        put(net, 99.0)  # as share_buffers does: forgotten

    assert inside["0.weight"].item() == 2.0
    assert net.state_dict()["0.weight"].item() == 7.0
    assert net.state_dict()["1.running_mean"].item() == -7.0
    assert average.averaged_weights["0.weight"].item() == 2.0


def test_the_model_comes_back_when_judging_fails():
    net = a_net(2.0)
    average = ModelEma(net, decay=0.5)
    put(net, 7.0)

    with pytest.raises(OSError, match="full"), average.use_averaged_weights():
        raise OSError("full")

    assert net.state_dict()["0.weight"].item() == 7.0


def test_an_average_goes_on_from_its_state_bit_for_bit(tmp_path):
    def follow(net: nn.Module, average: ModelEma, weights: list[float]) -> None:
        for weight in weights:
            put(net, weight)
            average.update_parameters()

    net = a_net(1.0)
    whole = ModelEma(net, decay=0.9)
    follow(net, whole, [0.3, 0.7, 0.1, 0.9])

    net = a_net(1.0)
    first = ModelEma(net, decay=0.9)
    follow(net, first, [0.3, 0.7])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = ModelEma(a_net(55.0), decay=0.9)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    follow(second.model, second, [0.1, 0.9])

    assert all(
        torch.equal(value, second.averaged_weights[name])
        for name, value in whole.averaged_weights.items()
    )
