"""How sure is a figure? Draw the pictures again and again, and see how far it moves.

Pictures are drawn, not instances: instances of one picture share its light, its blur and its
annotator. Two models are compared on the same draws, so that what is hard for both cancels out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 1_000
BOOTSTRAP_SEED = 0

Statistic = Callable[[np.ndarray], float]
"""A figure of a set in which picture p counts `times[p]` times."""


@dataclass(frozen=True)
class ConfidenceInterval:
    """Where a figure lies with `confidence`, by the percentiles of its resamples."""

    low: float
    high: float
    confidence: float
    has_too_few_images: bool = False
    """So few pictures that all of them may lean one way by chance."""

    @property
    def excludes_zero(self) -> bool:
        """For a difference: it is more than noise."""
        return not self.has_too_few_images and (self.low > 0 or self.high < 0)


def compute_bootstrap_samples(
    statistics: Sequence[Statistic],
    *,
    num_images: int,
    resamples: int = NUM_RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> np.ndarray:
    """All statistics on the same `resamples` draws of `pictures` pictures: float64 [S, R]."""
    rng = np.random.default_rng(seed)
    values = np.empty((len(statistics), resamples))
    for at in range(resamples):
        drawn = rng.integers(num_images, size=num_images)
        times = np.bincount(drawn, minlength=num_images).astype(np.float64)
        values[:, at] = [statistic(times) for statistic in statistics]
    return values


def compute_percentile_interval(
    values: np.ndarray, *, confidence: float, num_images: int
) -> ConfidenceInterval:
    """The middle `confidence` of the resamples of so many pictures.

    NaN ones (nothing to score in them) don't count.
    """
    values = values[np.isfinite(values)]
    few = 2.0 ** (1 - num_images) > 1 - confidence  # two-sided, as a sign test has it
    if not len(values):
        return ConfidenceInterval(float("nan"), float("nan"), confidence, few)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return ConfidenceInterval(float(low), float(high), confidence, few)


def make_ratio_statistic(numerators: np.ndarray, denominators: np.ndarray) -> Statistic:
    """A mean that is kept as two sums per picture, float64 [P] each."""

    def compute_ratio(image_counts: np.ndarray) -> float:
        counted = float(image_counts @ denominators)
        return float(image_counts @ numerators) / counted if counted else float("nan")

    return compute_ratio


def sum_per_image(values: np.ndarray, image_index: np.ndarray, *, num_images: int) -> np.ndarray:
    """Add up a value per instance [N] over the instances of each picture: float64 [P]."""
    return np.bincount(image_index, weights=values, minlength=num_images)
