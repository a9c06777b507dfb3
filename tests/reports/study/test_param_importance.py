from pathlib import Path

import numpy as np

from hrnet_ray.reports.study.axes import build_numeric_axis, build_setting_axis
from hrnet_ray.reports.study.param_importance import compute_param_importances
from hrnet_ray.reports.study.trial_results import load_study
from tests.reports.study.studies import rate_and_sigma, write_study


def test_a_decisive_setting_is_significant_and_an_unused_one_is_not(tmp_path: Path):
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

    importances = {importance.setting: importance for importance in compute_param_importances(study)}

    assert list(importances) == ["heatmap.sigma", "seed"]  # the largest first
    assert importances["heatmap.sigma"].explained_fraction > 0.7
    assert importances["heatmap.sigma"].is_significant
    assert importances["heatmap.sigma"].rank_correlation < -0.9  # a larger sigma is worse
    assert not importances["seed"].is_significant


def test_an_optimum_in_the_middle_counts_without_rank_correlation(tmp_path: Path):
    rates = iter(np.geomspace(6e-5, 6e-3, 21).tolist())
    study = load_study(write_study(tmp_path, trials=21, draw=lambda rng: {"optim.lr": next(rates)}))

    (importance,) = compute_param_importances(study)

    assert abs(importance.rank_correlation) < 0.3
    assert importance.explained_fraction > 0.6
    assert importance.is_significant


def test_few_trials_have_no_importance(tmp_path: Path):
    assert compute_param_importances(load_study(write_study(tmp_path, trials=5))) == []


def test_a_constant_setting_has_no_importance(tmp_path: Path):
    study = load_study(write_study(tmp_path, draw=lambda rng: rate_and_sigma(rng) | {"model.width": 32}))

    assert {importance.setting for importance in compute_param_importances(study)} == {
        "optim.lr",
        "heatmap.sigma",
    }


def test_a_wide_range_is_logarithmic_and_a_narrow_one_is_not():
    wide = build_numeric_axis(np.array([1e-4, 1e-3, 1e-2]), "lr")
    narrow = build_numeric_axis(np.array([1.0, 2.0, 4.0]), "sigma")

    assert wide.positions.tolist() == [0.0, 0.5, 1.0]
    assert np.allclose(narrow.positions, [0, 1 / 3, 1])
    assert (0.5, "0.001") in wide.ticks


def test_categories_are_equidistant_and_sorted_by_value(tmp_path: Path):
    widths = iter([48, 18, 32, 18])
    study = load_study(write_study(tmp_path, trials=4, rungs=(), draw=lambda rng: {"model.width": next(widths)}))

    axis = build_setting_axis(study.trials, "model.width")

    assert axis.is_categorical
    assert [label for _, label in axis.ticks] == ["18", "32", "48"]
    positions = dict(zip((t.sampled_params["model.width"] for t in study.trials), axis.positions, strict=True))
    assert positions == {18: 0.0, 32: 0.5, 48: 1.0}


def test_a_single_value_is_in_the_middle():
    assert build_numeric_axis(np.array([3.0, 3.0]), "sigma").positions.tolist() == [0.5, 0.5]
