from pathlib import Path

import numpy as np

from hrnet_ray.reports.study.axes import build_numeric_axis, build_setting_axis
from hrnet_ray.reports.study.param_importance import compute_param_importances
from hrnet_ray.reports.study.trial_results import load_study
from tests.reports.study.studies import rate_and_sigma, write_study


def test_what_decides_matters_and_what_does_nothing_does_not(tmp_path: Path):
    study = load_study(
        write_study(
            tmp_path,
            trials=24,
            draw=lambda rng: {
                "heatmap.sigma": float(rng.uniform(2, 4)),
                "seed": int(rng.integers(1000)),
            },
        )
    )

    weights = {weight.setting: weight for weight in compute_param_importances(study)}

    assert list(weights) == ["heatmap.sigma", "seed"]  # the heaviest first
    assert weights["heatmap.sigma"].explained_fraction > 0.7
    assert weights["heatmap.sigma"].is_significant
    assert weights["heatmap.sigma"].rank_correlation < -0.9  # a larger sigma is worse
    assert not weights["seed"].is_significant


def test_a_best_value_in_the_middle_is_seen_where_no_rank_correlation_is(tmp_path: Path):
    rates = iter(np.geomspace(6e-5, 6e-3, 21).tolist())
    study = load_study(write_study(tmp_path, trials=21, draw=lambda rng: {"optim.lr": next(rates)}))

    (weight,) = compute_param_importances(study)

    assert abs(weight.rank_correlation) < 0.3
    assert weight.explained_fraction > 0.6
    assert weight.is_significant


def test_few_trials_say_nothing(tmp_path: Path):
    assert compute_param_importances(load_study(write_study(tmp_path, trials=5))) == []


def test_a_setting_that_never_changed_has_no_weight(tmp_path: Path):
    study = load_study(
        write_study(tmp_path, draw=lambda rng: rate_and_sigma(rng) | {"model.width": 32})
    )

    assert {weight.setting for weight in compute_param_importances(study)} == {
        "optim.lr",
        "heatmap.sigma",
    }


def test_a_wide_range_is_logarithmic_and_a_narrow_one_is_not():
    wide = build_numeric_axis(np.array([1e-4, 1e-3, 1e-2]), "lr")
    narrow = build_numeric_axis(np.array([1.0, 2.0, 4.0]), "sigma")

    assert wide.positions.tolist() == [0.0, 0.5, 1.0]
    assert np.allclose(narrow.positions, [0, 1 / 3, 1])
    assert (0.5, "0.001") in wide.ticks


def test_choices_stand_at_equal_distances_in_the_order_of_their_size(tmp_path: Path):
    widths = iter([48, 18, 32, 18])
    study = load_study(
        write_study(tmp_path, trials=4, rungs=(), draw=lambda rng: {"model.width": next(widths)})
    )

    axis = build_setting_axis(study.trials, "model.width")

    assert axis.is_categorical
    assert [said for _, said in axis.ticks] == ["18", "32", "48"]
    places = dict(
        zip((t.sampled_params["model.width"] for t in study.trials), axis.positions, strict=True)
    )
    assert places == {18: 0.0, 32: 0.5, 48: 1.0}


def test_one_value_stands_in_the_middle():
    assert build_numeric_axis(np.array([3.0, 3.0]), "sigma").positions.tolist() == [0.5, 0.5]
