"""Ctrl-C, and the SIGTERM of `ray job stop`: one way to stop, after which everything can go on."""

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
"""For saving in the middle of an epoch. `ray job stop` kills after 30 s (cluster/*.yaml)."""

T = TypeVar("T")


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Let either signal end the work as a KeyboardInterrupt.

    Ray's own handler of SIGTERM leaves without a word.
    """
    if not _is_main_thread():  # only the first one has signals
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, _raise_keyboard_interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_in_thread(fn: Callable[[], T]) -> T:
    """Do it in a thread of its own, where Ray cannot take over the signals.

    Ray Train's handler of Ctrl-C leaves with exit code 0, as if all were done, and stays when the
    training is over; Ray Tune's makes a finished search of an interrupted one.
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
def save_on_interrupt(
    run_folders: Callable[[], Iterable[Path]], *, skip_if: Callable[[], bool]
) -> Iterator[None]:
    """When stopped, let the trainings in these folders save before; a second signal cuts it short.

    `unless` there is nobody left who could.
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
        print("stopping: saving first (once more to stop at once)", flush=True)
    deadline = time.monotonic() + SAVE_TIMEOUT_S
    while waiting and time.monotonic() < deadline:
        time.sleep(0.1)
        waiting = [folder for folder in waiting if stop_request.read_state(folder) == "stop"]
    for folder in waiting:  # the word stays there: should it still come to that, it stops
        print(
            f"{folder}: not saved within {SAVE_TIMEOUT_S:.0f} s, goes on from its last epoch",
            flush=True,
        )


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _raise_keyboard_interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
