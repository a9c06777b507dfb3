"""What processes use: CPU time and private memory, read from outside while they work."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_S = 0.25  # asking costs some milliseconds a process
GONE = (psutil.NoSuchProcess, psutil.AccessDenied, OSError)


def descendants() -> list[psutil.Process]:
    """This process's children, and theirs."""
    return psutil.Process().children(recursive=True)


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds of these processes and of this one so far."""
    total = time.process_time()
    for process in processes:
        with suppress(*GONE):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def private_mb(processes: Sequence[psutil.Process]) -> float:
    """Memory that no file and no object store stands behind.

    What a fork shares with its parent counts once (Linux says how much of a page is whose).
    """
    return sum(_private_mb(process) for process in processes)


def _private_mb(process: psutil.Process) -> float:
    with suppress(*GONE):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) / 1024
        return process.memory_full_info().uss / 2**20  # another system, or an older one
    return 0.0


@dataclass
class Peak:
    """The most private memory that this process had, and `others` together, while it is open."""

    others: Sequence[psutil.Process]
    own_mb: float = 0.0
    others_mb: float = 0.0

    def __enter__(self) -> "Peak":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while True:
            self.own_mb = max(self.own_mb, private_mb([me]))
            self.others_mb = max(self.others_mb, private_mb(self.others))
            if self._stop.wait(EVERY_S):
                return
