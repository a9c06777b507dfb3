"""A worker that hangs, which nobody tells Ray: it is asked, and does not answer."""

import platform
from itertools import pairwise

import pytest

from hrnet_ray.distributed.training.worker_failures import RESTARTS_METRIC
from hrnet_ray.runs.event_log import read_events, read_metrics
from tests.chaos.commands import Command

pytestmark = pytest.mark.chaos

PATIENCE_S = 20  # a run has 60


def test_a_worker_that_hangs_is_named_replaced_and_changes_nothing(calm, tigers, tmp_path):
    command = Command(tigers, tmp_path)
    more = {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(PATIENCE_S),
        "HRNET_RAY_ALLOW_FAULTS": "1",
        "HRNET_RAY_FAULTS": "hang:rank=1,epoch=3,step=1",
    }
    with command.started(**more) as driver:
        said = driver.communicate()[0]

    assert driver.returncode == 0, said
    assert command.figures() == calm.figures()  # bit for bit
    (note,) = read_events(command.run)
    assert note.startswith(f"lost worker 1 on node {platform.node()} (")
    assert note.endswith(f": it did not answer for {PATIENCE_S} s; going on after epoch 3")
    assert note in said
    assert read_metrics(command.run)[-1][RESTARTS_METRIC] == 1
    print(f"SIGSTOP -> the next epoch: {_longest_gap(command):.1f} s")


def _longest_gap(command: Command) -> float:
    times = [epoch["at_ms"] for epoch in read_metrics(command.run)]
    return max(after - before for before, after in pairwise(times)) / 1000
