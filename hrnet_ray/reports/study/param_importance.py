"""Which settings mattered: how much of the differences between trials each one explains.

Trials are compared after as many epochs as all of them had, so that those which were stopped early
are not worse for that. Numbers are cut into thirds, so a best value in the middle is seen, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from hrnet_ray.reports.study.trial_results import Trial, Trials, as_text, numeric

FEWEST = 6
"""With fewer trials, nothing can be said."""
SHUFFLES = 1_000
RARE = 0.05
"""What shuffled scores explain as well in fewer cases is taken for more than chance."""


@dataclass(frozen=True)
class Weight:
    """What one setting explains."""

    name: str
    explained: float
    """Share of the variance of the trials' ranks, in [0, 1]."""
    by_chance: float
    """What shuffled ranks give on average."""
    luck: float
    """Share of the shuffles that give as much."""
    correlation: float
    """Spearman's: above 0, more is better; NaN for a choice."""

    @property
    def beyond_chance(self) -> bool:
        return self.luck < RARE


def weights_of(study: Trials) -> list[Weight]:
    """The heaviest first; none when there are too few trials, or all came to the same."""
    trials = [trial for trial in study.scored if np.isfinite(trial.after(study.common))]
    scores = np.array([trial.after(study.common) for trial in trials])
    if len(trials) < FEWEST or np.ptp(scores) == 0:
        return []
    ranks = rankdata(scores)
    found = [_weight(trials, name, ranks) for name in study.searched]
    return sorted((one for one in found if one), key=lambda one: -one.explained)


def _weight(trials: Sequence[Trial], name: str, ranks: np.ndarray) -> Weight | None:
    group, correlation = _groups(trials, name, ranks)
    if len(np.unique(group)) < 2:
        return None
    rng = np.random.default_rng(0)
    explained = _explained(group, ranks)
    shuffled = np.array([_explained(group, rng.permutation(ranks)) for _ in range(SHUFFLES)])
    luck = float((shuffled >= explained - 1e-12).mean())
    return Weight(name, explained, float(shuffled.mean()), luck, correlation)


def _groups(trials: Sequence[Trial], name: str, ranks: np.ndarray) -> tuple[np.ndarray, float]:
    """The group of each trial, int [N], and the correlation of a number with the ranks."""
    if not numeric(trials, name):
        said = [as_text(trial.drawn.get(name)) for trial in trials]
        return np.unique(said, return_inverse=True)[1], float("nan")
    values = np.array([trial.drawn[name] for trial in trials], np.float64)
    if np.ptp(values) == 0:
        return np.zeros(len(values), np.int64), float("nan")
    correlation = float(np.corrcoef(rankdata(values), ranks)[0, 1])
    different = np.unique(values)
    edges = different[1:] if len(different) <= 3 else np.quantile(values, [1 / 3, 2 / 3])
    return np.searchsorted(edges, values, side="right"), correlation


def _explained(group: np.ndarray, ranks: np.ndarray) -> float:
    """Variance between the groups as a share of all."""
    counts = np.bincount(group)
    used = counts > 0
    means = np.bincount(group, ranks)[used] / counts[used]
    between = float(counts[used] @ (means - ranks.mean()) ** 2)
    return between / float(((ranks - ranks.mean()) ** 2).sum())
