import pytest

from hrnet_ray.distributed.tuning.search_config import Search
from hrnet_ray.errors import UsageError


def test_a_study_says_how_it_searches():
    assert Search(grace_epochs=2).sentence(12) == (
        "TPE after 8 trials spread evenly; ASHA, one bracket: the best 1/3 go on after epoch 2, 6"
    )
    assert Search(sampler="grid", scheduler="none").sentence(12) == (
        "each combination; no trial is stopped early"
    )
    assert Search(sampler="random", scheduler="median", grace_epochs=3).sentence(12) == (
        "random draws; median stopping from epoch 3, once 3 other trials came as far"
    )
    assert "score against latency, so no trial is stopped" in Search(against_latency=True).sentence(
        12
    )


def test_a_grace_longer_than_the_training_stops_nobody():
    rule = Search(grace_epochs=50).rule(12)

    assert str(rule) == "no trial is stopped early (the first rung is the last epoch)"


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"trials": 0}, "--search.trials 0"),
        ({"grace_epochs": 0}, "--search.grace-epochs 0"),
        ({"reduction": 1}, "--search.reduction 1"),
        ({"at_once": 0}, "--search.at-once 0"),
    ],
)
def test_what_cannot_be_searched_with_is_refused(setting, flag):
    with pytest.raises(UsageError) as refused:
        Search(**setting)

    assert flag in str(refused.value)
