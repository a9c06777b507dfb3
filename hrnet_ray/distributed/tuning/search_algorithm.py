"""Draws the trials of a study, and learns from what they came to (Optuna's TPE)."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from hrnet_ray.distributed.tuning.latency import LATENCY_METRIC
from hrnet_ray.distributed.tuning.samplers import (
    SearchPoint,
    SearchSpace,
    sample_halton,
    sample_random,
    to_optuna_distributions,
)
from hrnet_ray.distributed.tuning.schedulers import (
    StoppingRule,
    TrialScore,
    extract_score,
    replay_scores,
)
from hrnet_ray.distributed.tuning.search_config import SearchConfig
from hrnet_ray.distributed.tuning.trial_records import (
    TRIAL_NUMBER_KEY,
    TrialRecord,
    format_trial_number,
    get_trials_dir,
    read_trial_records,
    write_trial_record,
)
from hrnet_ray.runs.event_log import read_metrics
from hrnet_ray.training.validator import WORST_SCORE


class ResumableSearcher(Searcher):
    """First the trials that were begun and have not ended, then those that go on, then new ones.

    It keeps nothing in mind: what there is to know of a trial is read from its folder, whether it
    ended now or in an earlier command. `points` are tried first.
    """

    def __init__(
        self,
        study_dir: Path,
        space: SearchSpace,
        search: SearchConfig,
        initial_points: Sequence[SearchPoint],
        *,
        epochs: int,
    ) -> None:
        super().__init__()
        self.study_dir, self.space, self.search = study_dir, dict(space), search
        self.initial_points, self.epochs = list(initial_points), epochs
        self.num_trials = len(initial_points) if search.sampler == "grid" else search.num_trials
        self._unfinished_trials = [n for n, note in read_trial_records(study_dir).items() if note.state != "done"]
        self._running_trials: dict[str, str] = {}  # numbers of trials, by Tune's ids
        self._idle_while_running: frozenset[str] = frozenset()

    def has_pending_trials(self) -> bool:
        """Whether there is anything to train."""
        return bool(self._unfinished_trials) or self._has_unsampled_trials() or self._find_trial_to_resume() is not None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The settings of the next trial, and its number; noted on disk before it begins."""
        if self._idle_while_running and self._idle_while_running == self._running_trials.keys():
            return None  # as a moment ago: Tune asks all the time
        if self._unfinished_trials:
            note = self._restart_trial(self._unfinished_trials.pop(0))
        elif number := self._find_trial_to_resume():
            note = self._restart_trial(number)
        elif self._has_unsampled_trials():
            note = self._create_trial()
        elif self._running_trials:  # those that train may yet let others go on
            self._idle_while_running = frozenset(self._running_trials)
            return None
        else:
            return Searcher.FINISHED
        write_trial_record(self.study_dir, note)
        self._running_trials[trial_id] = note.number
        return {**note.sampled_params, TRIAL_NUMBER_KEY: note.number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing is learnt from a trial before its end."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """What came of it stands in its folder."""
        self._running_trials.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Leave Ray's snapshot without a searcher: the trials' folders are the memory."""
        Path(checkpoint_path).write_text("see trials/*/trial.json\n", encoding="utf-8")

    def build_optuna_study(self) -> optuna.Study:
        """All that is known, in Optuna's words."""
        study = _create_optuna_study(self.search)
        for note in read_trial_records(self.study_dir).values():
            study.enqueue_trial(dict(note.sampled_params))
            trial = study.ask(to_optuna_distributions(self.space))
            if note.state == "failed":
                study.tell(trial, state=TrialState.FAIL)
            elif note.state == "done":
                self._tell_optuna(study, trial, note)
        return study

    def _has_unsampled_trials(self) -> bool:
        return self._get_last_number() < self.num_trials

    def _get_last_number(self) -> int:
        return max(map(int, read_trial_records(self.study_dir)), default=0)

    def _restart_trial(self, number: str) -> TrialRecord:
        note = read_trial_records(self.study_dir)[number]
        return replace(note, last_started_s=time.time(), state="running", error="", stopped_by="")

    def _create_trial(self) -> TrialRecord:
        number = self._get_last_number() + 1
        drawn, now = self._sample_params(number), time.time()
        return TrialRecord(
            number=format_trial_number(number),
            sampled_params=drawn,
            last_started_s=now,
            first_started_s=now,
        )

    def _find_trial_to_resume(self) -> str | None:
        rule = rebuild_stopping_rule(self.study_dir, self.search, epochs=self.epochs)
        if rule is None:
            return None
        notes = read_trial_records(self.study_dir).values()
        waiting = {n.number for n in notes if n.state == "done" and n.stopped_by and not n.error}
        last = not self._running_trials and not self._unfinished_trials and not self._has_unsampled_trials()
        return rule.next_to_resume(waiting, no_more_trials=last)

    def _sample_params(self, number: int) -> SearchPoint:
        new = number - len(self.initial_points)
        if new <= 0:
            return self.initial_points[number - 1]
        if self.search.sampler == "random":
            return sample_random(self.space, new, seed=self.search.seed)
        if new <= self.search.n_startup_trials:
            return sample_halton(self.space, new, seed=self.search.seed)
        study = self.build_optuna_study()
        # Seeded anew for each trial: what it draws follows from what is known, however often the
        # command was killed on the way.
        study.sampler = _create_tpe_sampler(self.search.seed, number)
        return study.ask(to_optuna_distributions(self.space)).params

    def _tell_optuna(self, study: optuna.Study, trial: optuna.Trial, record: TrialRecord) -> None:
        """Report the result of a trial to Optuna.

        One that was stopped early is below all that were not, by how far it came and how good it
        was then; one that diverged is below all others.
        """
        epochs = read_metrics(get_trials_dir(self.study_dir) / record.number)
        last = next((score for entry in reversed(epochs) if (score := extract_score(entry))), None)
        latency_ms = epochs[-1].get(LATENCY_METRIC) if epochs else None
        if last is None or record.diverged:
            last = TrialScore(0, WORST_SCORE)
        if self.search.optimize_latency:
            if latency_ms is None or last.value <= WORST_SCORE:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, (last.value, latency_ms))
        elif last.epoch >= self.epochs and last.value > WORST_SCORE:
            study.tell(trial, last.value)
        else:
            if last.value > WORST_SCORE:
                trial.report(last.value, step=last.epoch)
            study.tell(trial, state=TrialState.PRUNED)


def rebuild_stopping_rule(study_dir: Path, search: SearchConfig, *, epochs: int) -> StoppingRule | None:
    """Build the stopping rule and replay the trials' scores so far."""
    rule = search.build_stopping_rule(epochs)
    if rule is None:
        return None
    met = [
        (entry["at_ms"], number, score)
        for number, note in read_trial_records(study_dir).items()
        if not note.error  # a failed trial takes no place
        for entry in read_metrics(get_trials_dir(study_dir) / number)
        if (score := extract_score(entry))
    ]
    replay_scores(rule, met)
    return rule


def _create_optuna_study(search: SearchConfig) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if search.optimize_latency:
        return optuna.create_study(directions=["maximize", "minimize"])
    return optuna.create_study(direction="maximize")


def _create_tpe_sampler(seed: int, number: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(n_startup_trials=0, seed=seed * 100_003 + number)
