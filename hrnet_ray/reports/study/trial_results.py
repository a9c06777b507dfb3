"""A study as it stands on disk: its trials, what became of each, and what they cost.

trials.csv says which trials there were and what each came to; the folder of each trial has its
settings (resolved_config.json) and its epochs (metrics.jsonl).
"""

import csv
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, TypeGuard

from hrnet_ray.errors import DataError

SIGMA_SETTING, LR_SETTING = "heatmap.sigma", "optim.lr"
REQUIRED_COLUMNS = ("folder", "metric", "score", "best_epoch", "epochs", "error")
"""What trials.csv says of every trial; its other columns are what was searched, and figures."""
PARSED_COLUMNS = (*REQUIRED_COLUMNS, "stopped_by", "started_at", "seconds")
"""The columns that are not shown as they are."""

EpochRecord = dict[str, Any]
"""A line of metrics.jsonl."""


class TrialOutcome(StrEnum):
    """What became of a trial."""

    COMPLETED = "trained to the end"
    STOPPED = "stopped early"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One trial. Epochs are counted from 0, as in metrics.jsonl."""

    name: str
    """Of its folder: `07`."""
    sampled_params: dict[str, Any]
    """What the search gave it, by dotted name."""
    settings: dict[str, Any]
    """All its settings, by dotted name."""
    metric: str
    """Of the study."""
    score: float
    """The best that it reached; NaN when it never was scored."""
    best_epoch: int
    epoch_records: list[EpochRecord]
    error: str
    stopped_by: str = ""
    """The rule that ended it early, where that was noted."""
    started_at_s: float = math.nan
    """When it began, in seconds since 1970; NaN where that was not noted."""
    slot_held_s: float = 0.0
    """For how long it held its place, its start included; 0 where that was not noted."""
    extra_columns: dict[str, str]
    """What else trials.csv says of it."""

    @property
    def has_score(self) -> bool:
        return math.isfinite(self.score)

    @property
    def planned_epochs(self) -> int:
        """Epochs of a whole training."""
        return int(self.settings.get("optim.epochs", len(self.epoch_records)))

    @property
    def outcome(self) -> TrialOutcome:
        if self.error or not self.has_score:
            return TrialOutcome.FAILED
        return (
            TrialOutcome.STOPPED
            if len(self.epoch_records) < self.planned_epochs
            else TrialOutcome.COMPLETED
        )

    @property
    def duration_s(self) -> float:
        """What it took, with its start where that is known."""
        return max(self.slot_held_s, self.epoch_time_s)

    @property
    def epoch_time_s(self) -> float:
        """Spent in its epochs."""
        return sum(
            (_get_finite_number(entry, "perf/epoch_s", 0.0) for entry in self.epoch_records), 0.0
        )

    @property
    def time_saved_s(self) -> float:
        """What the epochs that it was spared would have taken, at its own pace."""
        if self.outcome is not TrialOutcome.STOPPED:
            return 0.0
        return (
            self.epoch_time_s
            / max(1, len(self.epoch_records))
            * (self.planned_epochs - len(self.epoch_records))
        )

    @cached_property
    def score_curve(self) -> list[tuple[int, float]]:
        """Epochs done and the score then, where it was judged."""
        key = f"val/{self.metric}"
        pairs = [
            (entry["epoch"] + 1, _get_finite_number(entry, key, math.nan))
            for entry in self.epoch_records
        ]
        return [(epoch, score) for epoch, score in pairs if math.isfinite(score)]

    def get_best_score_within(self, num_epochs: int) -> float:
        """The best score within so many epochs; NaN when there was none yet."""
        return max(
            (score for done, score in self.score_curve if done <= num_epochs), default=math.nan
        )

    @cached_property
    def keypoint_scores(self) -> dict[str, float]:
        """The score of each keypoint in the best epoch."""
        start = f"val/{self.metric.split('_')[0]}."
        at = {entry["epoch"]: entry for entry in self.epoch_records}.get(self.best_epoch, {})
        return {
            name.removeprefix(start): float(value)
            for name, value in at.items()
            if name.startswith(start) and _is_finite_number(value)
        }


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """A study. `all` are best first, those without a score last; at least one has a score."""

    study_dir: Path
    name: str
    metric: str
    searched_settings: list[str]
    trials: list[TrialResult]

    @property
    def best_trial(self) -> TrialResult:
        return self.trials[0]

    @property
    def scored_trials(self) -> list[TrialResult]:
        return [trial for trial in self.trials if trial.has_score]

    @property
    def median_score(self) -> float:
        """Score of the trial in the middle."""
        return median(trial.score for trial in self.scored_trials)

    def select_by_outcome(self, outcome: TrialOutcome) -> list[TrialResult]:
        """The trials that ended so."""
        return [trial for trial in self.trials if trial.outcome is outcome]

    @property
    def common_epochs(self) -> int:
        """Epochs that every trial was given, and was judged in: at these, all are alike."""
        done = [
            trial.score_curve[-1][0]
            for trial in self.scored_trials
            if trial.score_curve and not trial.error
        ]
        return min(done, default=0)

    @property
    def epochs_run(self) -> int:
        return sum(len(trial.epoch_records) for trial in self.trials)

    @property
    def epochs_planned(self) -> int:
        """Epochs of all trials, had each been trained to the end."""
        return sum(trial.planned_epochs for trial in self.trials)

    @property
    def wall_s(self) -> float:
        """From the first trial's beginning to the last one's end; NaN when no time was noted."""
        entries = [
            entry for trial in self.trials for entry in trial.epoch_records if "at_ms" in entry
        ]
        begun = [trial for trial in self.trials if math.isfinite(trial.started_at_s)]
        starts = [e["at_ms"] / 1000 - _get_finite_number(e, "perf/epoch_s", 0.0) for e in entries]
        starts += [trial.started_at_s for trial in begun]
        ends = [entry["at_ms"] / 1000 for entry in entries]
        ends += [trial.started_at_s + trial.slot_held_s for trial in begun]
        return max(ends) - min(starts) if ends else math.nan


def load_study(study_dir: Path) -> StudyResults:
    """Read a study's folder.

    Raises:
        DataError: trials.csv is missing or is none, or no trial in it has a score.
    """
    path = study_dir / "trials.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        metric = next((line["metric"] for line in lines if line["metric"]), "")
        trials = [_parse_trial(study_dir / "trials", line, metric) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "a list of trials that cannot be read",
            f"{path}: {error}",
            "repeat the command of the search: it ends by writing this file",
        ) from error
    trials.sort(key=lambda trial: -trial.score if trial.has_score else math.inf)
    if not trials or not trials[0].has_score:
        raise DataError(
            "no trial with a score",
            f"{path}: {len(trials)} trials",
            "try one setting with `hrnet-ray train`, then narrow the search space",
        )
    searched = list(dict.fromkeys(name for trial in trials for name in trial.sampled_params))
    return StudyResults(
        study_dir=study_dir,
        name=str(_read_json_object(study_dir / "summary.json").get("name") or study_dir.name),
        metric=metric,
        searched_settings=searched,
        trials=trials,
    )


def _parse_trial(trials_dir: Path, csv_row: dict[str, str], metric: str) -> TrialResult:
    folder = trials_dir / Path(csv_row["folder"]).name
    settings = _read_json_object(folder / "resolved_config.json")
    drawn = settings.pop("sampled_params", None)
    if not isinstance(drawn, dict):
        drawn = {name: csv_row[name] for name in csv_row if "." in name}
    return TrialResult(
        name=folder.name,
        sampled_params=drawn,
        settings=settings,
        metric=metric,
        score=float(csv_row["score"]),
        best_epoch=int(csv_row["best_epoch"]),
        epoch_records=_read_epoch_records(folder / "metrics.jsonl"),
        error=csv_row["error"],
        stopped_by=csv_row.get("stopped_by") or "",
        started_at_s=_parse_timestamp(csv_row.get("started_at") or ""),
        slot_held_s=float(csv_row.get("seconds") or 0.0),
        extra_columns={
            k: v for k, v in csv_row.items() if k not in PARSED_COLUMNS and k not in drawn and v
        },
    )


def _parse_timestamp(text: str) -> float:
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    return math.nan


def _read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _read_epoch_records(path: Path) -> list[EpochRecord]:
    """The epochs in order; one that was done twice after a crash counts as done last."""
    by_epoch: dict[int, EpochRecord] = {}
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that a crash cut short
                entry = json.loads(line)
                by_epoch[int(entry["epoch"])] = entry
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _get_finite_number(epoch_record: EpochRecord, key: str, default: float) -> float:
    value = epoch_record.get(key)
    return float(value) if _is_finite_number(value) else default


def _is_finite_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and math.isfinite(value)


def format_value(value: Any) -> str:
    """A setting's value, short: `0.00123`, `adamw`, `1 x 4 x 3`."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return " x ".join(map(format_value, value))
    return str(value)


def is_numeric_setting(trials: Sequence[TrialResult], name: str) -> bool:
    """Whether a searched setting is a number in all trials; switches are none."""
    values = [trial.sampled_params.get(name) for trial in trials]
    return all(_is_finite_number(value) and not isinstance(value, bool) for value in values)
