"""How a training is asked to save in the middle of an epoch, and says that it has.

One word in a file `stop` of its run folder, which both sides open anew each time: a network file
system may hide for a minute that a file has come or gone, but not what is in it.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from hrnet_ray.utils.collectives import of_everybody

EVERY_S = 1.0
"""So often the first worker looks, and tells the others."""
MOST_STEPS = 1000  # between two looks, should a step take no time at all

Word = Literal["training", "stop", "saved"]


class Stopped(Exception):
    """The training is to stop here. Every worker raises it, and after the same step."""


class StopSign:
    """A worker's side."""

    def __init__(self, run_folder: Path, *, first: bool) -> None:
        self._folder, self._first = run_folder, first
        self._wait, self._looked = 1, time.monotonic()
        self._steps = 0
        if first:
            write(run_folder, "training")

    def seen(self) -> bool:
        """Whether to stop after this step: the same on every worker, if each asks at every step."""
        self._steps += 1
        if self._steps < self._wait:
            return False
        mine = (read(self._folder) == "stop", self._next_wait()) if self._first else (False, 1)
        stop, self._wait = of_everybody(mine)[0]
        self._steps, self._looked = 0, time.monotonic()
        return stop

    def saved(self) -> None:
        """All that was done can be gone on from."""
        if self._first:
            write(self._folder, "saved")

    def close(self) -> None:
        """There is nothing to stop any more."""
        if self._first:
            forget(self._folder)

    def _next_wait(self) -> int:
        step_s = (time.monotonic() - self._looked) / self._steps
        return max(1, min(MOST_STEPS, int(EVERY_S / max(1e-9, step_s))))


def ask(run_folder: Path) -> bool:
    """Ask a training to stop; False if none goes on there."""
    if read(run_folder) != "training":
        return False
    write(run_folder, "stop")
    return True


def read(run_folder: Path) -> str:
    """The word that stands there; nothing if there is none."""
    try:
        return _path(run_folder).read_text(encoding="utf-8")
    except OSError:
        return ""


def write(run_folder: Path, word: Word) -> None:
    """Write it over the one that is there. On a full disk nobody can be asked to save anyway."""
    with suppress(OSError):
        _path(run_folder).write_text(word, encoding="utf-8")


def forget(run_folder: Path) -> None:
    """Leave nothing behind."""
    with suppress(OSError):
        _path(run_folder).unlink(missing_ok=True)


def _path(run_folder: Path) -> Path:
    return run_folder / "stop"
