"""How sure is a figure? Draw the pictures again and again, and see how far it moves.

Pictures are drawn, not instances: instances of one picture share its light, its blur and its
annotator. Two models are compared on the same draws, so that what is hard for both cancels out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1_000
SEED = 0

Statistic = Callable[[np.ndarray], float]
"""A figure of a set in which picture p counts `times[p]` times."""


@dataclass(frozen=True)
class Interval:
    """Where a figure lies with `confidence`, by the percentiles of its resamples."""

    low: float
    high: float
    confidence: float
    few: bool = False
    """So few pictures that all of them may lean one way by chance."""

    @property
    def leaves_out_zero(self) -> bool:
        """For a difference: it is more than noise."""
        return not self.few and (self.low > 0 or self.high < 0)


def bootstrap(
    statistics: Sequence[Statistic],
    *,
    pictures: int,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> np.ndarray:
    """All statistics on the same `resamples` draws of `pictures` pictures: float64 [S, R]."""
    rng = np.random.default_rng(seed)
    values = np.empty((len(statistics), resamples))
    for at in range(resamples):
        drawn = rng.integers(pictures, size=pictures)
        times = np.bincount(drawn, minlength=pictures).astype(np.float64)
        values[:, at] = [statistic(times) for statistic in statistics]
    return values


def interval(values: np.ndarray, *, confidence: float, pictures: int) -> Interval:
    """The middle `confidence` of the resamples of so many pictures.

    NaN ones (nothing to score in them) don't count.
    """
    values = values[np.isfinite(values)]
    few = 2.0 ** (1 - pictures) > 1 - confidence  # two-sided, as a sign test has it
    if not len(values):
        return Interval(float("nan"), float("nan"), confidence, few)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high), confidence, few)


def of_ratio(total: np.ndarray, seen: np.ndarray) -> Statistic:
    """A mean that is kept as two sums per picture, float64 [P] each."""

    def value(times: np.ndarray) -> float:
        counted = float(times @ seen)
        return float(times @ total) / counted if counted else float("nan")

    return value


def per_picture(values: np.ndarray, picture: np.ndarray, *, pictures: int) -> np.ndarray:
    """Add up a value per instance [N] over the instances of each picture: float64 [P]."""
    return np.bincount(picture, weights=values, minlength=pictures)
