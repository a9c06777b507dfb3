"""What a study knows of its trials: `trials/07/trial.json`, written before the trial begins.

The driver writes them, and they are the study's memory: a command that was killed goes on from them
and from what the trials themselves recorded. Ray's own snapshot is not asked. It knows nothing of
trials younger than itself, it holds pickles, and its schedulers begin anew.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune import Callback

from hrnet_ray.distributed.training.backends import users_error
from hrnet_ray.errors import DataError, DivergedError
from hrnet_ray.runs import stop_request

NOTE = "trial.json"
NUMBER = "number"
"""Under which Tune has a trial's number, beside what was drawn for it."""


@dataclass(frozen=True, kw_only=True)
class TrialNote:
    """What became of a trial, as far as the driver saw it."""

    number: str
    """In its study, from `01`; its folder's name."""
    drawn: dict[str, Any]
    """By dotted name."""
    asked_at: float
    """When it was drawn, or went on: seconds since 1970."""
    began_at: float
    """When it was drawn first."""
    state: Literal["running", "done", "failed"] = "running"
    stopped_by: str = ""
    """Which rule ended it early."""
    error: str = ""
    ray_trial: str = ""
    """The trial that it is to Ray Tune, which may be its second one."""
    seconds: float = 0.0
    """For which it held its place, up to its end."""

    @property
    def diverged(self) -> bool:
        """It ended, and there is no use in trying again."""
        return self.state == "done" and bool(self.error)


def trials_folder(study: Path) -> Path:
    """Where the trials of a study are."""
    return study / "trials"


def read_notes(study: Path) -> dict[str, TrialNote]:
    """All trials of a study by number, in order.

    Raises:
        DataError: a note is not what a study wrote.
    """
    folders = (path.parent for path in trials_folder(study).glob(f"*/{NOTE}"))
    notes = map(read_note, sorted(folders, key=lambda folder: (len(folder.name), folder.name)))
    return {note.number: note for note in notes}


def read_note(folder: Path) -> TrialNote:
    """The note in a trial's folder.

    Raises:
        DataError: it is not what a study wrote.
    """
    path = folder / NOTE
    try:
        return TrialNote(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            "a trial's note that cannot be read",
            f"{path}: {error}",
            "move that trial's folder away; another one takes its place",
        ) from error


def write_note(study: Path, note: TrialNote) -> None:
    """Write a trial's note, through to the disk; whoever reads it sees the old or the new one."""
    path = trials_folder(study) / note.number / NOTE
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(asdict(note), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def amend(study: Path, number: str, change: Callable[[TrialNote], TrialNote]) -> None:
    """Write a trial's note anew."""
    write_note(study, change(read_note(trials_folder(study) / number)))


def label(number: int) -> str:
    """The number of a trial as text: `07`."""
    return f"{number:02d}"


class Diary(Callback):
    """Notes the end of each trial, when Tune tells of it."""

    def __init__(self, study: Path) -> None:
        self.study = study

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note what Tune calls it."""
        known = partial(replace, ray_trial=trial.trial_id)
        amend(self.study, trial.config[NUMBER], known)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note it, unless the trial itself has noted why it failed."""
        self._is_over(trial)
        amend(self.study, trial.config[NUMBER], ended)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Leave the note to whoever reads all errors in the end."""
        self._is_over(trial)

    def _is_over(self, trial: Any) -> None:
        """There is nobody who could be asked to save."""
        stop_request.forget(trials_folder(self.study) / trial.config[NUMBER])


def ended(note: TrialNote) -> TrialNote:
    """The note of a trial that has ended."""
    state = "done" if note.state == "running" else note.state
    return replace(note, state=state, seconds=note.seconds + time.time() - note.asked_at)


def failed(note: TrialNote, error: BaseException) -> TrialNote:
    """The note of a trial that failed. One that diverged is done: it would again."""
    state = "done" if isinstance(error, DivergedError) else "failed"
    return replace(note, state=state, error=reason(error))


def reason(error: BaseException) -> str:
    """Why a trial failed, in a line."""
    if ours := users_error(getattr(error, "cause", None)) or users_error(error):
        return f"{ours.what}: {ours.where}"
    if isinstance(error, OutOfMemoryError):
        return "out of memory: Ray ended its process"
    if isinstance(error, RayActorError):
        return "its process was killed, perhaps for want of memory"
    if isinstance(error, RayTaskError) and (cause := error.cause):
        return f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:200]
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
