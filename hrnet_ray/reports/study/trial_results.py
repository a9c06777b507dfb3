"""A study as it stands on disk: its trials, what became of each, and what they cost.

trials.csv says which trials there were and what each came to; the folder of each trial has its
settings (resolved.json) and its epochs (metrics.jsonl).
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

SIGMA, RATE = "heatmap.sigma", "optim.lr"
COLUMNS = ("folder", "metric", "score", "best_epoch", "epochs", "error")
"""What trials.csv says of every trial; its other columns are what was searched, and figures."""
READ = (*COLUMNS, "stopped_by", "started_at", "seconds")
"""The columns that are not shown as they are."""

Entry = dict[str, Any]
"""A line of metrics.jsonl."""


class Ending(StrEnum):
    """What became of a trial."""

    WHOLE = "trained to the end"
    STOPPED = "stopped early"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial. Epochs are counted from 0, as in metrics.jsonl."""

    name: str
    """Of its folder: `07`."""
    drawn: dict[str, Any]
    """What the search gave it, by dotted name."""
    settings: dict[str, Any]
    """All its settings, by dotted name."""
    metric: str
    """Of the study."""
    score: float
    """The best that it reached; NaN when it never was scored."""
    best_epoch: int
    epochs: list[Entry]
    error: str
    stopped_by: str = ""
    """The rule that ended it early, where that was noted."""
    began_s: float = math.nan
    """When it began, in seconds since 1970; NaN where that was not noted."""
    held_s: float = 0.0
    """For how long it held its place, its start included; 0 where that was not noted."""
    more: dict[str, str]
    """What else trials.csv says of it."""

    @property
    def scored(self) -> bool:
        return math.isfinite(self.score)

    @property
    def planned(self) -> int:
        """Epochs of a whole training."""
        return int(self.settings.get("optim.epochs", len(self.epochs)))

    @property
    def ending(self) -> Ending:
        if self.error or not self.scored:
            return Ending.FAILED
        return Ending.STOPPED if len(self.epochs) < self.planned else Ending.WHOLE

    @property
    def seconds(self) -> float:
        """What it took, with its start where that is known."""
        return max(self.held_s, self.epochs_s)

    @property
    def epochs_s(self) -> float:
        """Spent in its epochs."""
        return sum((_number(entry, "perf/epoch_s", 0.0) for entry in self.epochs), 0.0)

    @property
    def saved_s(self) -> float:
        """What the epochs that it was spared would have taken, at its own pace."""
        if self.ending is not Ending.STOPPED:
            return 0.0
        return self.epochs_s / max(1, len(self.epochs)) * (self.planned - len(self.epochs))

    @cached_property
    def curve(self) -> list[tuple[int, float]]:
        """Epochs done and the score then, where it was judged."""
        key = f"val/{self.metric}"
        pairs = [(entry["epoch"] + 1, _number(entry, key, math.nan)) for entry in self.epochs]
        return [(epoch, score) for epoch, score in pairs if math.isfinite(score)]

    def after(self, epochs: int) -> float:
        """The best score within so many epochs; NaN when there was none yet."""
        return max((score for done, score in self.curve if done <= epochs), default=math.nan)

    @cached_property
    def keypoints(self) -> dict[str, float]:
        """The score of each keypoint in the best epoch."""
        start = f"val/{self.metric.split('_')[0]}."
        at = {entry["epoch"]: entry for entry in self.epochs}.get(self.best_epoch, {})
        return {
            name.removeprefix(start): float(value)
            for name, value in at.items()
            if name.startswith(start) and _is_finite(value)
        }


