"""Test the simulated comparison of our successive halving with Ray's rule."""

import numpy as np
import pytest

from benchmarks.search import RayHalving, SimulatedStudy, compare_stopping_rules, run_simulated_study
from hrnet_ray.distributed.tuning.schedulers import SuccessiveHalving

THREE_TRIALS = SimulatedStudy(trials=3, epochs=4, grace_period=1, reduction_factor=3, concurrent_trials=1)


@pytest.mark.parametrize(
    ("final_scores", "rays_epochs"),
    [([0.9, 0.6, 0.3], 4 + 1 + 1), ([0.3, 0.6, 0.9], 4 + 4 + 4)],  # Ray's rule never pauses a trial that leads so far
)
def test_only_rays_rule_trains_more_when_the_best_trial_comes_last(final_scores: list[float], rays_epochs: int):
    curves = np.tile(np.array(final_scores)[:, None], (1, THREE_TRIALS.epochs))

    assert run_simulated_study(SuccessiveHalving, THREE_TRIALS, curves) == (4 + 1 + 1, 0.9)
    assert run_simulated_study(RayHalving, THREE_TRIALS, curves) == (rays_epochs, 0.9)


def test_rays_rule_trains_more_epochs_for_the_same_best_score():
    figures = compare_stopping_rules(range(5))

    for study in ("benchmark", "default"):
        assert figures[f"{study}_epochs_ratio_median"] > 1.2
        assert abs(figures[f"{study}_score_gap_median"]) < 0.02
