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

from hrnet_ray.distributed.tuning.trial_records import TRIAL_NUMBER_KEY, update_trial_record
from hrnet_ray.training.validator import WORST_SCORE

MIN_OTHER_TRIALS = 3
"""Other trials that must have come as far before a median means something."""


@dataclass(frozen=True)
class TrialScore:
    """What a trial was worth after an epoch, counted from 1. Higher is better."""

    epoch: int
    value: float


def extract_score(metrics: Mapping[str, Any]) -> TrialScore | None:
    """The score in what a worker reported or recorded; None when the epoch was not validated.

    A trial whose loss became NaN scores the worst value, also for earlier epochs.
    """
    if not math.isfinite(metrics.get("train/loss", math.nan)):
        return TrialScore(metrics["epochs_done"], WORST_SCORE)
    if not any(name.startswith("val/") for name in metrics):
        return None
    return TrialScore(metrics["epochs_done"], metrics["objective"])


@runtime_checkable
class StoppingRule(Protocol):
    """What decides whether a trial goes on."""

    def should_stop(self, trial: str, score: TrialScore) -> bool:
        """Record a score; return whether the trial ends or pauses here."""
        ...

    def next_to_resume(self, paused_trials: set[str], *, no_more_trials: bool) -> str | None:
        """Which of the trials that it ended is to go on after all; `last`: no others come."""
        ...


class SuccessiveHalving:
    """Asynchronous successive halving (ASHA, Li et al. 2020, algorithm 2), one bracket.

    Rungs are at `grace * reduction ** k` epochs. A trial that reaches one goes on when it is among
    the best `1 / reduction` of those that came there; if not, it waits there, and goes on when it
    is among them later. A free worker takes such a trial before a new one.
    """

    def __init__(self, *, grace_period: int, reduction_factor: int, epochs: int) -> None:
        self.reduction_factor = reduction_factor
        self.rungs = _compute_rungs(grace_period, reduction_factor, epochs)
        self._scores_by_rung: dict[int, dict[str, float]] = {rung: {} for rung in self.rungs}

    def should_stop(self, trial: str, score: TrialScore) -> bool:
        """Record a score; return whether the trial pauses here."""
        for rung in self.rungs:
            if score.epoch >= rung and trial not in self._scores_by_rung[rung]:
                self._scores_by_rung[rung][trial] = score.value
                return trial not in self._get_top_trials(rung)
        return False

    def next_to_resume(self, paused_trials: set[str], *, no_more_trials: bool) -> str | None:
        """The waiting trial that is to go on: on the highest rung, the best.

        When no others come, the best of each rung does, however few met there.
        """
        for rung in reversed(self.rungs):
            higher = self._scores_by_rung.get(rung * self.reduction_factor, {})
            for trial in self._get_top_trials(rung, min_count=int(no_more_trials)):
                if trial in paused_trials and trial not in higher:
                    return trial
        return None

    def _get_top_trials(self, rung: int, *, min_count: int = 0) -> list[str]:
        met = self._scores_by_rung[rung]
        return sorted(met, key=met.__getitem__, reverse=True)[: max(min_count, len(met) // self.reduction_factor)]

    def __str__(self) -> str:
        if not self.rungs:
            return "no trial is stopped early (the first rung is the last epoch)"
        rungs = ", ".join(map(str, self.rungs))
        return f"ASHA, one bracket: the best 1/{self.reduction_factor} go on after epoch {rungs}"


class MedianStopping:
    """The median stopping rule (Golovin et al. 2017).

    A trial stops when its best score so far is below the median of the other trials' mean scores
    up to the same epoch.
    """

    def __init__(self, *, grace_period: int) -> None:
        self.grace_period = grace_period
        self._scores_by_trial: dict[str, dict[int, float]] = defaultdict(dict)

    def should_stop(self, trial: str, score: TrialScore) -> bool:
        """Record a score; return whether the trial ends here."""
        self._scores_by_trial[trial][score.epoch] = score.value
        if score.epoch < self.grace_period:
            return False
        means = [
            fmean(value for epoch, value in met.items() if epoch <= score.epoch)
            for name, met in self._scores_by_trial.items()
            if name != trial and min(met) <= score.epoch <= max(met)
        ]
        return len(means) >= MIN_OTHER_TRIALS and max(self._scores_by_trial[trial].values()) < median(means)

    def next_to_resume(self, paused_trials: set[str], *, no_more_trials: bool) -> str | None:
        """None: what is below the median ends for good."""
        return None

    def __str__(self) -> str:
        return f"median stopping from epoch {self.grace_period}, once {MIN_OTHER_TRIALS} other trials came as far"


class StoppingRuleScheduler(FIFOScheduler):
    """A rule, as Ray Tune asks for it."""

    def __init__(self, rule: StoppingRule, study_dir: Path, *, rule_name: str) -> None:
        super().__init__()
        self.rule, self.study_dir, self.rule_name = rule, study_dir, rule_name

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Stop or go on; an epoch that was not validated decides nothing."""
        number, score = trial.config[TRIAL_NUMBER_KEY], extract_score(result)
        if score is None or not self.rule.should_stop(number, score):
            return TrialScheduler.CONTINUE
        update_trial_record(self.study_dir, number, lambda note: replace(note, stopped_by=self.rule_name))
        return TrialScheduler.STOP


def replay_scores(rule: StoppingRule, recorded_scores: list[tuple[int, str, TrialScore]]) -> None:
    """Replay recorded scores into a rule: (time in ms, trial, score), in any order."""
    for _, trial, score in sorted(recorded_scores, key=lambda entry: entry[0]):
        rule.should_stop(trial, score)


def _compute_rungs(grace_period: int, reduction_factor: int, epochs: int) -> list[int]:
    """All before the last epoch: there nothing is left to stop."""
    rungs = []
    while grace_period < epochs:
        rungs.append(grace_period)
        grace_period *= reduction_factor
    return rungs
