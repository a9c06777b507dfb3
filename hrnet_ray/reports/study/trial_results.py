"""Results of a study, read from its folder: trials, outcomes and cost.

trials.csv lists the trials with their scores; the folder of each trial holds its settings
(resolved_config.json) and its epochs (metrics.jsonl).
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
from hrnet_ray.runs.event_log import read_metrics

SIGMA_SETTING, LR_SETTING = "heatmap.sigma", "optim.lr"
REQUIRED_COLUMNS = ("folder", "metric", "score", "best_epoch", "epochs", "error")
"""Columns of every trials.csv; the others are searched settings and further values."""
PARSED_COLUMNS = (*REQUIRED_COLUMNS, "stopped_by", "started_at", "seconds")
"""Columns that become fields; the page shows all others as they are."""

EpochRecord = dict[str, Any]
"""One line of metrics.jsonl; its `epoch` counts from 1."""


class TrialOutcome(StrEnum):
    """How a trial ended; the value is the text of the report."""

    COMPLETED = "completed"
    STOPPED = "stopped early"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Settings, score and epochs of one trial. Epochs count from 1."""

    name: str
    """Name of the folder: `07`."""
    sampled_params: dict[str, Any]
    """Searched settings, by dotted name."""
    settings: dict[str, Any]
    """All settings, by dotted name."""
    metric: str
    """Primary metric of the study."""
    score: float
    """Best score of all epochs; NaN without a score."""
    best_epoch: int
    """Epoch of the best score, from 1; below 1 without a score."""
    epoch_records: list[EpochRecord]
    error: str
    stopped_by: str = ""
    """Rule that stopped the trial early; empty if none is recorded."""
    started_at_s: float = math.nan
    """Start, in seconds since 1970; NaN if not recorded."""
    slot_held_s: float = 0.0
    """Seconds from start to end of the trial, start-up included; 0 if not recorded."""
    extra_columns: dict[str, str]
    """Further columns of trials.csv."""

    @property
    def has_score(self) -> bool:
        return math.isfinite(self.score)

    @property
    def planned_epochs(self) -> int:
        """Epochs of a training that is not stopped early."""
        return int(self.settings.get("optim.epochs", len(self.epoch_records)))

    @property
    def outcome(self) -> TrialOutcome:
        if self.error or not self.has_score:
            return TrialOutcome.FAILED
        return TrialOutcome.STOPPED if len(self.epoch_records) < self.planned_epochs else TrialOutcome.COMPLETED

    @property
    def has_failed(self) -> bool:
        return self.outcome is TrialOutcome.FAILED

    @property
    def outcome_detail(self) -> str:
        """The outcome with its reason: the error, or the rule that stopped the trial."""
        text = f"{self.outcome}: {self.error}" if self.error else str(self.outcome)
        if self.stopped_by and self.outcome is TrialOutcome.STOPPED:
            text += f" ({self.stopped_by.replace('_', ' ')})"
        return text

    @property
    def duration_s(self) -> float:
        """Duration of the trial, with its start-up if that is recorded."""
        return max(self.slot_held_s, self.epoch_time_s)

    @property
    def epoch_time_s(self) -> float:
        """Sum of the durations of its epochs."""
        return sum((_get_finite_number(entry, "perf/epoch_s", 0.0) for entry in self.epoch_records), 0.0)

    @property
    def time_saved_s(self) -> float:
        """Time of the epochs that early stopping saved, at the mean epoch time of the trial."""
        if self.outcome is not TrialOutcome.STOPPED:
            return 0.0
        num_epochs = len(self.epoch_records)
        return self.epoch_time_s / max(1, num_epochs) * (self.planned_epochs - num_epochs)

    @cached_property
    def score_curve(self) -> list[tuple[int, float]]:
        """Epoch and score of each validation."""
        key = f"val/{self.metric}"
        return [
            (entry["epoch"], float(entry[key])) for entry in self.epoch_records if _is_finite_number(entry.get(key))
        ]

    def get_best_score_within(self, num_epochs: int) -> float:
        """Return the best score of the first `num_epochs` epochs; NaN without one."""
        return max((score for epoch, score in self.score_curve if epoch <= num_epochs), default=math.nan)

    @cached_property
    def keypoint_scores(self) -> dict[str, float]:
        """Score of each keypoint at the best epoch."""
        prefix = f"val/{self.metric.split('_')[0]}."
        best = {entry["epoch"]: entry for entry in self.epoch_records}.get(self.best_epoch, {})
        return {
            name.removeprefix(prefix): float(value)
            for name, value in best.items()
            if name.startswith(prefix) and _is_finite_number(value)
        }


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """Trials of a study, the best first, those without a score last; at least one has a score."""

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
        """Median of the scores."""
        return median(trial.score for trial in self.scored_trials)

    def select_by_outcome(self, outcome: TrialOutcome) -> list[TrialResult]:
        """Select the trials with this outcome."""
        return [trial for trial in self.trials if trial.outcome is outcome]

    @property
    def common_epochs(self) -> int:
        """Last epoch at which every trial was validated, so that all are comparable."""
        last_epochs = [
            trial.score_curve[-1][0] for trial in self.scored_trials if trial.score_curve and not trial.error
        ]
        return min(last_epochs, default=0)

    @property
    def epochs_run(self) -> int:
        return sum(len(trial.epoch_records) for trial in self.trials)

    @property
    def epochs_planned(self) -> int:
        """Epochs of all trials without early stopping."""
        return sum(trial.planned_epochs for trial in self.trials)

    @property
    def wall_s(self) -> float:
        """Seconds from the start of the first trial to the end of the last; NaN if not recorded."""
        entries = [entry for trial in self.trials for entry in trial.epoch_records if "at_ms" in entry]
        timed = [trial for trial in self.trials if math.isfinite(trial.started_at_s)]
        starts = [e["at_ms"] / 1000 - _get_finite_number(e, "perf/epoch_s", 0.0) for e in entries]
        starts += [trial.started_at_s for trial in timed]
        ends = [entry["at_ms"] / 1000 for entry in entries]
        ends += [trial.started_at_s + trial.slot_held_s for trial in timed]
        return max(ends) - min(starts) if ends else math.nan


