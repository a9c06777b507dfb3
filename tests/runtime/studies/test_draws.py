import json
from dataclasses import replace

import pytest
from ray import tune

from hrnet_ray.config import Experiment
from hrnet_ray.errors import UsageError
from hrnet_ray.runtime.studies.draws import at_random, check_space, evenly, grid, warm_points

SPACE = {"optim.lr": tune.loguniform(1e-4, 1e-2), "heatmap.sigma": tune.uniform(1.0, 3.0)}
BASE = Experiment()


def test_even_points_leave_no_quarter_of_the_space_empty():
    points = [evenly(SPACE, number, seed=5) for number in range(1, 13)]

    quarters = {(p["optim.lr"] > 1e-3, p["heatmap.sigma"] > 2.0) for p in points[:6]}
    assert len(quarters) == 4
    for name, low, high in (("optim.lr", 1e-4, 1e-2), ("heatmap.sigma", 1.0, 3.0)):
        assert all(low <= point[name] <= high for point in points)
    assert points[3] == evenly(SPACE, 4, seed=5)
    assert points[3] != evenly(SPACE, 4, seed=6)


@pytest.mark.parametrize("draw", [evenly, at_random])
def test_every_kind_of_sampler_stays_within_its_bounds(draw):
    space = {
        "optim.batch_size": tune.randint(4, 7),
        "model.width": tune.qrandint(16, 48, 16),
        "optim.epochs": tune.lograndint(1, 100),
        "heatmap.sigma": tune.quniform(1.0, 3.0, 0.5),
        "optim.loss": tune.choice(["mse", "ohkm"]),
    }
    drawn = [draw(space, number, seed=0) for number in range(1, 200)]

    assert {point["optim.batch_size"] for point in drawn} == {4, 5, 6}
    assert {point["model.width"] for point in drawn} == {16, 32, 48}
    assert {point["heatmap.sigma"] for point in drawn} == {1.0, 1.5, 2.0, 2.5, 3.0}
    assert {point["optim.loss"] for point in drawn} == {"mse", "ohkm"}
    epochs = sorted(point["optim.epochs"] for point in drawn)
    assert epochs[0] == 1
    assert epochs[-1] < 100
    assert 7 <= epochs[len(epochs) // 2] <= 13  # the middle of 1..100 by its logarithm


def test_a_grid_has_each_combination_once_in_mixed_order():
    space = {"optim.lr": tune.choice([1e-4, 1e-3, 1e-2]), "optim.batch_size": tune.randint(4, 8)}

    points = grid(space, seed=0)

    pairs = [(point["optim.lr"], point["optim.batch_size"]) for point in points]
    assert sorted(pairs) == [(lr, size) for lr in (1e-4, 1e-3, 1e-2) for size in (4, 5, 6, 7)]
    assert pairs != sorted(pairs)
    assert points == grid(space, seed=0)


def test_a_grid_of_bounds_is_refused():
    with pytest.raises(UsageError, match=r"heatmap\.sigma has no choices"):
        grid({"heatmap.sigma": tune.uniform(1, 2)}, seed=0)


def test_what_cannot_be_drawn_from_is_refused():
    for sampler in (tune.grid_search([1, 2]), tune.randn(), 0.5):
        with pytest.raises(UsageError, match="a sampler that a study cannot draw from"):
            check_space(BASE, {"heatmap.sigma": sampler})


def test_a_warm_start_takes_the_best_settings_that_lie_in_the_space(tmp_path):
    trials = [
        {"score": 0.9, "optim.lr": 1.0},  # outside
        {"score": 0.8, "optim.lr": 2e-3},
        {"score": 0.7, "optim.lr": 1e-3},
        {"score": 0.6, "optim.lr": 5e-3},
        {"score": float("nan"), "optim.lr": 1e-3},
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"trials": trials}))
    base = replace(BASE, heatmap=replace(BASE.heatmap, sigma=1.5))

    points, outside = warm_points([str(tmp_path)], SPACE, base, most=3)

    assert points == [
        {"optim.lr": 2e-3, "heatmap.sigma": 1.5},  # not searched there: as it is here
        {"optim.lr": 1e-3, "heatmap.sigma": 1.5},
    ]
    assert outside == 1


def test_a_warm_start_from_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match="a study to start from that is none") as refused:
        warm_points([str(tmp_path)], SPACE, BASE, most=3)

    assert f"--search.warm-start {tmp_path}" in str(refused.value)
