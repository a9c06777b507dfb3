"""Ctrl-C, and the SIGTERM of `ray job stop`: one way to stop, after which everything can go on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable() -> Iterator[None]:
    """Let either signal end the work as a KeyboardInterrupt, whatever Ray makes of it.

    Ray Train's own handler of Ctrl-C leaves with exit code 0, as if all were done, and stays when
    the training is over; Ray's handler of SIGTERM leaves without a word.
    """
    if threading.current_thread() is not threading.main_thread():  # only the first one has signals
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except SystemExit as left:
        raise KeyboardInterrupt from left
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
