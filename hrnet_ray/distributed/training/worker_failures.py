"""Workers that are lost: who it was, where and why, told to people and counted."""

import json
import os
import platform
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from hrnet_ray.distributed.cluster.resources import RAY_ENV_DEFAULTS
from hrnet_ray.runs.event_log import count_events, log_event, read_metrics
from hrnet_ray.training.checkpoint_manager import CHECKPOINTS_DIR

LOST_WORKER_EVENT = "lost_worker"
"""The kind of its line in events.jsonl."""
RESTARTS_METRIC = "fault/worker_restarts"
"""The metric that counts them."""
WORKER_FILE_PREFIX = "worker_"
"""Begins the name of the file that says where a worker runs."""
NODE_LOST_REASON = "its node is gone"
CONNECT_TIMEOUT_S = 2.0
PROCESS_GROUP_SHUTDOWN_S = "5"

WorkerLocation = dict[str, str]
"""`host`: its name; `node`: its id for Ray."""


class WorkerFailureCallback(UserCallback):
    """Notes which workers were lost, and what comes now. Lives on Ray Train's controller."""

    def __init__(self, run_folder: Path, *, max_failures: int) -> None:
        self._run_folder, self._failures_left = run_folder, max_failures

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Ray asks all of them to take leave of each other now, and would wait 30 s for the lost.
        os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", PROCESS_GROUP_SHUTDOWN_S)
        homes = _read_worker_locations(self._run_folder)
        who = ", ".join(
            f"worker {rank} on node {_format_location(homes.get(rank))}: {cause}"
            for rank, cause in sorted(_collect_causes(worker_exceptions, homes).items())
        )
        self._failures_left -= 1
        log_event(self._run_folder, LOST_WORKER_EVENT, f"lost {who}; {self._describe_next_step()}")

    def _describe_next_step(self) -> str:
        if self._failures_left < 0:
            return "that was one too many"
        if epochs := read_metrics(self._run_folder):
            return f"going on after epoch {epochs[-1]['epoch'] + 1}"
        return "beginning anew"


def register_worker(run_folder: Path, rank: int, *, num_workers: int) -> None:
    """Leave word of where a worker runs: when it is lost, it cannot be asked any more."""
    home = {"host": platform.node(), "node": ray.get_runtime_context().get_node_id()}
    with suppress(OSError):
        (run_folder / CHECKPOINTS_DIR / f"{WORKER_FILE_PREFIX}{rank:04d}").write_text(
            json.dumps(home), encoding="utf-8"
        )
        if rank == 0:  # of a time when there were more
            for path in (run_folder / CHECKPOINTS_DIR).glob(f"{WORKER_FILE_PREFIX}*"):
                if int(path.name.removeprefix(WORKER_FILE_PREFIX)) >= num_workers:
                    path.unlink(missing_ok=True)


def get_restart_metric(run_folder: Path) -> dict[str, int]:
    """How often a run went on after a loss, as a metric; nothing where it never had to."""
    count = count_events(run_folder, LOST_WORKER_EVENT)
    return {RESTARTS_METRIC: count} if count else {}


def _read_worker_locations(run_folder: Path) -> dict[int, WorkerLocation]:
    homes = {}
    for path in (run_folder / CHECKPOINTS_DIR).glob(f"{WORKER_FILE_PREFIX}*"):
        with suppress(OSError, ValueError):
            homes[int(path.name.removeprefix(WORKER_FILE_PREFIX))] = json.loads(path.read_bytes())
    return homes


def _format_location(location: WorkerLocation | None) -> str:
    return f"{location['host']} ({location['node'][:8]})" if location else "unknown"


def _collect_causes(
    errors: dict[int, Exception], locations: dict[int, WorkerLocation]
) -> dict[int, str]:
    """What became of the lost workers, or of those who failed where nobody is lost.

    A worker's link to a lost one breaks at once, but Ray learns of a node's end only when it has
    been silent for a while. Until then nothing is said of the workers that were on it.
    """
    lost = {rank: error for rank, error in errors.items() if _is_worker_lost(error)}
    causes = {rank: _describe_cause(error) for rank, error in (lost or errors).items()}
    silent = locations.keys() - (errors.keys() - lost.keys())
    down = dict.fromkeys(
        (rank for rank in silent if _is_node_down(locations[rank])), NODE_LOST_REASON
    )
    return ({rank: causes[rank] for rank in lost} | down) or causes


def _is_worker_lost(error: Exception) -> bool:
    return isinstance(error, WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError)


def _is_node_down(location: WorkerLocation) -> bool:
    if not ray.is_initialized():
        return False
    try:
        node = next((node for node in ray.nodes() if node["NodeID"] == location["node"]), None)
        if node is None or not node["Alive"]:
            return True
        place = (node["NodeManagerAddress"], node["NodeManagerPort"])
        socket.create_connection(place, CONNECT_TIMEOUT_S).close()
    except OSError:  # Ray will find out, too
        return True
    except RayError:  # the head does not know
        return False
    return False


def _describe_cause(error: Exception) -> str:
    if isinstance(error, WorkerHealthCheckTimeoutError):
        name = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
        return f"it did not answer for {os.environ.get(name, RAY_ENV_DEFAULTS[name])} s"
    if isinstance(error, WorkerHealthCheckFailedError):
        error = error.health_check_failure
    if isinstance(error, RayActorError):
        return "its process is gone"
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {' '.join(first)[:200]}"
