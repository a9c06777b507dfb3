"""Which trial, and so which sigma, is best for which keypoint."""

from dataclasses import dataclass

from hrnet_ray.reports.study.trial_results import (
    SIGMA_SETTING,
    StudyResults,
    TrialOutcome,
    TrialResult,
    is_numeric_setting,
)

MAX_COMPARED_TRIALS, MIN_COMPARED_TRIALS = 14, 6
"""So many trials are compared: those that were trained to the end, and a few others if need be."""
TIE_TOLERANCE = 0.01
"""Keypoint scores that differ by less are as good as each other."""


@dataclass(frozen=True)
class BestTrialForKeypoint:
    """The trial that finds a keypoint best."""

    keypoint: str
    trial: TrialResult
    score: float
    best_trial_gap: float
    """What the best trial of the study gives away here, 0 or more."""
    tied_trials: list[TrialResult]
    """All that are as good, the winner among them."""


def select_comparable_trials(study: StudyResults) -> list[TrialResult]:
    """The trials whose keypoints are compared, in the order of `ordering`, or best first."""
    known = [trial for trial in study.scored_trials if trial.keypoint_scores]
    whole = [trial for trial in known if trial.outcome is TrialOutcome.COMPLETED][
        :MAX_COMPARED_TRIALS
    ]
    others = [trial for trial in known if trial not in whole]
    chosen = whole + others[: max(0, MIN_COMPARED_TRIALS - len(whole))]
    by = select_sort_setting(study)
    return sorted(chosen, key=lambda trial: trial.sampled_params[by]) if by else chosen


def select_sort_setting(study: StudyResults) -> str | None:
    """Sigma where it was searched, else the first number that was."""
    numbers = [name for name in study.searched_settings if is_numeric_setting(study.trials, name)]
    return SIGMA_SETTING if SIGMA_SETTING in numbers else next(iter(numbers), None)


def find_best_trial_per_keypoint(study: StudyResults) -> list[BestTrialForKeypoint]:
    """A line for each keypoint; none when there are fewer than two trials to compare."""
    trials = select_comparable_trials(study)
    if len(trials) < 2:
        return []
    names = [
        name for name in trials[0].keypoint_scores if all(name in t.keypoint_scores for t in trials)
    ]
    return [_find_keypoint_winner(name, trials, study.best_trial) for name in names]


def _find_keypoint_winner(
    keypoint: str, trials: list[TrialResult], best_trial: TrialResult
) -> BestTrialForKeypoint:
    won = max(trials, key=lambda trial: trial.keypoint_scores[keypoint])
    top = won.keypoint_scores[keypoint]
    close = [trial for trial in trials if trial.keypoint_scores[keypoint] > top - TIE_TOLERANCE]
    return BestTrialForKeypoint(
        keypoint, won, top, top - best_trial.keypoint_scores.get(keypoint, top), close
    )
