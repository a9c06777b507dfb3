"""Ctrl-C and the SIGTERM of `ray job stop`: both stop a command so that it can be resumed."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from hrnet_ray.runs import stop_request

SAVE_TIMEOUT_S = 20.0
"""Seconds that a mid-epoch save may take. `ray job stop` kills after 30 s (cluster/*.yaml)."""

T = TypeVar("T")


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM; Ray's own SIGTERM handler exits silently."""
    if not _is_main_thread():  # only the main thread receives signals
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, _raise_keyboard_interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_in_thread(fn: Callable[[], T]) -> T:
    """Run `fn` in a thread of its own, where Ray cannot replace the signal handlers.

    Ray Train's SIGINT handler exits with code 0, and outlives the training. Ray Tune's handler
    reports an interrupted search as finished.
    """
    if not _is_main_thread():
        return fn()
    result: Future[T] = Future()

    def run_and_capture() -> None:
        try:
            result.set_result(fn())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run_and_capture, daemon=True, name="ray").start()
    return result.result()


@contextmanager
def save_on_interrupt(run_folders: Callable[[], Iterable[Path]], *, skip_if: Callable[[], bool]) -> Iterator[None]:
    """On an interrupt, let the trainings in these folders save first; a second signal skips that.

    `skip_if` returns True when no worker is left to save.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not skip_if():
            _request_saves_and_wait(run_folders())
        raise


def _request_saves_and_wait(run_folders: Iterable[Path]) -> None:
    waiting = [folder for folder in run_folders if stop_request.request_stop(folder)]
    if waiting:
        print("Saving before stopping (press Ctrl-C again to stop at once).", flush=True)
    deadline = time.monotonic() + SAVE_TIMEOUT_S
    while waiting and time.monotonic() < deadline:
        time.sleep(0.1)
        waiting = [folder for folder in waiting if stop_request.read_state(folder) == "stop"]
    for folder in waiting:  # the request stays: a worker that is only slow still stops
        print(
            f"{folder}: not saved within {SAVE_TIMEOUT_S:.0f} s, will resume from its last epoch",
            flush=True,
        )


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _raise_keyboard_interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
