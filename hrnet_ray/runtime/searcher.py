"""Draws the trials of a study, and learns from what they came to (Optuna's TPE)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from hrnet_ray.runtime.draws import Point, Space, at_random, distributions, evenly
from hrnet_ray.runtime.early_stopping import Score, score_of
from hrnet_ray.runtime.judge import WORST
from hrnet_ray.runtime.latency import LATENCY
from hrnet_ray.runtime.records import read_epochs
from hrnet_ray.runtime.search import Search
from hrnet_ray.runtime.trial_notes import (
    NUMBER,
    TrialNote,
    label,
    read_notes,
    trials_folder,
    write_note,
)


class StudySearcher(Searcher):
    """First the trials that were begun and have not ended, then new ones.

    What a trial came to is read from its folder, whether it ended now or in an earlier command.
    `points` are tried first.
    """

    def __init__(
        self, study: Path, space: Space, search: Search, points: Sequence[Point], *, epochs: int
    ) -> None:
        super().__init__()
        self.study, self.space, self.search = study, dict(space), search
        self.points, self.epochs = list(points), epochs
        self._optuna = _study(search)
        self._distributions = distributions(space)
        self._live: dict[str, tuple[str, optuna.Trial]] = {}  # by Tune's id
        notes = read_notes(study)
        self._drawn = max(map(int, notes), default=0)
        self._begun = [note for note in notes.values() if note.state != "done"]
        for note in notes.values():
            if note.state == "done":
                self._tell(self._asked(note.drawn), note.number)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The settings of the next trial, and its number; noted on disk before it begins."""
        if self._begun:
            note = replace(self._begun.pop(0), asked_at=time.time(), state="running", error="")
            drawn = self._asked(note.drawn)
        else:
            self._drawn += 1
            drawn = self._draw(self._drawn)
            now, number = time.time(), label(self._drawn)
            note = TrialNote(number=number, drawn=drawn.params, asked_at=now, began_at=now)
        write_note(self.study, note)
        self._live[trial_id] = note.number, drawn
        return {**note.drawn, NUMBER: note.number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing is learnt from a trial before its end."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn from a trial that ended."""
        if trial_id in self._live:
            number, drawn = self._live.pop(trial_id)
            if error or read_notes(self.study)[number].state == "failed":
                self._optuna.tell(drawn, state=TrialState.FAIL)
            else:
                self._tell(drawn, number)

    def save(self, checkpoint_path: str) -> None:
        """Leave Ray's snapshot without a searcher: the trials' folders are the memory."""
        Path(checkpoint_path).write_text("see trials/*/trial.json\n", encoding="utf-8")

    def _draw(self, number: int) -> optuna.Trial:
        new = number - len(self.points)
        if new <= 0:
            return self._asked(self.points[number - 1])
        if self.search.sampler == "random":
            return self._asked(at_random(self.space, new, seed=self.search.seed))
        if new <= self.search.startup:
            return self._asked(evenly(self.space, new, seed=self.search.seed))
        # Seeded anew for each trial: what it draws follows from what is known, however often the
        # command was killed on the way.
        self._optuna.sampler = _tpe(self.search.seed, number)
        return self._optuna.ask(self._distributions)

    def _asked(self, point: Mapping[str, Any]) -> optuna.Trial:
        """Optuna's handle of a trial whose settings did not come from Optuna."""
        self._optuna.enqueue_trial(dict(point))
        return self._optuna.ask(self._distributions)

    def _tell(self, drawn: optuna.Trial, number: str) -> None:
        """Tell Optuna what a trial came to.

        One that was stopped early is below all that were not, by how far it came and how good it
        was then; one that diverged is below all others. A failed one says nothing of its settings.
        """
        epochs = read_epochs(trials_folder(self.study) / number)
        last = next((score for entry in reversed(epochs) if (score := score_of(entry))), None)
        latency_ms = epochs[-1].get(LATENCY) if epochs else None
        if last is None or read_notes(self.study)[number].diverged:
            last = Score(0, WORST)
        if self.search.against_latency:
            if latency_ms is None or last.value <= WORST:
                self._optuna.tell(drawn, state=TrialState.FAIL)
            else:
                self._optuna.tell(drawn, (last.value, latency_ms))
        elif last.epoch >= self.epochs and last.value > WORST:
            self._optuna.tell(drawn, last.value)
        else:
            if last.value > WORST:
                drawn.report(last.value, step=last.epoch)
            self._optuna.tell(drawn, state=TrialState.PRUNED)


def _study(search: Search) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if search.against_latency:
        return optuna.create_study(directions=["maximize", "minimize"])
    return optuna.create_study(direction="maximize")


def _tpe(seed: int, number: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(n_startup_trials=0, seed=seed * 100_003 + number)
