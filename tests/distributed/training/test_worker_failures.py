"""What is told of workers that were lost."""

import json
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from hrnet_ray.distributed.training.worker_failures import WorkerFailureCallback, get_restart_metric
from hrnet_ray.runs.event_log import append_metrics, read_events

DEAD = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
HUNG = WorkerHealthCheckTimeoutError("A worker health check has been hanging")
BROKEN = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer\nmore")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose two workers have signed in."""
    (tmp_path / "ray").mkdir()
    for rank, host in enumerate(("oak", "elm")):
        home = {"host": host, "node": f"{rank}a2b3c4d5e6f"}
        (tmp_path / "ray" / f"worker_{rank:04d}").write_text(json.dumps(home))
    return tmp_path


def test_a_dead_worker_is_named_and_who_failed_with_it_is_not(run):
    WorkerFailureCallback(run, max_failures=3).after_exception(None, {0: BROKEN, 1: DEAD})

    assert read_events(run) == [
        "lost worker 1 on node elm (1a2b3c4d): its process is gone; beginning anew"
    ]


def test_a_worker_that_hung_is_told_apart_from_one_that_died(run, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "45")
    append_metrics(run, {"epoch": 6})

    WorkerFailureCallback(run, max_failures=3).after_exception(None, {1: HUNG})

    assert read_events(run) == [
        "lost worker 1 on node elm (1a2b3c4d): it did not answer for 45 s; going on after epoch 7"
    ]


def test_when_all_of_them_fail_by_themselves_all_are_named(run):
    WorkerFailureCallback(run, max_failures=3).after_exception(None, {0: BROKEN, 1: ValueError("")})

    (note,) = read_events(run)
    assert "worker 0 on node oak (0a2b3c4d): RuntimeError: [gloo/transport" in note
    assert "worker 1 on node elm (1a2b3c4d): ValueError: ;" in note
    assert "more" not in note


def test_a_worker_of_whom_nobody_knows_where_it_was_is_lost_all_the_same(tmp_path):
    WorkerFailureCallback(tmp_path, max_failures=3).after_exception(None, {5: DEAD})

    assert read_events(tmp_path)[0].startswith("lost worker 5 on node unknown: its process")


def test_restarts_are_counted_and_the_last_one_is_not_promised(run):
    losses = WorkerFailureCallback(run, max_failures=1)
    assert get_restart_metric(run) == {}

    losses.after_exception(None, {1: DEAD})
    losses.after_exception(None, {1: DEAD})

    assert get_restart_metric(run) == {"fault/worker_restarts": 2}
    assert read_events(run)[1].endswith("; that was one too many")
