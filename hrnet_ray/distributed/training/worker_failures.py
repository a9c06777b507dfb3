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

from hrnet_ray.distributed.cluster.resources import SETTINGS
from hrnet_ray.runs.event_log import append_fault, count_faults, read_epochs
from hrnet_ray.training.checkpoint_manager import FOLDER

LOST_WORKER = "lost_worker"
"""The kind of its line in faults.jsonl."""
RESTARTS = "fault/restarts"
"""The metric that counts them."""
WORD = "worker_"
"""Begins the name of the file that says where a worker runs."""
NO_NODE = "its node is gone"
ANSWER_S = 2.0
GOODBYE_S = "5"

Home = dict[str, str]
"""`host`: its name; `node`: its id for Ray."""


class Losses(UserCallback):
    """Notes which workers were lost, and what comes now. Lives on Ray Train's controller."""

    def __init__(self, run_folder: Path, *, survives: int) -> None:
        self._run_folder, self._left = run_folder, survives

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Ray asks all of them to take leave of each other now, and would wait 30 s for the lost.
        os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", GOODBYE_S)
        homes = _homes(self._run_folder)
        who = ", ".join(
            f"worker {rank} on node {_name(homes.get(rank))}: {cause}"
            for rank, cause in sorted(_causes(worker_exceptions, homes).items())
        )
        self._left -= 1
        append_fault(self._run_folder, LOST_WORKER, f"lost {who}; {self._what_now()}")

    def _what_now(self) -> str:
        if self._left < 0:
            return "that was one too many"
        if epochs := read_epochs(self._run_folder):
            return f"going on after epoch {epochs[-1]['epoch'] + 1}"
        return "beginning anew"


def sign_in(run_folder: Path, rank: int, *, workers: int) -> None:
    """Leave word of where a worker runs: when it is lost, it cannot be asked any more."""
    home = {"host": platform.node(), "node": ray.get_runtime_context().get_node_id()}
    with suppress(OSError):
        (run_folder / FOLDER / f"{WORD}{rank:04d}").write_text(json.dumps(home), encoding="utf-8")
        if rank == 0:  # of a time when there were more
            for path in (run_folder / FOLDER).glob(f"{WORD}*"):
                if int(path.name.removeprefix(WORD)) >= workers:
                    path.unlink(missing_ok=True)


def restarts(run_folder: Path) -> dict[str, int]:
    """How often a run went on after a loss, as a metric; nothing where it never had to."""
    count = count_faults(run_folder, LOST_WORKER)
    return {RESTARTS: count} if count else {}


def _homes(run_folder: Path) -> dict[int, Home]:
    homes = {}
    for path in (run_folder / FOLDER).glob(f"{WORD}*"):
        with suppress(OSError, ValueError):
            homes[int(path.name.removeprefix(WORD))] = json.loads(path.read_bytes())
    return homes


def _name(home: Home | None) -> str:
    return f"{home['host']} ({home['node'][:8]})" if home else "unknown"


def _causes(errors: dict[int, Exception], homes: dict[int, Home]) -> dict[int, str]:
    """What became of the lost workers, or of those who failed where nobody is lost.

    A worker's link to a lost one breaks at once, but Ray learns of a node's end only when it has
    been silent for a while. Until then nothing is said of the workers that were on it.
    """
    lost = {rank: error for rank, error in errors.items() if _is_lost(error)}
    causes = {rank: _cause(error) for rank, error in (lost or errors).items()}
    silent = homes.keys() - (errors.keys() - lost.keys())
    down = dict.fromkeys((rank for rank in silent if _is_down(homes[rank])), NO_NODE)
    return ({rank: causes[rank] for rank in lost} | down) or causes


def _is_lost(error: Exception) -> bool:
    return isinstance(error, WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError)


def _is_down(home: Home) -> bool:
    if not ray.is_initialized():
        return False
    try:
        node = next((node for node in ray.nodes() if node["NodeID"] == home["node"]), None)
        if node is None or not node["Alive"]:
            return True
        place = (node["NodeManagerAddress"], node["NodeManagerPort"])
        socket.create_connection(place, ANSWER_S).close()
    except OSError:  # Ray will find out, too
        return True
    except RayError:  # the head does not know
        return False
    return False


def _cause(error: Exception) -> str:
    if isinstance(error, WorkerHealthCheckTimeoutError):
        name = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
        return f"it did not answer for {os.environ.get(name, SETTINGS[name])} s"
    if isinstance(error, WorkerHealthCheckFailedError):
        error = error.health_check_failure
    if isinstance(error, RayActorError):
        return "its process is gone"
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {' '.join(first)[:200]}"
