"""Parameter importance: the fraction of the trials' rank variance that each setting explains.

Trials are compared after their common epochs, so early stopping does not bias the result. Numbers
are cut into thirds, so an optimum in the middle counts too. `optuna.importance` has no significance
test: its fANOVA and PED-ANOVA report an importance for pure noise as well.
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
"""Smallest number of trials for which importance is computed."""
NUM_PERMUTATIONS = 1_000
SIGNIFICANCE_LEVEL = 0.05
"""Largest p-value of a significant importance."""


@dataclass(frozen=True)
class ParamImportance:
    """Importance of one setting, with a permutation test."""

    setting: str
    explained_fraction: float
    """Fraction of the variance of the trials' ranks, in [0, 1]."""
    chance_fraction: float
    """Mean fraction that shuffled ranks explain."""
    p_value: float
    """Fraction of the permutations that explain as much."""
    rank_correlation: float
    """Spearman correlation with the score, above 0 if more is better; NaN for a category."""

    @property
    def is_significant(self) -> bool:
        return self.p_value < SIGNIFICANCE_LEVEL


def compute_param_importances(study: StudyResults) -> list[ParamImportance]:
    """Compute the importances, the largest first; empty with too few trials or equal scores."""
    trials = [trial for trial in study.scored_trials if np.isfinite(trial.get_best_score_within(study.common_epochs))]
    scores = np.array([trial.get_best_score_within(study.common_epochs) for trial in trials])
    if len(trials) < MIN_TRIALS or np.ptp(scores) == 0:
        return []
    ranks = rankdata(scores)
    computed = [_compute_param_importance(trials, name, ranks) for name in study.searched_settings]
    return sorted(filter(None, computed), key=lambda importance: -importance.explained_fraction)


def _compute_param_importance(trials: Sequence[TrialResult], setting: str, ranks: np.ndarray) -> ParamImportance | None:
    group, correlation = _group_trials_by_value(trials, setting, ranks)
    if len(np.unique(group)) < 2:
        return None
    rng = np.random.default_rng(0)
    explained = _compute_explained_fraction(group, ranks)
    shuffled = np.array([_compute_explained_fraction(group, rng.permutation(ranks)) for _ in range(NUM_PERMUTATIONS)])
    p_value = float((shuffled >= explained - 1e-12).mean())
    return ParamImportance(setting, explained, float(shuffled.mean()), p_value, correlation)


def _group_trials_by_value(trials: Sequence[TrialResult], setting: str, ranks: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the group of each trial, int [N], and the rank correlation of a number."""
    if not is_numeric_setting(trials, setting):
        labels = [format_value(trial.sampled_params.get(setting)) for trial in trials]
        return np.unique(labels, return_inverse=True)[1], float("nan")
    values = np.array([trial.sampled_params[setting] for trial in trials], np.float64)
    if np.ptp(values) == 0:
        return np.zeros(len(values), np.int64), float("nan")
    correlation = float(np.corrcoef(rankdata(values), ranks)[0, 1])
    distinct = np.unique(values)
    edges = distinct[1:] if len(distinct) <= 3 else np.quantile(values, [1 / 3, 2 / 3])
    return np.searchsorted(edges, values, side="right"), correlation


def _compute_explained_fraction(group: np.ndarray, ranks: np.ndarray) -> float:
    """Compute the variance between the groups as a fraction of the total variance."""
    counts = np.bincount(group)
    is_used = counts > 0
    means = np.bincount(group, ranks)[is_used] / counts[is_used]
    between = float(counts[is_used] @ (means - ranks.mean()) ** 2)
    return between / float(((ranks - ranks.mean()) ** 2).sum())
