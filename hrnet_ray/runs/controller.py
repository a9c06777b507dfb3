"""The stop of a command: one place for its state, whatever asks for the stop.

Ctrl-C, the SIGTERM of `ray job stop`, a lost run lock and a lost cluster only call `request_stop`. The
main thread polls the state and carries the stop out; the work itself runs in a thread of its own, which
a stop abandons, because a call of Ray cannot be interrupted.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from hrnet_ray.runs import stop_request

POLL_INTERVAL_S = 0.1
"""Seconds between two looks at the state, and at the answers of trainings that save."""
SAVE_TIMEOUT_S = 20.0
"""Seconds that a mid-epoch save may take. `ray job stop` kills after 30 s (cluster/*.yaml)."""

T = TypeVar("T")


class RunState(Enum):
    """What a command is doing."""

    RUNNING = "running"
    SAVING = "saving"  # it stops once its trainings have saved in mid-epoch
    ABORTING = "aborting"  # it stops at once


class StopReason(Enum):
    """What asked for a stop."""

    SIGNAL = "a signal"
    LOCK_LOST = "another command took over the run"
    CLUSTER_LOST = "the cluster is lost"


class RunController:
    """State of a command, and the thread of its work. As a context manager it handles signals.

    The state is polled, without a `threading.Event`: its lock is not reentrant, and a handler that sets
    the event while the main thread waits on it may block forever (seen within a second of signals at 1 kHz).
    """

    def __init__(self) -> None:
        self.state = RunState.RUNNING
        self.reason: StopReason | None = None
        self._previous_handlers: dict[int, Any] = {}

    def request_stop(self, reason: StopReason) -> None:
        """Stop the work, from any thread or signal handler; `run` then raises KeyboardInterrupt.

        At a first signal, the trainings save; a second one ends the wait for them. Without its cluster a
        command has no training left, and without its lock it must leave the folder to the other command.
        """
        saves = reason is StopReason.SIGNAL and self.state is RunState.RUNNING
        self.state = RunState.SAVING if saves else RunState.ABORTING
        self.reason = self.reason or reason

    def run(self, work: Callable[[], T], *, training_folders: Callable[[], Iterable[Path]] = tuple) -> T:
        """Return the result of `work`; a stop lets the trainings in `training_folders` save first.

        `work` runs in a thread of its own, where Ray cannot replace the signal handlers: Ray Train's
        SIGINT handler exits with code 0 and outlives the training, Ray Tune's reports an interrupted
        search as finished.

        Raises:
            KeyboardInterrupt: a stop was requested, now or earlier.
        """
        result: Future[T] = Future()

        def capture_result() -> None:
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)

        thread = threading.Thread(target=capture_result, daemon=True, name="work")
        if self.state is RunState.RUNNING:
            thread.start()
        while self.state is RunState.RUNNING and thread.is_alive():
            thread.join(POLL_INTERVAL_S)
        if self.state is RunState.RUNNING:
            return result.result()
        if self.state is RunState.SAVING and thread.is_alive():
            self._wait_for_saves(training_folders())
        raise KeyboardInterrupt(self.reason)

    def __enter__(self) -> "RunController":
        """Handle SIGINT and SIGTERM; Ray's own SIGTERM handler exits silently."""
        if threading.current_thread() is threading.main_thread():  # only it receives signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._handle_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle_signal(self, *_: object) -> None:
        self.request_stop(StopReason.SIGNAL)
        if self.state is RunState.ABORTING:
            self.__exit__()  # a third signal interrupts a main thread that hangs

    def _wait_for_saves(self, folders: Iterable[Path]) -> None:
        waiting = [folder for folder in folders if stop_request.request_stop(folder)]
        if waiting:
            print("Saving before stopping (press Ctrl-C again to stop at once).", flush=True)
        deadline = time.monotonic() + SAVE_TIMEOUT_S
        while waiting and self.state is RunState.SAVING and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)
            waiting = [folder for folder in waiting if stop_request.read_state(folder) == "stop"]
        # The request stays: a worker that is only slow still stops.
        for folder in waiting if self.state is RunState.SAVING else []:
            print(f"{folder}: not saved within {SAVE_TIMEOUT_S:.0f} s, will resume from its last epoch", flush=True)
