"""The benchmark of what a step spends beside its net runs, and ends with its figures."""

import json
import sys
from dataclasses import replace

import pytest

from benchmarks import device_share


def test_it_ends_with_the_three_shares(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    small = {"input_hw": (64, 64)}
    monkeypatch.setattr(device_share, "ROUNDS", 1)
    monkeypatch.setattr(device_share, "RECIPE", replace(device_share.RECIPE, **small))
    target = replace(device_share.TARGET, **small, heatmap_hw=(16, 16))
    monkeypatch.setattr(device_share, "TARGET", target)
    monkeypatch.setattr(sys, "argv", ["device_share.py", "--width", "4", "--batch", "2", "--rows", "4"])

    device_share.main()

    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(figures) == ["wait_share", "warp_share", "heatmap_share"]
    assert all(0 < share < 1 for share in figures.values())
