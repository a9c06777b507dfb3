"""Work that is done while other work goes on."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeVar

PREFETCH_DEPTH = 2
"""Items that wait ready while one is worked on."""

T = TypeVar("T")


def prefetch_items(source: Iterator[T], *, depth: int = PREFETCH_DEPTH) -> Iterator[T]:
    """The same items, made in a thread of their own, up to `depth` of them in advance."""
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put_unless_stopped(item: Any, error: BaseException | None = None) -> None:
        while not stop.is_set():  # the consumer may have stopped
            with suppress(queue.Full):
                return ready.put((item, error), timeout=0.1)

    def fill_queue() -> None:
        try:
            for item in source:
                put_unless_stopped(item)
                if stop.is_set():
                    return
            put_unless_stopped(None, StopIteration())
        except BaseException as error:  # raised where the items are used
            put_unless_stopped(None, error)

    thread = threading.Thread(target=fill_queue, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        thread.join()
