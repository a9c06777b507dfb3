"""How much the loop of a training is slowed down by servers that fail."""

import pytest

from benchmarks.spool import ALONE, FAILURES, summary


def test_the_worst_failure_counts_by_its_fastest_round_and_its_median_processor_time():
    walls = {ALONE: [2.0, 1.0, 9.0], **{way: [1.5, 1.0] for way in FAILURES}, "hangs": [1.25, 8.0]}
    processors = {ALONE: [1.0, 1.0, 5.0], **{way: [1.0] for way in FAILURES}, "slow": [1.5]}

    found = summary(walls, processors)

    assert found["slowdown_frac"] == pytest.approx(0.25)
    assert found["slowdown_processor_frac"] == pytest.approx(0.5)
