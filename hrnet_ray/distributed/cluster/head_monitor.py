"""Monitor of the head node and of the remaining nodes.

If the head node dies, Ray kills the driver after 60 s with exit code 1. If too few nodes remain,
Ray waits for new ones forever. The monitor detects both, stops the run and raises ClusterError.
"""

import atexit
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType

import ray

from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.resources import WorkerResources, require_min_workers
from hrnet_ray.errors import ClusterError
from hrnet_ray.runs.controller import RunController, StopReason

POLL_INTERVAL_S = 2.0
"""Seconds between two checks, and timeout of one connection."""
HEAD_TIMEOUT_S = 30.0
"""Seconds without a connection to the head node until the cluster counts as lost."""
NODE_REPLACEMENT_TIMEOUT_S = 180.0
"""Seconds with fewer than `min_workers` workers until the cluster counts as lost."""


class HeadNodeMonitor:
    """Context manager that raises ClusterError when the cluster is lost during `controller.run`."""

    def __init__(self, cluster: ClusterConfig, worker_resources: WorkerResources, controller: RunController) -> None:
        self._controller = controller
        self._cluster, self._worker_resources = cluster, worker_resources
        self._head_address = ray.get_runtime_context().gcs_address
        self._lost_error: ClusterError | None = None
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._watch_cluster, daemon=True, name="head-node-monitor")

    def __enter__(self) -> "HeadNodeMonitor":
        self._thread.start()
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        self._stop_event.set()
        has_failed = isinstance(error, Exception)  # not a user interrupt, which may stop Ray too
        if has_failed and not self._lost_error and not _can_connect(self._head_address):
            self._mark_head_lost()  # an error of a Ray actor came before the timeout
        if error and self._lost_error:
            raise self._lost_error from error

    def _watch_cluster(self) -> None:
        head_seen_s = workers_fit_s = time.monotonic()
        while not self._stop_event.wait(POLL_INTERVAL_S):
            now = time.monotonic()
            if _can_connect(self._head_address):
                head_seen_s = now
            elif now - head_seen_s > HEAD_TIMEOUT_S:
                self._mark_head_lost()
                return self._controller.request_stop(StopReason.CLUSTER_LOST)
            else:
                continue
            try:
                require_min_workers(self._cluster, self._worker_resources, ray.cluster_resources())
                workers_fit_s = now
            except ClusterError as error:
                if now - workers_fit_s > NODE_REPLACEMENT_TIMEOUT_S:
                    self._lost_error = error
                    return self._controller.request_stop(StopReason.CLUSTER_LOST)

    def _mark_head_lost(self) -> None:
        self._lost_error = ClusterError(
            "the cluster is lost: its head node does not answer",
            self._head_address,
            "start a cluster, then run the same command again to resume from the last checkpoint",
        )
        # At exit, Ray would wait a minute for the head node and then report a crash.
        atexit.register(_exit_immediately, self._lost_error.exit_code)


def _can_connect(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with (
        suppress(OSError),
        socket.create_connection((host.strip("[]"), int(port)), POLL_INTERVAL_S),
    ):
        return True
    return False


def _exit_immediately(code: int) -> None:
    """End this process without the exit handlers of Ray."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
