"""Which settings mattered: how much of the differences between trials each one explains.

Trials are compared after as many epochs as all of them had, so that those which were stopped early
are not worse for that. Numbers are cut into thirds, so a best value in the middle is seen, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from hrnet_ray.reports.study.trial_results import (
    StudyResults,
    TrialResult,
    format_value,
    is_numeric_setting,
)

MIN_TRIALS = 6
"""With fewer trials, nothing can be said."""
NUM_PERMUTATIONS = 1_000
SIGNIFICANCE_LEVEL = 0.05
"""What shuffled scores explain as well in fewer cases is taken for more than chance."""


@dataclass(frozen=True)
class ParamImportance:
    """What one setting explains."""

    setting: str
    explained_fraction: float
    """Share of the variance of the trials' ranks, in [0, 1]."""
    chance_fraction: float
    """What shuffled ranks give on average."""
    p_value: float
    """Share of the shuffles that give as much."""
    rank_correlation: float
    """Spearman's: above 0, more is better; NaN for a choice."""

    @property
    def is_significant(self) -> bool:
        return self.p_value < SIGNIFICANCE_LEVEL


def compute_param_importances(study: StudyResults) -> list[ParamImportance]:
    """The heaviest first; none when there are too few trials, or all came to the same."""
    trials = [
        trial
        for trial in study.scored_trials
        if np.isfinite(trial.get_best_score_within(study.common_epochs))
    ]
    scores = np.array([trial.get_best_score_within(study.common_epochs) for trial in trials])
    if len(trials) < MIN_TRIALS or np.ptp(scores) == 0:
        return []
    ranks = rankdata(scores)
    found = [_compute_param_importance(trials, name, ranks) for name in study.searched_settings]
    return sorted((one for one in found if one), key=lambda one: -one.explained_fraction)


def _compute_param_importance(
    trials: Sequence[TrialResult], setting: str, ranks: np.ndarray
) -> ParamImportance | None:
    group, correlation = _group_trials_by_value(trials, setting, ranks)
    if len(np.unique(group)) < 2:
        return None
    rng = np.random.default_rng(0)
    explained = _compute_explained_fraction(group, ranks)
    shuffled = np.array(
        [
            _compute_explained_fraction(group, rng.permutation(ranks))
            for _ in range(NUM_PERMUTATIONS)
        ]
    )
    luck = float((shuffled >= explained - 1e-12).mean())
    return ParamImportance(setting, explained, float(shuffled.mean()), luck, correlation)


def _group_trials_by_value(
    trials: Sequence[TrialResult], setting: str, ranks: np.ndarray
) -> tuple[np.ndarray, float]:
    """The group of each trial, int [N], and the correlation of a number with the ranks."""
    if not is_numeric_setting(trials, setting):
        said = [format_value(trial.sampled_params.get(setting)) for trial in trials]
        return np.unique(said, return_inverse=True)[1], float("nan")
    values = np.array([trial.sampled_params[setting] for trial in trials], np.float64)
    if np.ptp(values) == 0:
        return np.zeros(len(values), np.int64), float("nan")
    correlation = float(np.corrcoef(rankdata(values), ranks)[0, 1])
    different = np.unique(values)
    edges = different[1:] if len(different) <= 3 else np.quantile(values, [1 / 3, 2 / 3])
    return np.searchsorted(edges, values, side="right"), correlation


def _compute_explained_fraction(group: np.ndarray, ranks: np.ndarray) -> float:
    """Variance between the groups as a share of all."""
    counts = np.bincount(group)
    used = counts > 0
    means = np.bincount(group, ranks)[used] / counts[used]
    between = float(counts[used] @ (means - ranks.mean()) ** 2)
    return between / float(((ranks - ranks.mean()) ** 2).sum())
