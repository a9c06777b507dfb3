"""Reports of failed workers: rank, node and cause, logged and counted."""

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
"""Kind of the entry in events.jsonl."""
RESTARTS_METRIC = "fault/worker_restarts"
"""Metric that counts the restarts."""
WORKER_FILE_PREFIX = "worker_"
"""Prefix of the file with the location of a worker."""
NODE_LOST_REASON = "its node died"
CONNECT_TIMEOUT_S = 2.0
"""Seconds to wait for a connection to a node."""
PROCESS_GROUP_SHUTDOWN_S = "5"
"""Seconds in which remaining workers leave the process group; Ray's default is 30."""

WorkerLocation = dict[str, str]
"""`host`: name of the host; `node`: Ray's node id."""


class WorkerFailureCallback(UserCallback):
    """Logs which workers failed and what happens next; runs on Ray Train's controller."""

    def __init__(self, run_folder: Path, *, max_failures: int) -> None:
        self._run_folder, self._failures_left = run_folder, max_failures

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Ray shuts down the process group now, and would wait 30 s for the lost worker.
        os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", PROCESS_GROUP_SHUTDOWN_S)
        locations = _read_worker_locations(self._run_folder)
        failures = ". ".join(
            f"Worker {rank} on node {_format_location(locations.get(rank))} failed ({cause})"
            for rank, cause in sorted(_collect_causes(worker_exceptions, locations).items())
        )
        self._failures_left -= 1
        log_event(self._run_folder, LOST_WORKER_EVENT, f"{failures}. {self._describe_next_step()}.")

    def _describe_next_step(self) -> str:
        if self._failures_left < 0:
            return "No restarts left"
        if epochs := read_metrics(self._run_folder):
            return f"Restarting from epoch {epochs[-1]['epoch']}"
        return "Restarting from the beginning"


def register_worker(run_folder: Path, rank: int, *, num_workers: int) -> None:
    """Write the location of a worker, for the report of its failure."""
    location = {"host": platform.node(), "node": ray.get_runtime_context().get_node_id()}
    with suppress(OSError):
        (run_folder / CHECKPOINTS_DIR / f"{WORKER_FILE_PREFIX}{rank:04d}").write_text(
            json.dumps(location), encoding="utf-8"
        )
        if rank == 0:  # remove files of an earlier, larger worker group
            for path in (run_folder / CHECKPOINTS_DIR).glob(f"{WORKER_FILE_PREFIX}*"):
                if int(path.name.removeprefix(WORKER_FILE_PREFIX)) >= num_workers:
                    path.unlink(missing_ok=True)


def get_restart_metric(run_folder: Path) -> dict[str, int]:
    """Return the number of restarts of a run as a metric; empty if there were none."""
    count = count_events(run_folder, LOST_WORKER_EVENT)
    return {RESTARTS_METRIC: count} if count else {}


def _read_worker_locations(run_folder: Path) -> dict[int, WorkerLocation]:
    locations = {}
    for path in (run_folder / CHECKPOINTS_DIR).glob(f"{WORKER_FILE_PREFIX}*"):
        with suppress(OSError, ValueError):
            locations[int(path.name.removeprefix(WORKER_FILE_PREFIX))] = json.loads(path.read_bytes())
    return locations


def _format_location(location: WorkerLocation | None) -> str:
    return f"{location['host']} ({location['node'][:8]})" if location else "unknown"


def _collect_causes(errors: dict[int, Exception], locations: dict[int, WorkerLocation]) -> dict[int, str]:
    """Return the cause for each lost worker, or for each failed one if none was lost.

    A worker's connection to a lost worker breaks at once, but Ray reports a dead node only after a
    timeout. Until then it reports no error for the workers of that node.
    """
    lost = {rank: error for rank, error in errors.items() if _is_worker_lost(error)}
    causes = {rank: _describe_cause(error) for rank, error in (lost or errors).items()}
    unreported = locations.keys() - (errors.keys() - lost.keys())
    on_dead_node = dict.fromkeys((rank for rank in unreported if _is_node_down(locations[rank])), NODE_LOST_REASON)
    return ({rank: causes[rank] for rank in lost} | on_dead_node) or causes


def _is_worker_lost(error: Exception) -> bool:
    return isinstance(error, WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError)


def _is_node_down(location: WorkerLocation) -> bool:
    if not ray.is_initialized():
        return False
    try:
        node = next((node for node in ray.nodes() if node["NodeID"] == location["node"]), None)
        if node is None or not node["Alive"]:
            return True
        address = (node["NodeManagerAddress"], node["NodeManagerPort"])
        socket.create_connection(address, CONNECT_TIMEOUT_S).close()
    except OSError:
        return True
    except RayError:  # the head node does not answer
        return False
    return False


def _describe_cause(error: Exception) -> str:
    if isinstance(error, WorkerHealthCheckTimeoutError):
        name = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
        return f"no answer for {os.environ.get(name, RAY_ENV_DEFAULTS[name])} s"
    if isinstance(error, WorkerHealthCheckFailedError):
        error = error.health_check_failure
    if isinstance(error, RayActorError):
        return "its process died"
    first_line = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {' '.join(first_line)[:200]}"
