"""Workers that are lost: who it was, where and why, told to people and counted."""

import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from hrnet_ray.runtime.checkpoints import FOLDER
from hrnet_ray.runtime.machines import SETTINGS
from hrnet_ray.runtime.records import append_fault, count_faults, read_epochs

LOST_WORKER = "lost_worker"
"""The kind of its line in faults.jsonl."""
RESTARTS = "fault/restarts"
"""The metric that counts them."""


class Losses(UserCallback):
    """Notes which workers were lost, and what comes now. Lives on Ray Train's controller."""

    def __init__(self, run_folder: Path, *, survives: int) -> None:
        self._run_folder, self._left = run_folder, survives

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        lost = {r: e for r, e in worker_exceptions.items() if _is_lost(e)}
        # Those whose link to a lost one broke fail with it; they are named when nobody else is.
        who = ", ".join(
            f"worker {rank} on node {_home(self._run_folder, rank)}: {_cause(error)}"
            for rank, error in sorted((lost or worker_exceptions).items())
        )
        self._left -= 1
        append_fault(self._run_folder, LOST_WORKER, f"lost {who}; {self._what_now()}")

    def _what_now(self) -> str:
        if self._left < 0:
            return "that was one too many"
        if epochs := read_epochs(self._run_folder):
            return f"going on after epoch {epochs[-1]['epoch'] + 1}"
        return "beginning anew"


def sign_in(run_folder: Path, rank: int) -> None:
    """Leave word of where a worker runs: when it is lost, it cannot be asked any more."""
    node = ray.get_runtime_context().get_node_id()
    with suppress(OSError):
        _word(run_folder, rank).write_text(f"{platform.node()} ({node[:8]})", encoding="utf-8")


def restarts(run_folder: Path) -> dict[str, int]:
    """How often a run went on after a loss, as a metric; nothing where it never had to."""
    count = count_faults(run_folder, LOST_WORKER)
    return {RESTARTS: count} if count else {}


def _word(run_folder: Path, rank: int) -> Path:
    return run_folder / FOLDER / f"worker_{rank:04d}"


def _home(run_folder: Path, rank: int) -> str:
    try:
        return _word(run_folder, rank).read_text(encoding="utf-8")
    except OSError:
        return "unknown"


def _is_lost(error: Exception) -> bool:
    return isinstance(error, WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError)


def _cause(error: Exception) -> str:
    if isinstance(error, WorkerHealthCheckTimeoutError):
        limit = SETTINGS["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"]
        return f"it did not answer for {limit} s"
    if isinstance(error, WorkerHealthCheckFailedError):
        error = error.health_check_failure
    if isinstance(error, RayActorError):
        return "its node is gone" if "node has died" in str(error) else "its process is gone"
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {' '.join(first)[:200]}"
