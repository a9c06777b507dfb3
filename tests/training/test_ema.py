"""The EMA: by hand, in and out of the model, and through a checkpoint."""

import pytest
import torch
from torch import nn

from hrnet_ray.training.ema import ModelEma


def make_model(weight: float) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    set_weights(model, weight)
    return model


def set_weights(model: nn.Module, weight: float) -> None:
    with torch.no_grad():
        model[0].weight.fill_(weight)
        model[1].running_mean.fill_(-weight)
        model[1].num_batches_tracked.fill_(int(weight))


def test_an_old_average_follows_its_decay():
    model = make_model(0.0)
    average = ModelEma(model, decay=0.75)
    average.steps = 1000  # past the warm-up
    for weight in (8.0, 4.0):
        set_weights(model, weight)
        average.update_parameters()

    assert average.averaged_weights["0.weight"].item() == 0.75 * (0.25 * 8) + 0.25 * 4
    assert average.averaged_weights["1.running_mean"].item() == -2.5
    assert average.averaged_weights["1.num_batches_tracked"].item() == 4


def test_a_young_average_forgets_the_initial_weights():
    model = make_model(100.0)
    average = ModelEma(model, decay=0.9999)
    set_weights(model, 0.0)
    for _ in range(50):
        average.update_parameters()

    assert average.averaged_weights["0.weight"].item() < 0.1  # with the full decay: 99.5


def test_the_model_holds_the_average_in_the_context_and_its_own_weights_afterwards():
    model = make_model(2.0)
    average = ModelEma(model, decay=0.5)
    set_weights(model, 7.0)

    with average.use_averaged_weights():
        inside = {name: value.clone() for name, value in model.state_dict().items()}
        set_weights(model, 99.0)  # as sync_buffers_from_rank0 does: discarded

    assert inside["0.weight"].item() == 2.0
    assert model.state_dict()["0.weight"].item() == 7.0
    assert model.state_dict()["1.running_mean"].item() == -7.0
    assert average.averaged_weights["0.weight"].item() == 2.0


def test_the_model_is_restored_after_an_error():
    model = make_model(2.0)
    average = ModelEma(model, decay=0.5)
    set_weights(model, 7.0)

    with pytest.raises(OSError, match="full"), average.use_averaged_weights():
        raise OSError("full")

    assert model.state_dict()["0.weight"].item() == 7.0


def test_an_average_resumes_from_its_state_bit_for_bit(tmp_path):
    def follow(model: nn.Module, average: ModelEma, weights: list[float]) -> None:
        for weight in weights:
            set_weights(model, weight)
            average.update_parameters()

    model = make_model(1.0)
    whole = ModelEma(model, decay=0.9)
    follow(model, whole, [0.3, 0.7, 0.1, 0.9])

    model = make_model(1.0)
    first = ModelEma(model, decay=0.9)
    follow(model, first, [0.3, 0.7])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = ModelEma(make_model(55.0), decay=0.9)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    follow(second.model, second, [0.1, 0.9])

    assert all(torch.equal(value, second.averaged_weights[name]) for name, value in whole.averaged_weights.items())
