"""Draws the trials of a study, and learns from what they came to (Optuna's TPE)."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from hrnet_ray.distributed.tuning.latency import LATENCY
from hrnet_ray.distributed.tuning.samplers import Point, Space, at_random, distributions, evenly
from hrnet_ray.distributed.tuning.schedulers import Rule, Score, replay, score_of
from hrnet_ray.distributed.tuning.search_config import Search
from hrnet_ray.distributed.tuning.trial_records import (
    NUMBER,
    TrialNote,
    label,
    read_notes,
    trials_folder,
    write_note,
)
from hrnet_ray.runs.event_log import read_epochs
from hrnet_ray.training.validator import WORST


class StudySearcher(Searcher):
    """First the trials that were begun and have not ended, then those that go on, then new ones.

    It keeps nothing in mind: what there is to know of a trial is read from its folder, whether it
    ended now or in an earlier command. `points` are tried first.
    """

    def __init__(
        self, study: Path, space: Space, search: Search, points: Sequence[Point], *, epochs: int
    ) -> None:
        super().__init__()
        self.study, self.space, self.search = study, dict(space), search
        self.points, self.epochs = list(points), epochs
        self.trials = len(points) if search.sampler == "grid" else search.trials
        self._begun = [n for n, note in read_notes(study).items() if note.state != "done"]
        self._live: dict[str, str] = {}  # numbers of trials, by Tune's ids
        self._idle_with: frozenset[str] = frozenset()

    def has_more(self) -> bool:
        """Whether there is anything to train."""
        return bool(self._begun) or self._undrawn() or self._goes_on() is not None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The settings of the next trial, and its number; noted on disk before it begins."""
        if self._idle_with and self._idle_with == self._live.keys():
            return None  # as a moment ago: Tune asks all the time
        if self._begun:
            note = self._again(self._begun.pop(0))
        elif number := self._goes_on():
            note = self._again(number)
        elif self._undrawn():
            note = self._new()
        elif self._live:  # those that train may yet let others go on
            self._idle_with = frozenset(self._live)
            return None
        else:
            return Searcher.FINISHED
        write_note(self.study, note)
        self._live[trial_id] = note.number
        return {**note.drawn, NUMBER: note.number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing is learnt from a trial before its end."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """What came of it stands in its folder."""
        self._live.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Leave Ray's snapshot without a searcher: the trials' folders are the memory."""
        Path(checkpoint_path).write_text("see trials/*/trial.json\n", encoding="utf-8")

    def told(self) -> optuna.Study:
        """All that is known, in Optuna's words."""
        study = _study(self.search)
        for note in read_notes(self.study).values():
            study.enqueue_trial(dict(note.drawn))
            trial = study.ask(distributions(self.space))
            if note.state == "failed":
                study.tell(trial, state=TrialState.FAIL)
            elif note.state == "done":
                self._tell(study, trial, note)
        return study

    def _undrawn(self) -> bool:
        return self._last() < self.trials

    def _last(self) -> int:
        return max(map(int, read_notes(self.study)), default=0)

    def _again(self, number: str) -> TrialNote:
        note = read_notes(self.study)[number]
        return replace(note, asked_at=time.time(), state="running", error="", stopped_by="")

    def _new(self) -> TrialNote:
        number = self._last() + 1
        drawn, now = self._draw(number), time.time()
        return TrialNote(number=label(number), drawn=drawn, asked_at=now, began_at=now)

    def _goes_on(self) -> str | None:
        rule = filled_rule(self.study, self.search, epochs=self.epochs)
        if rule is None:
            return None
        notes = read_notes(self.study).values()
        waiting = {n.number for n in notes if n.state == "done" and n.stopped_by and not n.error}
        last = not self._live and not self._begun and not self._undrawn()
        return rule.goes_on(waiting, last=last)

    def _draw(self, number: int) -> Point:
        new = number - len(self.points)
        if new <= 0:
            return self.points[number - 1]
        if self.search.sampler == "random":
            return at_random(self.space, new, seed=self.search.seed)
        if new <= self.search.startup:
            return evenly(self.space, new, seed=self.search.seed)
        study = self.told()
        # Seeded anew for each trial: what it draws follows from what is known, however often the
        # command was killed on the way.
        study.sampler = _tpe(self.search.seed, number)
        return study.ask(distributions(self.space)).params

    def _tell(self, study: optuna.Study, trial: optuna.Trial, note: TrialNote) -> None:
        """Tell Optuna what a trial came to.

        One that was stopped early is below all that were not, by how far it came and how good it
        was then; one that diverged is below all others.
        """
        epochs = read_epochs(trials_folder(self.study) / note.number)
        last = next((score for entry in reversed(epochs) if (score := score_of(entry))), None)
        latency_ms = epochs[-1].get(LATENCY) if epochs else None
        if last is None or note.diverged:
            last = Score(0, WORST)
        if self.search.against_latency:
            if latency_ms is None or last.value <= WORST:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, (last.value, latency_ms))
        elif last.epoch >= self.epochs and last.value > WORST:
            study.tell(trial, last.value)
        else:
            if last.value > WORST:
                trial.report(last.value, step=last.epoch)
            study.tell(trial, state=TrialState.PRUNED)


def filled_rule(study: Path, search: Search, *, epochs: int) -> Rule | None:
    """The rule of early stopping, told what the trials came to so far."""
    rule = search.rule(epochs)
    if rule is None:
        return None
    met = [
        (entry["at_ms"], number, score)
        for number, note in read_notes(study).items()
        if not note.error  # one that failed takes nobody's place
        for entry in read_epochs(trials_folder(study) / number)
        if (score := score_of(entry))
    ]
    replay(rule, met)
    return rule


def _study(search: Search) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if search.against_latency:
        return optuna.create_study(directions=["maximize", "minimize"])
    return optuna.create_study(direction="maximize")


def _tpe(seed: int, number: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(n_startup_trials=0, seed=seed * 100_003 + number)
