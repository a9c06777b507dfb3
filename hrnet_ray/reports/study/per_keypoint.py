"""Best trial, and so the best heatmap sigma, for each keypoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hrnet_ray.reports.study.trial_results import (
    SIGMA_SETTING,
    StudyResults,
    TrialOutcome,
    TrialResult,
    is_numeric_setting,
)

MAX_COMPARED_TRIALS, MIN_COMPARED_TRIALS = 14, 6
"""Number of compared trials: the completed ones, and others only up to the minimum."""
TIE_TOLERANCE = 0.01
"""Score difference below which two trials are tied for a keypoint."""


@dataclass(frozen=True)
class BestTrialForKeypoint:
    """Trial with the best score for a keypoint."""

    keypoint: str
    trial: TrialResult
    score: float
    best_trial_gap: float
    """Score of the winner less that of the best trial of the study, 0 or more."""
    tied_trials: list[TrialResult]
    """Trials within TIE_TOLERANCE of the winner, which is among them."""

    def get_tied_values(self, setting: str) -> list[Any]:
        """The values of a searched setting in `tied_trials`."""
        return [trial.sampled_params[setting] for trial in self.tied_trials]


def select_comparable_trials(study: StudyResults) -> list[TrialResult]:
    """Select the trials to compare, sorted by `select_sort_setting`, else the best first."""
    candidates = [trial for trial in study.scored_trials if trial.keypoint_scores]
    completed = [t for t in candidates if t.outcome is TrialOutcome.COMPLETED][:MAX_COMPARED_TRIALS]
    others = [trial for trial in candidates if trial not in completed]
    selected = completed + others[: max(0, MIN_COMPARED_TRIALS - len(completed))]
    setting = select_sort_setting(study)
    return sorted(selected, key=lambda t: t.sampled_params[setting]) if setting else selected


def select_sort_setting(study: StudyResults) -> str | None:
    """Select the heatmap sigma if it was searched, else the first searched number."""
    numbers = [name for name in study.searched_settings if is_numeric_setting(study.trials, name)]
    return SIGMA_SETTING if SIGMA_SETTING in numbers else next(iter(numbers), None)


def find_best_trial_per_keypoint(study: StudyResults) -> list[BestTrialForKeypoint]:
    """Find the winner of each keypoint; empty with fewer than two trials to compare."""
    trials = select_comparable_trials(study)
    if len(trials) < 2:
        return []
    return [_find_keypoint_winner(name, trials, study.best_trial) for name in list_common_keypoints(trials)]


def list_common_keypoints(trials: Sequence[TrialResult]) -> list[str]:
    """List the keypoints that have a score in every trial."""
    first, *others = trials
    return [name for name in first.keypoint_scores if all(name in t.keypoint_scores for t in others)]


def _find_keypoint_winner(keypoint: str, trials: list[TrialResult], best_trial: TrialResult) -> BestTrialForKeypoint:
    winner = max(trials, key=lambda trial: trial.keypoint_scores[keypoint])
    score = winner.keypoint_scores[keypoint]
    return BestTrialForKeypoint(
        keypoint,
        winner,
        score,
        best_trial_gap=score - best_trial.keypoint_scores.get(keypoint, score),
        tied_trials=[t for t in trials if t.keypoint_scores[keypoint] > score - TIE_TOLERANCE],
    )
