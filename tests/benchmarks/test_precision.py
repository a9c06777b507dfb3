"""What counts as noise between seeds."""

import pytest

from benchmarks.precision import noise


def test_samples_that_do_not_vary_have_no_noise():
    assert noise([0.5, 0.5, 0.5], [0.4, 0.4, 0.4]) == 0.0


def test_the_bound_is_welchs():
    # Two samples of three with variance 1: 4 degrees of freedom, t = 2.776, sqrt(2 / 3).
    assert noise([0.0, 1.0, 2.0], [5.0, 6.0, 7.0]) == pytest.approx(2.776 * (2 / 3) ** 0.5, rel=1e-3)
