import pytest

from hrnet_ray.distributed.tuning.search_config import SearchConfig
from hrnet_ray.errors import UsageError


def test_a_study_says_how_it_searches():
    assert SearchConfig(grace_period=2).describe_search(12) == (
        "TPE after 8 trials spread evenly; ASHA, one bracket: the best 1/3 go on after epoch 2, 6"
    )
    assert SearchConfig(sampler="grid", scheduler="none").describe_search(12) == (
        "each combination; no trial is stopped early"
    )
    assert SearchConfig(sampler="random", scheduler="median", grace_period=3).describe_search(12) == (
        "random draws; median stopping from epoch 3, once 3 other trials came as far"
    )
    assert "score against latency, so no trial is stopped" in SearchConfig(optimize_latency=True).describe_search(12)


def test_a_grace_longer_than_the_training_stops_nobody():
    rule = SearchConfig(grace_period=50).build_stopping_rule(12)

    assert str(rule) == "no trial is stopped early (the first rung is the last epoch)"


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"num_trials": 0}, "--search.num-trials 0"),
        ({"grace_period": 0}, "--search.grace-period 0"),
        ({"reduction_factor": 1}, "--search.reduction-factor 1"),
        ({"max_concurrent_trials": 0}, "--search.max-concurrent-trials 0"),
    ],
)
def test_what_cannot_be_searched_with_is_refused(setting, flag):
    with pytest.raises(UsageError) as refused:
        SearchConfig(**setting)

    assert flag in str(refused.value)
