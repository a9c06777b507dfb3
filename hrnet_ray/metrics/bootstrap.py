"""Bootstrap confidence intervals of metrics, resampled by image.

Images are resampled, not instances: instances of one image share light, blur and annotator. Two
models are compared on the same resamples, so the difficulty of an image cancels out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 1_000
BOOTSTRAP_SEED = 0

Statistic = Callable[[np.ndarray], float]
"""Function from image counts, float64 [P], to the metric of that resample."""


@dataclass(frozen=True)
class ConfidenceInterval:
    """Percentile interval of a metric with the coverage `confidence`."""

    low: float
    high: float
    confidence: float
    has_too_few_images: bool = False
    """True if all images could favour one model by chance alone."""

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is significant."""
        return not self.has_too_few_images and (self.low > 0 or self.high < 0)


def compute_bootstrap_samples(
    statistics: Sequence[Statistic],
    *,
    num_images: int,
    resamples: int = NUM_RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> np.ndarray:
    """Compute all statistics on the same resamples of the images: float64 [S, R]."""
    rng = np.random.default_rng(seed)
    values = np.empty((len(statistics), resamples))
    for at in range(resamples):
        sampled = rng.integers(num_images, size=num_images)
        image_counts = np.bincount(sampled, minlength=num_images).astype(np.float64)
        values[:, at] = [statistic(image_counts) for statistic in statistics]
    return values


def compute_percentile_interval(values: np.ndarray, *, confidence: float, num_images: int) -> ConfidenceInterval:
    """Compute the central interval of the resampled values with the coverage `confidence`.

    NaN values (resamples with nothing to score) are left out.
    """
    values = values[np.isfinite(values)]
    few = 2.0 ** (1 - num_images) > 1 - confidence  # two-sided sign test
    if not len(values):
        return ConfidenceInterval(float("nan"), float("nan"), confidence, few)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return ConfidenceInterval(float(low), float(high), confidence, few)


def make_ratio_statistic(numerators: np.ndarray, denominators: np.ndarray) -> Statistic:
    """Build the statistic of a mean from two sums per image, float64 [P] each."""

    def compute_ratio(image_counts: np.ndarray) -> float:
        denominator = float(image_counts @ denominators)
        return float(image_counts @ numerators) / denominator if denominator else float("nan")

    return compute_ratio


def sum_per_image(values: np.ndarray, image_index: np.ndarray, *, num_images: int) -> np.ndarray:
    """Sum a value per instance [N] over the instances of each image: float64 [P]."""
    return np.bincount(image_index, weights=values, minlength=num_images)
