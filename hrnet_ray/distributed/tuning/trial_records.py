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

from hrnet_ray.distributed.training.backends import unwrap_user_error
from hrnet_ray.errors import DataError, TrainingDivergedError
from hrnet_ray.runs import stop_request

TRIAL_RECORD_FILE = "trial.json"
TRIAL_NUMBER_KEY = "number"
"""Under which Tune has a trial's number, beside what was drawn for it."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """What became of a trial, as far as the driver saw it."""

    number: str
    """In its study, from `01`; its folder's name."""
    sampled_params: dict[str, Any]
    """By dotted name."""
    last_started_s: float
    """When it was drawn, or went on: seconds since 1970."""
    first_started_s: float
    """When it was drawn first."""
    state: Literal["running", "done", "failed"] = "running"
    stopped_by: str = ""
    """Which rule ended it early."""
    error: str = ""
    ray_trial_id: str = ""
    """The trial that it is to Ray Tune, which may be its second one."""
    duration_s: float = 0.0
    """For which it held its place, up to its end."""

    @property
    def diverged(self) -> bool:
        """It ended, and there is no use in trying again."""
        return self.state == "done" and bool(self.error)


def get_trials_dir(study_dir: Path) -> Path:
    """Where the trials of a study are."""
    return study_dir / "trials"


def read_trial_records(study_dir: Path) -> dict[str, TrialRecord]:
    """All trials of a study by number, in order.

    Raises:
        DataError: a note is not what a study wrote.
    """
    folders = (path.parent for path in get_trials_dir(study_dir).glob(f"*/{TRIAL_RECORD_FILE}"))
    notes = map(read_trial_record, sorted(folders, key=lambda folder: (len(folder.name), folder.name)))
    return {note.number: note for note in notes}


def read_trial_record(folder: Path) -> TrialRecord:
    """The note in a trial's folder.

    Raises:
        DataError: it is not what a study wrote.
    """
    path = folder / TRIAL_RECORD_FILE
    try:
        return TrialRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            "a trial's note that cannot be read",
            f"{path}: {error}",
            "move that trial's folder away; another one takes its place",
        ) from error


def write_trial_record(study_dir: Path, record: TrialRecord) -> None:
    """Write a trial's record and sync it to disk; a reader sees the old or the new one."""
    path = get_trials_dir(study_dir) / record.number / TRIAL_RECORD_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(asdict(record), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def update_trial_record(study_dir: Path, number: str, change: Callable[[TrialRecord], TrialRecord]) -> None:
    """Write a trial's note anew."""
    write_trial_record(study_dir, change(read_trial_record(get_trials_dir(study_dir) / number)))


def format_trial_number(number: int) -> str:
    """The number of a trial as text: `07`."""
    return f"{number:02d}"


class TrialRecordCallback(Callback):
    """Records the end of each trial when Tune reports it."""

    def __init__(self, study_dir: Path) -> None:
        self.study_dir = study_dir

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note what Tune calls it."""
        known = partial(replace, ray_trial_id=trial.trial_id)
        update_trial_record(self.study_dir, trial.config[TRIAL_NUMBER_KEY], known)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note it, unless the trial itself has noted why it failed."""
        self._clear_stop_request(trial)
        update_trial_record(self.study_dir, trial.config[TRIAL_NUMBER_KEY], mark_ended)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Leave the record to the end of the study, which reads all errors."""
        self._clear_stop_request(trial)

    def _clear_stop_request(self, trial: Any) -> None:
        """Clear the request: no process is left that could save."""
        stop_request.clear_state(get_trials_dir(self.study_dir) / trial.config[TRIAL_NUMBER_KEY])


def mark_ended(record: TrialRecord) -> TrialRecord:
    """The note of a trial that has ended."""
    state = "done" if record.state == "running" else record.state
    return replace(record, state=state, duration_s=record.duration_s + time.time() - record.last_started_s)


def mark_failed(record: TrialRecord, error: BaseException) -> TrialRecord:
    """The note of a trial that failed. One that diverged is done: it would again."""
    state = "done" if isinstance(error, TrainingDivergedError) else "failed"
    return replace(record, state=state, error=format_failure_reason(error))


def format_failure_reason(error: BaseException) -> str:
    """Why a trial failed, in a line."""
    if ours := unwrap_user_error(getattr(error, "cause", None)) or unwrap_user_error(error):
        return f"{ours.what}: {ours.where}"
    if isinstance(error, OutOfMemoryError):
        return "out of memory: Ray ended its process"
    if isinstance(error, RayActorError):
        return "its process was killed, perhaps for want of memory"
    if isinstance(error, RayTaskError) and (cause := error.cause):
        return f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:200]
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
