"""Whether there still is a cluster to wait for.

Who waits for a cluster whose head is gone is ended by Ray after a minute, in the middle of whatever
it does, with exit code 1; who waits for machines that nobody has any more waits for ever. Here
both end in an error that says what to do.
"""

import atexit
import os
import signal
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

POLL_INTERVAL_S = 2.0
HEAD_TIMEOUT_S = 30.0
"""Without an answer of its head, a cluster is given up; Ray itself does after 60 s."""
NODE_REPLACEMENT_TIMEOUT_S = 180.0
"""How long a node may take to be replaced, where fewer than the fewest workers are left."""
EXIT_GRACE_S = 10.0
"""For telling how the run ended; who is then still there is waiting for Ray."""


class HeadNodeMonitor:
    """While open, a cluster that is lost ends the work with a ClusterError.

    For the main thread, and inside `stoppable`, which turns a signal into a KeyboardInterrupt.
    """

    def __init__(self, cluster: ClusterConfig, worker_resources: WorkerResources) -> None:
        self._cluster, self._worker_resources = cluster, worker_resources
        self._head_address = ray.get_runtime_context().gcs_address
        self._lost_error: ClusterError | None = None
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._watch_cluster, daemon=True, name="vigil")

    def is_lost(self) -> bool:
        """Whether the cluster has been given up."""
        return self._lost_error is not None

    def __enter__(self) -> "HeadNodeMonitor":
        if threading.current_thread() is threading.main_thread():
            self._thread.start()
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        self._stop_event.set()
        failed = isinstance(error, Exception)  # not stopped by a person, who may stop Ray as well
        if failed and not self._lost_error and not _can_connect(self._head_address):
            self._mark_head_lost()  # Ray was quicker: some actor of its own does not answer
        if error and self._lost_error:
            raise self._lost_error from error

    def _watch_cluster(self) -> None:
        heard = enough = time.monotonic()
        while not self._stop_event.wait(POLL_INTERVAL_S):
            now = time.monotonic()
            if _can_connect(self._head_address):
                heard = now
            elif now - heard > HEAD_TIMEOUT_S:
                self._mark_head_lost()
                return self._interrupt_main_thread()
            else:
                continue
            try:
                require_min_workers(self._cluster, self._worker_resources, ray.cluster_resources())
                enough = now
            except ClusterError as error:
                if now - enough > NODE_REPLACEMENT_TIMEOUT_S:
                    self._lost_error = error
                    return self._interrupt_main_thread()

    def _mark_head_lost(self) -> None:
        self._lost_error = ClusterError(
            "the cluster is lost: its head does not answer",
            self._head_address,
            "start a cluster, and give the same command again: it goes on from the last checkpoint",
        )
        # Ray would say goodbye to nobody, for a minute, and then call it a crash.
        atexit.register(_exit_immediately, self._lost_error.exit_code)

    def _interrupt_main_thread(self) -> None:
        assert self._lost_error
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._stop_event.wait(EXIT_GRACE_S):
            print(f"error: {self._lost_error}", file=sys.stderr)
            _exit_immediately(self._lost_error.exit_code)


def _can_connect(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with (
        suppress(OSError),
        socket.create_connection((host.strip("[]"), int(port)), POLL_INTERVAL_S),
    ):
        return True
    return False


def _exit_immediately(code: int) -> None:
    """End this process as it is, and let nothing of Ray have a say."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
