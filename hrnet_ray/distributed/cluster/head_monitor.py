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

from hrnet_ray.config import Cluster
from hrnet_ray.distributed.cluster.resources import Share, require_fewest
from hrnet_ray.errors import ClusterError

LOOK_S = 2.0
SILENT_S = 30.0
"""Without an answer of its head, a cluster is given up; Ray itself does after 60 s."""
TOO_SMALL_S = 180.0
"""How long a node may take to be replaced, where fewer than the fewest workers are left."""
LEAVE_S = 10.0
"""For telling how the run ended; who is then still there is waiting for Ray."""


class Vigil:
    """While open, a cluster that is lost ends the work with a ClusterError.

    For the main thread, and inside `stoppable`, which turns a signal into a KeyboardInterrupt.
    """

    def __init__(self, cluster: Cluster, share: Share) -> None:
        self._cluster, self._share = cluster, share
        self._head = ray.get_runtime_context().gcs_address
        self._lost: ClusterError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="vigil")

    def lost(self) -> bool:
        """Whether the cluster has been given up."""
        return self._lost is not None

    def __enter__(self) -> "Vigil":
        if threading.current_thread() is threading.main_thread():
            self._thread.start()
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        self._stop.set()
        failed = isinstance(error, Exception)  # not stopped by a person, who may stop Ray as well
        if failed and not self._lost and not _answers(self._head):
            self._give_up_on_head()  # Ray was quicker: some actor of its own does not answer
        if error and self._lost:
            raise self._lost from error

    def _watch(self) -> None:
        heard = enough = time.monotonic()
        while not self._stop.wait(LOOK_S):
            now = time.monotonic()
            if _answers(self._head):
                heard = now
            elif now - heard > SILENT_S:
                self._give_up_on_head()
                return self._end()
            else:
                continue
            try:
                require_fewest(self._cluster, self._share, ray.cluster_resources())
                enough = now
            except ClusterError as error:
                if now - enough > TOO_SMALL_S:
                    self._lost = error
                    return self._end()

    def _give_up_on_head(self) -> None:
        self._lost = ClusterError(
            "the cluster is lost: its head does not answer",
            self._head,
            "start a cluster, and give the same command again: it goes on from the last checkpoint",
        )
        # Ray would say goodbye to nobody, for a minute, and then call it a crash.
        atexit.register(_leave, self._lost.exit_code)

    def _end(self) -> None:
        assert self._lost
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._stop.wait(LEAVE_S):
            print(f"error: {self._lost}", file=sys.stderr)
            _leave(self._lost.exit_code)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), LOOK_S):
        return True
    return False


def _leave(code: int) -> None:
    """End this process as it is, and let nothing of Ray have a say."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
