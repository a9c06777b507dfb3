"""Reports of failed workers."""

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
    """A run whose two workers are registered."""
    (tmp_path / "checkpoints").mkdir()
    for rank, host in enumerate(("oak", "elm")):
        location = {"host": host, "node": f"{rank}a2b3c4d5e6f"}
        (tmp_path / "checkpoints" / f"worker_{rank:04d}").write_text(json.dumps(location))
    return tmp_path


def test_a_dead_worker_is_named_and_workers_that_failed_with_it_are_not(run):
    WorkerFailureCallback(run, max_failures=3).after_exception(None, {0: BROKEN, 1: DEAD})

    assert read_events(run) == [
        "Worker 1 on node elm (1a2b3c4d) failed (its process died). Restarting from the beginning."
    ]


def test_a_hanging_worker_is_distinguished_from_a_dead_one(run, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "45")
    append_metrics(run, {"epoch": 7})

    WorkerFailureCallback(run, max_failures=3).after_exception(None, {1: HUNG})

    assert read_events(run) == ["Worker 1 on node elm (1a2b3c4d) failed (no answer for 45 s). Restarting from epoch 7."]


def test_if_no_worker_is_lost_all_failed_ones_are_named(run):
    WorkerFailureCallback(run, max_failures=3).after_exception(None, {0: BROKEN, 1: ValueError("")})

    (message,) = read_events(run)
    assert "Worker 0 on node oak (0a2b3c4d) failed (RuntimeError: [gloo/transport" in message
    assert "Worker 1 on node elm (1a2b3c4d) failed (ValueError: )." in message
    assert "more" not in message


def test_a_lost_worker_without_a_known_location_is_reported(tmp_path):
    WorkerFailureCallback(tmp_path, max_failures=3).after_exception(None, {5: DEAD})

    assert read_events(tmp_path)[0].startswith("Worker 5 on node unknown failed (its process died)")


def test_restarts_are_counted_and_none_is_announced_after_the_last(run):
    callback = WorkerFailureCallback(run, max_failures=1)
    assert get_restart_metric(run) == {}

    callback.after_exception(None, {1: DEAD})
    callback.after_exception(None, {1: DEAD})

    assert get_restart_metric(run) == {"fault/worker_restarts": 2}
    assert read_events(run)[1].endswith(". No restarts left.")
