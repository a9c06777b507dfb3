"""The baseline of the step's benchmark is the published loss, and its arithmetic is right."""

import json

import pytest
import torch

from benchmarks import train_step
from hrnet_ray.pose.losses import keypoint_mse_loss

CPU = torch.device("cpu")


def test_the_plain_loss_is_the_same_number_keypoint_after_keypoint():
    chance = torch.Generator().manual_seed(0)
    output, target = torch.rand(2, 3, 5, 4, 6, generator=chance).unbind(0)
    weights = torch.rand(3, 5, generator=chance)

    plain = train_step.published_loss(output, target, weights[..., None])

    torch.testing.assert_close(plain, keypoint_mse_loss(output, target, weights))


def test_a_w32_step_takes_three_times_the_published_forward():
    """10.19 G multiply-adds an image; but nobody needs the gradient of the crops."""
    setting = train_step.Setting(CPU, batch=2, width=32, turns_s=0)

    flop = train_step.step_flop(setting)

    first = 2 * 2 * 128 * 128 * 3 * 64 * 9
    assert flop + first == pytest.approx(3 * 2 * 2 * 10.19e9, rel=2e-3)


def test_ratios_are_taken_round_by_round_and_the_median_is_told(capsys):
    times = {
        "plain step": [8.0, 80.0, 8.0],  # somebody else needed the machine in the second round
        "step fp32": [4.0, 40.0, 5.0],
        "plain evaluation": [3.0, 3.0, 3.0],
        "evaluation fp32": [1.0, 2.0, 1.5],
    }
    setting = train_step.Setting(CPU, batch=8, width=4, turns_s=0)

    train_step.report(setting, times, {"fp32": [1e12, 1e12, 2e12]}, flop=int(1e12))

    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["step_ratio"] == figures["step_ratio_fp32"] == 2.0
    assert figures["eval_ratio"] == 2.0
    assert figures["ceiling_share"] == 0.1  # 1 / 4, 1 / 40 and 0.5 / 5


def test_all_contestants_run(monkeypatch):
    monkeypatch.setattr(train_step, "SIDE", 64)
    monkeypatch.setattr(train_step, "CEILING_S", 0.001)
    small = train_step.HeatmapTargetConfig(input_hw=(64, 64), heatmap_hw=(16, 16), sigma=2.0)
    monkeypatch.setattr(train_step, "TARGET", small)

    times, rates = train_step.measured(train_step.Setting(CPU, batch=2, width=4, turns_s=0))

    assert {"plain step", "step fp32", "plain evaluation", "evaluation fp32"} <= times.keys()
    assert all(len(taken) == 2 and min(taken) > 0 for taken in times.values())
    assert all(rate > 1e8 for taken in rates.values() for rate in taken)
