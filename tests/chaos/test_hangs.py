"""A worker that hangs is detected by a health check."""

import platform
from itertools import pairwise

import pytest

from hrnet_ray.distributed.training.worker_failures import RESTARTS_METRIC
from hrnet_ray.runs.event_log import read_events, read_metrics
from tests.chaos.commands import Command

pytestmark = pytest.mark.chaos

HEALTH_CHECK_TIMEOUT_S = 20
"""Seconds; a run has 60 by default."""


def test_a_hanging_worker_is_named_and_replaced_and_changes_nothing(undisturbed, tigers, tmp_path):
    command = Command(tigers, tmp_path)
    environment = {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(HEALTH_CHECK_TIMEOUT_S),
        "HRNET_RAY_ALLOW_FAULTS": "1",
        "HRNET_RAY_FAULTS": "hang:rank=1,epoch=3,step=1",
    }
    with command.started(**environment) as driver:
        output = driver.communicate()[0]

    assert driver.returncode == 0, output
    assert command.figures() == undisturbed.figures()  # bit for bit
    (message,) = read_events(command.run)
    assert message.startswith(f"Worker 1 on node {platform.node()} (")
    assert message.endswith(f"failed (no answer for {HEALTH_CHECK_TIMEOUT_S} s). Restarting from epoch 3.")
    assert message in output
    assert read_metrics(command.run)[-1][RESTARTS_METRIC] == 1
    print(f"SIGSTOP -> the next epoch: {_longest_gap(command):.1f} s")


def _longest_gap(command: Command) -> float:
    times = [epoch["at_ms"] for epoch in read_metrics(command.run)]
    return max(after - before for before, after in pairwise(times)) / 1000
