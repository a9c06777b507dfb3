"""How a training is asked to save in the middle of an epoch, and says that it has.

One word in a file `stop` of its run folder, which both sides open anew each time: a network file
system may hide for a minute that a file has come or gone, but not what is in it.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from hrnet_ray.utils.collectives import gather_objects

CHECK_INTERVAL_S = 1.0
"""So often the first worker looks, and tells the others."""
MAX_STEPS_BETWEEN_CHECKS = 1000  # between two looks, should a step take no time at all

StopState = Literal["training", "stop", "saved"]


class StopRequested(Exception):
    """The training is to stop here. Every worker raises it, and after the same step."""


class StopFlag:
    """A worker's side."""

    def __init__(self, run_folder: Path, *, is_rank0: bool) -> None:
        self._folder, self._is_rank0 = run_folder, is_rank0
        self._check_every_steps, self._last_check_s = 1, time.monotonic()
        self._steps_since_check = 0
        if is_rank0:
            write_state(run_folder, "training")

    def should_stop(self) -> bool:
        """Whether to stop after this step: the same on every worker, if each asks at every step."""
        self._steps_since_check += 1
        if self._steps_since_check < self._check_every_steps:
            return False
        mine = (
            (read_state(self._folder) == "stop", self._compute_check_interval())
            if self._is_rank0
            else (False, 1)
        )
        stop, self._check_every_steps = gather_objects(mine)[0]
        self._steps_since_check, self._last_check_s = 0, time.monotonic()
        return stop

    def mark_saved(self) -> None:
        """All that was done can be gone on from."""
        if self._is_rank0:
            write_state(self._folder, "saved")

    def clear_flag(self) -> None:
        """There is nothing to stop any more."""
        if self._is_rank0:
            clear_state(self._folder)

    def _compute_check_interval(self) -> int:
        step_s = (time.monotonic() - self._last_check_s) / self._steps_since_check
        return max(1, min(MAX_STEPS_BETWEEN_CHECKS, int(CHECK_INTERVAL_S / max(1e-9, step_s))))


def request_stop(run_folder: Path) -> bool:
    """Ask a training to stop; False if none goes on there."""
    if read_state(run_folder) != "training":
        return False
    write_state(run_folder, "stop")
    return True


def read_state(run_folder: Path) -> str:
    """The word that stands there; nothing if there is none."""
    try:
        return _get_flag_path(run_folder).read_text(encoding="utf-8")
    except OSError:
        return ""


def write_state(run_folder: Path, state: StopState) -> None:
    """Write it over the one that is there. On a full disk nobody can be asked to save anyway."""
    with suppress(OSError):
        _get_flag_path(run_folder).write_text(state, encoding="utf-8")


def clear_state(run_folder: Path) -> None:
    """Leave nothing behind."""
    with suppress(OSError):
        _get_flag_path(run_folder).unlink(missing_ok=True)


def _get_flag_path(run_folder: Path) -> Path:
    return run_folder / "stop_request"
