"""Which trials are hopeless: successive halving (ASHA), or the median of the others.

A rule knows scores by trial and epoch and nothing else, so a study that goes on fills it from what
its trials recorded (Ray's own schedulers begin with empty rungs then).
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Protocol, runtime_checkable

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from hrnet_ray.distributed.tuning.trial_records import NUMBER, amend
from hrnet_ray.training.validator import WORST

FEWEST = 3
"""Other trials that must have come as far before a median means something."""


@dataclass(frozen=True)
class Score:
    """What a trial was worth after an epoch, counted from 1. Higher is better."""

    epoch: int
    value: float


def score_of(metrics: Mapping[str, Any]) -> Score | None:
    """The score in what a worker reported or recorded; None when the epoch was not validated.

    A trial whose loss is no number any more is worth nothing, whatever it was worth before.
    """
    if not math.isfinite(metrics.get("train/loss", math.nan)):
        return Score(metrics["epochs_done"], WORST)
    if not any(name.startswith("val/") for name in metrics):
        return None
    return Score(metrics["epochs_done"], metrics["objective"])


@runtime_checkable
class Rule(Protocol):
    """What decides whether a trial goes on."""

    def stops(self, trial: str, score: Score) -> bool:
        """Note a score; say whether the trial is to end here, or for now."""
        ...

    def goes_on(self, waiting: set[str], *, last: bool) -> str | None:
        """Which of the trials that it ended is to go on after all; `last`: no others come."""
        ...


class Halving:
    """Asynchronous successive halving (ASHA, Li et al. 2020, algorithm 2), one bracket.

    Rungs are at `grace * reduction ** k` epochs. A trial that reaches one goes on when it is among
    the best `1 / reduction` of those that came there; if not, it waits there, and goes on when it
    is among them later. Whoever has a place free takes such a trial before a new one.
    """

    def __init__(self, *, grace: int, reduction: int, epochs: int) -> None:
        self.reduction = reduction
        self.rungs = _rungs(grace, reduction, epochs)
        self._met: dict[int, dict[str, float]] = {rung: {} for rung in self.rungs}

    def stops(self, trial: str, score: Score) -> bool:
        """Note a score; say whether the trial is to wait here."""
        for rung in self.rungs:
            if score.epoch >= rung and trial not in self._met[rung]:
                self._met[rung][trial] = score.value
                return trial not in self._best(rung)
        return False

    def goes_on(self, waiting: set[str], *, last: bool) -> str | None:
        """The waiting trial that is to go on: on the highest rung, the best.

        When no others come, the best of each rung does, however few met there.
        """
        for rung in reversed(self.rungs):
            higher = self._met.get(rung * self.reduction, {})
            for trial in self._best(rung, least=int(last)):
                if trial in waiting and trial not in higher:
                    return trial
        return None

    def _best(self, rung: int, *, least: int = 0) -> list[str]:
        met = self._met[rung]
        return sorted(met, key=met.__getitem__, reverse=True)[
            : max(least, len(met) // self.reduction)
        ]

    def __str__(self) -> str:
        if not self.rungs:
            return "no trial is stopped early (the first rung is the last epoch)"
        rungs = ", ".join(map(str, self.rungs))
        return f"ASHA, one bracket: the best 1/{self.reduction} go on after epoch {rungs}"


class Median:
    """The median stopping rule (Golovin et al. 2017).

    A trial stops when its best score so far is below the median of the other trials' mean scores
    up to the same epoch.
    """

    def __init__(self, *, grace: int) -> None:
        self.grace = grace
        self._met: dict[str, dict[int, float]] = defaultdict(dict)

    def stops(self, trial: str, score: Score) -> bool:
        """Note a score; say whether the trial is to end here."""
        self._met[trial][score.epoch] = score.value
        if score.epoch < self.grace:
            return False
        means = [
            fmean(value for epoch, value in met.items() if epoch <= score.epoch)
            for name, met in self._met.items()
            if name != trial and min(met) <= score.epoch <= max(met)
        ]
        return len(means) >= FEWEST and max(self._met[trial].values()) < median(means)

    def goes_on(self, waiting: set[str], *, last: bool) -> str | None:
        """None: what is below the median ends for good."""
        return None

    def __str__(self) -> str:
        return f"median stopping from epoch {self.grace}, once {FEWEST} other trials came as far"


class EarlyStopping(FIFOScheduler):
    """A rule, as Ray Tune asks for it."""

    def __init__(self, rule: Rule, study: Path, *, name: str) -> None:
        super().__init__()
        self.rule, self.study, self.name = rule, study, name

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Stop or go on; an epoch that was not validated decides nothing."""
        number, score = trial.config[NUMBER], score_of(result)
        if score is None or not self.rule.stops(number, score):
            return TrialScheduler.CONTINUE
        amend(self.study, number, lambda note: replace(note, stopped_by=self.name))
        return TrialScheduler.STOP


def replay(rule: Rule, met: list[tuple[int, str, Score]]) -> None:
    """Tell a rule what trials recorded before: (time in ms, trial, score), in any order."""
    for _, trial, score in sorted(met, key=lambda entry: entry[0]):
        rule.stops(trial, score)


def _rungs(grace: int, reduction: int, epochs: int) -> list[int]:
    """All before the last epoch: there nothing is left to stop."""
    rungs = []
    while grace < epochs:
        rungs.append(grace)
        grace *= reduction
    return rungs
