"""The file `stop_request`: asks a training to save in mid-epoch, and confirms that it has.

It holds one word, which both sides reopen each time: a network file system may hide for a minute
that a file appeared or vanished, but not that its content changed.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from hrnet_ray.utils.collectives import gather_objects

CHECK_INTERVAL_S = 1.0
"""Seconds between two checks of rank 0, which broadcasts the result to the other ranks."""
MAX_STEPS_BETWEEN_CHECKS = 1000
"""Training steps between two checks at most, should a step take no measurable time."""

StopState = Literal["training", "stop", "saved"]


class StopRequested(Exception):
    """The training has to stop. Every rank raises it after the same step."""


class StopFlag:
    """A worker's view of the stop request."""

    def __init__(self, run_folder: Path, *, is_rank0: bool) -> None:
        self._folder, self._is_rank0 = run_folder, is_rank0
        self._check_every_steps, self._last_check_s = 1, time.monotonic()
        self._steps_since_check = 0
        if is_rank0:
            write_state(run_folder, "training")

    def should_stop(self) -> bool:
        """Whether to stop after this step; equal on all ranks if each asks after every step."""
        self._steps_since_check += 1
        if self._steps_since_check < self._check_every_steps:
            return False
        own_answer = (
            (read_state(self._folder) == "stop", self._compute_check_interval()) if self._is_rank0 else (False, 1)
        )
        stop, self._check_every_steps = gather_objects(own_answer)[0]
        self._steps_since_check, self._last_check_s = 0, time.monotonic()
        return stop

    def mark_saved(self) -> None:
        """Confirm that the training can resume from here."""
        if self._is_rank0:
            write_state(self._folder, "saved")

    def clear_flag(self) -> None:
        """Remove the file: the training has ended."""
        if self._is_rank0:
            clear_state(self._folder)

    def _compute_check_interval(self) -> int:
        step_s = (time.monotonic() - self._last_check_s) / self._steps_since_check
        return max(1, min(MAX_STEPS_BETWEEN_CHECKS, int(CHECK_INTERVAL_S / max(1e-9, step_s))))


def request_stop(run_folder: Path) -> bool:
    """Ask a training to stop; False if none is running in this folder."""
    if read_state(run_folder) != "training":
        return False
    write_state(run_folder, "stop")
    return True


def read_state(run_folder: Path) -> str:
    """Read the current word; empty if there is no file."""
    try:
        return _get_flag_path(run_folder).read_text(encoding="utf-8")
    except OSError:
        return ""


def write_state(run_folder: Path, state: StopState) -> None:
    """Overwrite the word. On a full disk nothing is written: no save could be requested anyway."""
    with suppress(OSError):
        _get_flag_path(run_folder).write_text(state, encoding="utf-8")


def clear_state(run_folder: Path) -> None:
    """Remove the file, if there is one."""
    with suppress(OSError):
        _get_flag_path(run_folder).unlink(missing_ok=True)


def _get_flag_path(run_folder: Path) -> Path:
    return run_folder / "stop_request"