def load_study(study_dir: Path) -> StudyResults:
    """Read the folder of a study.

    Raises:
        DataError: trials.csv is missing or invalid, or no trial has a score.
    """
    path = study_dir / "trials.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        metric = next((row["metric"] for row in rows if row["metric"]), "")
        trials = [_parse_trial(study_dir / "trials", row, metric) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the list of trials cannot be read",
            f"{path}: {error}",
            "run the `hrnet-ray tune` command again: it writes this file at its end",
        ) from error
    trials.sort(key=lambda trial: -trial.score if trial.has_score else math.inf)
    if not trials or not trials[0].has_score:
        raise DataError(
            "no trial has a score",
            f"{path}: {len(trials)} trials",
            "train once with `hrnet-ray train`, then narrow the search space",
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
    sampled_params = settings.pop("sampled_params", None)
    if not isinstance(sampled_params, dict):
        sampled_params = {name: csv_row[name] for name in csv_row if "." in name}
    return TrialResult(
        name=folder.name,
        sampled_params=sampled_params,
        settings=settings,
        metric=metric,
        score=float(csv_row["score"]),
        best_epoch=int(csv_row["best_epoch"]),
        epoch_records=read_metrics(folder),
        error=csv_row["error"],
        stopped_by=csv_row.get("stopped_by") or "",
        started_at_s=_parse_timestamp(csv_row.get("started_at") or ""),
        slot_held_s=float(csv_row.get("seconds") or 0.0),
        extra_columns={
            name: text
            for name, text in csv_row.items()
            if text and name not in PARSED_COLUMNS and name not in sampled_params
        },
    )


def _parse_timestamp(text: str) -> float:
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    return math.nan


def _read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if the file is missing or invalid."""
    with suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    return {}


def _get_finite_number(epoch_record: EpochRecord, key: str, default: float) -> float:
    value = epoch_record.get(key)
    return float(value) if _is_finite_number(value) else default


def _is_finite_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and math.isfinite(value)


def format_value(value: Any) -> str:
    """Format the value of a setting briefly: `0.00123`, `adamw`, `1 x 4 x 3`."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return " x ".join(map(format_value, value))
    return str(value)


def is_numeric_setting(trials: Sequence[TrialResult], name: str) -> bool:
    """Return whether a searched setting is a number, and not a bool, in all trials."""
    values = [trial.sampled_params.get(name) for trial in trials]
    return all(_is_finite_number(value) and not isinstance(value, bool) for value in values)
