import pytest
from ray import tune

from hrnet_ray.distributed.tuning.search_space import format_sampler, parse_search_space
from hrnet_ray.errors import UsageError


def test_words_become_samplers_with_their_bounds():
    space = parse_search_space(["optim.lr=log(1e-4, 3e-3)", "heatmap.sigma=uniform(1,4)"])

    assert list(space) == ["optim.lr", "heatmap.sigma"]
    assert (space["optim.lr"].lower, space["optim.lr"].upper) == (1e-4, 3e-3)
    assert (space["heatmap.sigma"].lower, space["heatmap.sigma"].upper) == (1.0, 4.0)


def test_a_choice_keeps_numbers_as_numbers_and_words_as_words():
    space = parse_search_space(["optim.batch_size=choice(32,64)", "optim.loss=choice(mse,ohkm)"])

    assert space["optim.batch_size"].categories == [32, 64]
    assert space["optim.loss"].categories == ["mse", "ohkm"]


@pytest.mark.parametrize("entry", ["optim.lr", "optim.lr=log(3,1)", "optim.lr=log(a,b)", "optim.lr=gauss(0,1)"])
def test_what_cannot_be_read_is_quoted(entry):
    with pytest.raises(UsageError) as refused:
        parse_search_space([entry])

    assert f"--space {entry}" in str(refused.value)


@pytest.mark.parametrize(
    "words", ["log(0.0001,0.003)", "uniform(1,4)", "int(1,9)", "choice(32,64)", "choice(mse,ohkm)"]
)
def test_a_sampler_in_words_is_what_it_was_read_from(words: str):
    (sampler,) = parse_search_space([f"optim.lr={words}"]).values()

    assert format_sampler(sampler) == words


def test_samplers_that_differ_differ_in_words():
    kinds = [
        tune.uniform(1, 4),
        tune.loguniform(1, 4),
        tune.quniform(1, 4, 0.5),
        tune.qloguniform(1, 4, 0.5),
        tune.randint(1, 4),
        tune.lograndint(1, 4),
        tune.qrandint(1, 4, 2),
    ]

    assert [format_sampler(kind) for kind in kinds] == [
        "uniform(1,4)",
        "log(1,4)",
        "uniform(1,4,step=0.5)",
        "log(1,4,step=0.5)",
        "int(1,4)",
        "logint(1,4)",
        "int(1,4,step=2)",
    ]


def test_a_setting_is_searched_once():
    with pytest.raises(UsageError) as refused:
        parse_search_space(["optim.lr=log(1e-4,1e-3)", "optim.lr=log(1e-5,1e-2)"])

    assert str(refused.value) == (
        "optim.lr is searched twice\n"
        "  --space optim.lr=log(0.0001,0.001) optim.lr=log(1e-5,1e-2)\n"
        "  fix: leave one of them out"
    )
