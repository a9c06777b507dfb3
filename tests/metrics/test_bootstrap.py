"""Intervals that are as wide as they should be, and the same each time."""

import numpy as np
import pytest

from hrnet_ray.metrics.bootstrap import (
    ConfidenceInterval,
    compute_bootstrap_samples,
    compute_percentile_interval,
    make_ratio_statistic,
    sum_per_image,
)


def mean_of(values: np.ndarray):
    return make_ratio_statistic(values, np.ones(len(values)))


def test_the_spread_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(3).normal(0.5, 0.2, 400)

    (draws,) = compute_bootstrap_samples([mean_of(values)], num_images=400)

    assert draws.mean() == pytest.approx(values.mean(), abs=0.002)
    assert draws.std() == pytest.approx(values.std() / 20, rel=0.1)
    found = compute_percentile_interval(draws, confidence=0.95, num_images=60)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert found.low < values.mean() < found.high


def test_an_interval_is_wider_where_it_must_be_surer():
    (draws,) = compute_bootstrap_samples([mean_of(np.arange(50.0))], num_images=50)

    wide, narrow = (compute_percentile_interval(draws, confidence=share, num_images=60) for share in (0.99, 0.5))

    assert wide.low < narrow.low < 24.5 < narrow.high < wide.high
    assert wide.confidence == 0.99


def test_one_seed_has_one_answer():
    values = np.random.default_rng(0).random(30)

    same = [compute_bootstrap_samples([mean_of(values)], num_images=30, resamples=50, seed=7) for _ in range(2)]
    other = compute_bootstrap_samples([mean_of(values)], num_images=30, resamples=50, seed=8)

    np.testing.assert_array_equal(*same)
    assert not np.array_equal(same[0], other)


def test_models_are_drawn_the_same_pictures_so_what_is_hard_for_both_cancels_out():
    rng = np.random.default_rng(1)
    hard = rng.normal(0.5, 0.3, 200)
    better = hard + 0.01 + rng.normal(0, 0.02, 200)

    one, other = compute_bootstrap_samples([mean_of(better), mean_of(hard)], num_images=200)

    apart = [compute_percentile_interval(values, confidence=0.95, num_images=60) for values in (one, other)]
    assert apart[0].low < apart[1].high  # each on its own, they look alike
    assert compute_percentile_interval(one - other, confidence=0.95, num_images=60).excludes_zero


def test_a_model_against_itself_differs_by_nothing():
    values = np.random.default_rng(1).random(20)

    one, other = compute_bootstrap_samples([mean_of(values)] * 2, num_images=20, resamples=20)
    found = compute_percentile_interval(one - other, confidence=0.9, num_images=60)

    assert (found.low, found.high, found.excludes_zero) == (0.0, 0.0, False)


def test_pictures_are_drawn_not_instances():
    """Ten images of a hundred instances that agree: the figure is as unsure as ten are."""
    of_picture = np.linspace(0, 1, 10)
    values, picture = np.repeat(of_picture, 100), np.repeat(np.arange(10), 100)
    total = sum_per_image(values, picture, num_images=10)
    seen = sum_per_image(np.ones(1000), picture, num_images=10)

    (draws,) = compute_bootstrap_samples([make_ratio_statistic(total, seen)], num_images=10)

    assert draws.std() == pytest.approx(of_picture.std() / 10**0.5, rel=0.1)


def test_draws_with_nothing_to_score_do_not_count():
    values = np.array([np.nan, 0.5, 0.5, np.nan])

    assert compute_percentile_interval(values, confidence=0.9, num_images=60) == ConfidenceInterval(0.5, 0.5, 0.9)
    assert np.isnan(compute_percentile_interval(values[:1], confidence=0.9, num_images=60).low)
    assert np.isnan(make_ratio_statistic(np.ones(2), np.zeros(2))(np.ones(2)))


@pytest.mark.parametrize(("low", "high", "beyond"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False)])
def test_a_difference_is_beyond_noise_when_zero_is_not_within(low: float, high: float, beyond: bool):
    assert ConfidenceInterval(low, high, 0.95).excludes_zero is beyond


@pytest.mark.parametrize(("pictures", "confidence", "few"), [(1, 0.5, True), (2, 0.5, False)])
@pytest.mark.parametrize("lean", [-1.0, 1.0])
def test_a_few_pictures_that_lean_one_way_tell_nothing(pictures, confidence, few, lean):
    found = compute_percentile_interval(np.full(40, lean), confidence=confidence, num_images=pictures)

    assert (found.has_too_few_images, found.excludes_zero) == (few, not few)
    assert compute_percentile_interval(np.ones(9), confidence=0.95, num_images=5).has_too_few_images
    assert not compute_percentile_interval(np.ones(9), confidence=0.95, num_images=6).has_too_few_images
