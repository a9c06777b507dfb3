"""Bootstrap intervals: width, reproducibility and significance."""

import numpy as np
import pytest

from hrnet_ray.metrics.bootstrap import (
    ConfidenceInterval,
    compute_bootstrap_samples,
    compute_percentile_interval,
    make_ratio_statistic,
    sum_per_image,
)


def make_mean_statistic(values: np.ndarray):
    return make_ratio_statistic(values, np.ones(len(values)))


def test_bootstrap_spread_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(3).normal(0.5, 0.2, 400)

    (samples,) = compute_bootstrap_samples([make_mean_statistic(values)], num_images=400)

    assert samples.mean() == pytest.approx(values.mean(), abs=0.002)
    assert samples.std() == pytest.approx(values.std() / 20, rel=0.1)
    interval = compute_percentile_interval(samples, confidence=0.95, num_images=60)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert interval.low < values.mean() < interval.high


def test_a_higher_confidence_gives_a_wider_interval():
    (samples,) = compute_bootstrap_samples([make_mean_statistic(np.arange(50.0))], num_images=50)

    wide, narrow = (
        compute_percentile_interval(samples, confidence=confidence, num_images=60) for confidence in (0.99, 0.5)
    )

    assert wide.low < narrow.low < 24.5 < narrow.high < wide.high
    assert wide.confidence == 0.99


def test_the_same_seed_gives_the_same_samples():
    values = np.random.default_rng(0).random(30)

    same = [
        compute_bootstrap_samples([make_mean_statistic(values)], num_images=30, resamples=50, seed=7) for _ in range(2)
    ]
    other = compute_bootstrap_samples([make_mean_statistic(values)], num_images=30, resamples=50, seed=8)

    np.testing.assert_array_equal(*same)
    assert not np.array_equal(same[0], other)


def test_two_models_are_compared_on_the_same_resamples():
    rng = np.random.default_rng(1)
    hard = rng.normal(0.5, 0.3, 200)
    better = hard + 0.01 + rng.normal(0, 0.02, 200)

    one, other = compute_bootstrap_samples([make_mean_statistic(better), make_mean_statistic(hard)], num_images=200)

    intervals = [compute_percentile_interval(values, confidence=0.95, num_images=60) for values in (one, other)]
    assert intervals[0].low < intervals[1].high  # the two intervals overlap
    assert compute_percentile_interval(one - other, confidence=0.95, num_images=60).excludes_zero


def test_a_model_compared_with_itself_has_difference_zero():
    values = np.random.default_rng(1).random(20)

    one, other = compute_bootstrap_samples([make_mean_statistic(values)] * 2, num_images=20, resamples=20)
    interval = compute_percentile_interval(one - other, confidence=0.9, num_images=60)

    assert (interval.low, interval.high, interval.excludes_zero) == (0.0, 0.0, False)


def test_images_are_resampled_not_instances():
    """Ten images with 100 equal instances each have the standard error of 10 values."""
    image_values = np.linspace(0, 1, 10)
    values, image_index = np.repeat(image_values, 100), np.repeat(np.arange(10), 100)
    value_sums = sum_per_image(values, image_index, num_images=10)
    counts = sum_per_image(np.ones(1000), image_index, num_images=10)

    (samples,) = compute_bootstrap_samples([make_ratio_statistic(value_sums, counts)], num_images=10)

    assert samples.std() == pytest.approx(image_values.std() / 10**0.5, rel=0.1)


def test_nan_samples_are_ignored():
    values = np.array([np.nan, 0.5, 0.5, np.nan])

    assert compute_percentile_interval(values, confidence=0.9, num_images=60) == ConfidenceInterval(0.5, 0.5, 0.9)
    assert np.isnan(compute_percentile_interval(values[:1], confidence=0.9, num_images=60).low)
    assert np.isnan(make_ratio_statistic(np.ones(2), np.zeros(2))(np.ones(2)))


@pytest.mark.parametrize(("low", "high", "significant"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False)])
def test_a_difference_is_significant_if_the_interval_excludes_zero(low: float, high: float, significant: bool):
    assert ConfidenceInterval(low, high, 0.95).excludes_zero is significant


@pytest.mark.parametrize(("num_images", "confidence", "few"), [(1, 0.5, True), (2, 0.5, False)])
@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_too_few_images_are_never_significant(num_images, confidence, few, value):
    interval = compute_percentile_interval(np.full(40, value), confidence=confidence, num_images=num_images)

    assert (interval.has_too_few_images, interval.excludes_zero) == (few, not few)
    assert compute_percentile_interval(np.ones(9), confidence=0.95, num_images=5).has_too_few_images
    assert not compute_percentile_interval(np.ones(9), confidence=0.95, num_images=6).has_too_few_images