@dataclass(frozen=True, kw_only=True)
class Trials:
    """A study. `all` are best first, those without a score last; at least one has a score."""

    folder: Path
    name: str
    metric: str
    searched: list[str]
    all: list[Trial]

    @property
    def best(self) -> Trial:
        return self.all[0]

    @property
    def scored(self) -> list[Trial]:
        return [trial for trial in self.all if trial.scored]

    @property
    def median(self) -> float:
        """Score of the trial in the middle."""
        return median(trial.score for trial in self.scored)

    def ended(self, ending: Ending) -> list[Trial]:
        """The trials that ended so."""
        return [trial for trial in self.all if trial.ending is ending]

    @property
    def common(self) -> int:
        """Epochs that every trial was given, and was judged in: at these, all are alike."""
        done = [trial.curve[-1][0] for trial in self.scored if trial.curve and not trial.error]
        return min(done, default=0)

    @property
    def epochs_run(self) -> int:
        return sum(len(trial.epochs) for trial in self.all)

    @property
    def epochs_planned(self) -> int:
        """Epochs of all trials, had each been trained to the end."""
        return sum(trial.planned for trial in self.all)

    @property
    def wall_s(self) -> float:
        """From the first trial's beginning to the last one's end; NaN when no time was noted."""
        entries = [entry for trial in self.all for entry in trial.epochs if "at_ms" in entry]
        begun = [trial for trial in self.all if math.isfinite(trial.began_s)]
        starts = [e["at_ms"] / 1000 - _number(e, "perf/epoch_s", 0.0) for e in entries]
        starts += [trial.began_s for trial in begun]
        ends = [entry["at_ms"] / 1000 for entry in entries]
        ends += [trial.began_s + trial.held_s for trial in begun]
        return max(ends) - min(starts) if ends else math.nan


def read_trials(folder: Path) -> Trials:
    """Read a study's folder.

    Raises:
        DataError: trials.csv is missing or is none, or no trial in it has a score.
    """
    path = folder / "trials.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        metric = next((line["metric"] for line in lines if line["metric"]), "")
        trials = [_trial(folder / "trials", line, metric) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "a list of trials that cannot be read",
            f"{path}: {error}",
            "repeat the command of the search: it ends by writing this file",
        ) from error
    trials.sort(key=lambda trial: -trial.score if trial.scored else math.inf)
    if not trials or not trials[0].scored:
        raise DataError(
            "no trial with a score",
            f"{path}: {len(trials)} trials",
            "try one setting with `hrnet-ray train`, then narrow the search space",
        )
    searched = list(dict.fromkeys(name for trial in trials for name in trial.drawn))
    return Trials(
        folder=folder,
        name=str(_json(folder / "summary.json").get("name") or folder.name),
        metric=metric,
        searched=searched,
        all=trials,
    )


def _trial(root: Path, line: dict[str, str], metric: str) -> Trial:
    folder = root / Path(line["folder"]).name
    settings = _json(folder / "resolved.json")
    drawn = settings.pop("drawn", None)
    if not isinstance(drawn, dict):
        drawn = {name: line[name] for name in line if "." in name}
    return Trial(
        name=folder.name,
        drawn=drawn,
        settings=settings,
        metric=metric,
        score=float(line["score"]),
        best_epoch=int(line["best_epoch"]),
        epochs=_epochs(folder / "metrics.jsonl"),
        error=line["error"],
        stopped_by=line.get("stopped_by") or "",
        began_s=_when(line.get("started_at") or ""),
        held_s=float(line.get("seconds") or 0.0),
        more={k: v for k, v in line.items() if k not in READ and k not in drawn and v},
    )


def _when(said: str) -> float:
    with suppress(ValueError):
        return datetime.fromisoformat(said).timestamp()
    return math.nan


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _epochs(path: Path) -> list[Entry]:
    """The epochs in order; one that was done twice after a crash counts as done last."""
    by_epoch: dict[int, Entry] = {}
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that a crash cut short
                entry = json.loads(line)
                by_epoch[int(entry["epoch"])] = entry
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _number(entry: Entry, key: str, otherwise: float) -> float:
    value = entry.get(key)
    return float(value) if _is_finite(value) else otherwise


def _is_finite(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and math.isfinite(value)


def as_text(value: Any) -> str:
    """A setting's value, short: `0.00123`, `adamw`, `1 x 4 x 3`."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return " x ".join(map(as_text, value))
    return str(value)


def numeric(trials: Sequence[Trial], name: str) -> bool:
    """Whether a searched setting is a number in all trials; switches are none."""
    values = [trial.drawn.get(name) for trial in trials]
    return all(_is_finite(value) and not isinstance(value, bool) for value in values)
