import json
from dataclasses import replace

import numpy as np
import pytest
from ray import tune

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.distributed.tuning.samplers import (
    list_grid_points,
    load_warm_start_points,
    sample_halton,
    sample_random,
    validate_search_space,
)
from hrnet_ray.distributed.tuning.search_space import format_sampler, parse_search_space
from hrnet_ray.errors import UsageError

SPACE = {"optim.lr": tune.loguniform(1e-4, 1e-2), "heatmap.sigma": tune.uniform(1.0, 3.0)}
BASE = ExperimentConfig()


def test_even_points_leave_no_quarter_of_the_space_empty():
    points = [sample_halton(SPACE, number, seed=5) for number in range(1, 13)]

    quarters = {(p["optim.lr"] > 1e-3, p["heatmap.sigma"] > 2.0) for p in points[:6]}
    assert len(quarters) == 4
    for name, low, high in (("optim.lr", 1e-4, 1e-2), ("heatmap.sigma", 1.0, 3.0)):
        assert all(low <= point[name] <= high for point in points)
    assert points[3] == sample_halton(SPACE, 4, seed=5)
    assert points[3] != sample_halton(SPACE, 4, seed=6)


def test_halton_points_are_the_radical_inverses_of_their_index_in_bases_2_and_3_but_for_a_shift():
    square = {"a": tune.uniform(0, 1), "b": tune.uniform(0, 1)}

    points = np.array([list(sample_halton(square, index, seed=5).values()) for index in range(1, 6)])

    expected = np.array([[1 / 2, 1 / 3], [1 / 4, 2 / 3], [3 / 4, 1 / 9], [1 / 8, 4 / 9], [5 / 8, 7 / 9]])
    assert np.allclose((points - points[0]) % 1, (expected - expected[0]) % 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("draw", [sample_halton, sample_random])
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

    points = list_grid_points(space, seed=0)

    pairs = [(point["optim.lr"], point["optim.batch_size"]) for point in points]
    assert sorted(pairs) == [(lr, size) for lr in (1e-4, 1e-3, 1e-2) for size in (4, 5, 6, 7)]
    assert pairs != sorted(pairs)
    assert points == list_grid_points(space, seed=0)


def test_a_grid_of_bounds_is_refused():
    with pytest.raises(UsageError, match=r"heatmap\.sigma has no choices"):
        list_grid_points({"heatmap.sigma": tune.uniform(1, 2)}, seed=0)


def test_what_cannot_be_drawn_from_is_refused():
    for sampler in (tune.grid_search([1, 2]), tune.randn(), 0.5):
        with pytest.raises(UsageError, match="a sampler that a study cannot draw from"):
            validate_search_space(BASE, {"heatmap.sigma": sampler})


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (
            "data.padding=uniform(1.1,1.5)",
            "rows are read, and validation crops are cut, once for all trials",
        ),
        ("optim.epochs=int(3,5)", "early stopping and TPE count on one number for all trials"),
        ("name=choice(a,b)", "trials are named by their numbers"),
    ],
)
def test_what_all_trials_have_in_common_cannot_be_searched(entry: str, why: str):
    with pytest.raises(UsageError) as refused:
        validate_search_space(BASE, parse_search_space([entry]))

    assert str(refused.value) == (
        f"{entry.partition('=')[0]} cannot be searched: {why}\n"
        f"  --space {entry}\n"
        "  fix: leave it out; for several values, run several studies, each with its own --name"
    )


def test_a_group_of_settings_cannot_be_searched():
    with pytest.raises(UsageError) as refused:
        validate_search_space(BASE, {"heatmap": tune.choice([BASE.heatmap])})

    assert refused.value.fix == "search one of heatmap.sigma, heatmap.quantize_center"


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("entry", "what", "fix"),
    [
        (
            "evaluation.decode=choice(dark,quater)",
            "evaluation.decode cannot be 'quater'",
            "give quarter or dark or argmax",
        ),
        ("model.width=uniform(16,64)", "model.width cannot be 16.0", "give an int"),
        ("heatmap.sigma=uniform(0,4)", "heatmap.sigma cannot be 0.0", "give more than 0"),
        (
            "augment.flip_prob=uniform(0,2)",
            "augment.flip_prob cannot be 2.0",
            "give between 0 and 1",
        ),
        ("model.stem=int(0,64)", "model.stem cannot be 0", "give 1 or more"),
        ("optim.lrr=log(1e-4,1e-3)", "no setting 'optim.lrr'", "did you mean 'optim.lr'?"),
    ],
)
def test_a_value_that_no_trial_could_have_is_refused_before_there_are_any(entry: str, what: str, fix: str):
    space = parse_search_space([entry])

    with pytest.raises(UsageError) as refused:
        validate_search_space(BASE, space)

    (words,) = (f"--space {name}={format_sampler(sampler)}" for name, sampler in space.items())
    assert str(refused.value) == f"{what}\n  {words}\n  fix: {fix}"


@pytest.mark.usefixtures("as_shipped")
def test_all_other_settings_can_be_searched():
    space = {
        "heatmap.sigma": tune.choice([1, 2.5]),
        "model.width": tune.qrandint(16, 48, 16),
        "model.modules": tune.choice([(1, 1, 1), [1, 4, 3]]),
        "model.pretrained": tune.choice([None, "w32.pth"]),
        "augment.half_body_min_visible": tune.randint(5, 10),
        "augment.flip_prob": tune.uniform(0, 1),
        "optim.loss": tune.choice(["mse", "ohkm"]),
        "optim.warmup_steps": tune.lograndint(1, 100),
        "evaluation.flip_test": tune.choice([True, False]),
        "seed": tune.randint(0, 3),
    }

    validate_search_space(BASE, space)


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

    points, outside = load_warm_start_points([str(tmp_path)], SPACE, base, top_k=3)

    assert points == [
        {"optim.lr": 2e-3, "heatmap.sigma": 1.5},  # not searched there: as it is here
        {"optim.lr": 1e-3, "heatmap.sigma": 1.5},
    ]
    assert outside == 1


def test_a_warm_start_from_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match="a study to start from that is none") as refused:
        load_warm_start_points([str(tmp_path)], SPACE, BASE, top_k=3)

    assert f"--search.warm-start {tmp_path}" in str(refused.value)
