import random

import pytest
from ray.tune.schedulers.async_hyperband import _Bracket

from hrnet_ray.runtime.early_stopping import Halving, Median, Score, replay, score_of


class _Trial:
    def __init__(self, trial_id):
        self.trial_id = trial_id


@pytest.mark.parametrize(("grace", "reduction", "epochs"), [(1, 3, 12), (2, 2, 9), (10, 3, 210)])
def test_halving_decides_as_rays_asha_does(grace, reduction, epochs):
    ours = Halving(grace=grace, reduction=reduction, epochs=epochs)
    rays = _Bracket(grace, epochs + 1, reduction, 0)
    chance = random.Random(0)
    going = {f"{number:02d}": 0 for number in range(30)}
    stopped = 0
    while going:
        trial = chance.choice(list(going))
        going[trial] += 1
        if going[trial] == epochs:  # nothing is left to decide
            del going[trial]
            continue
        score = chance.random()
        stops = ours.stops(trial, Score(going[trial], score))
        assert stops == (rays.on_result(_Trial(trial), going[trial], score) == "STOP")
        if stops:
            stopped += 1
            del going[trial]
    assert 10 <= stopped < 30


def test_the_rungs_are_said_and_none_is_at_the_last_epoch():
    rule = Halving(grace=1, reduction=3, epochs=9)

    assert rule.rungs == [1, 3]
    assert str(rule) == "ASHA, one bracket: the best 1/3 go on after epoch 1, 3"


def test_a_rule_filled_from_the_past_decides_as_if_it_had_been_there():
    past = [(3, "03", Score(1, 0.2)), (1, "01", Score(1, 0.4)), (2, "02", Score(1, 0.6))]
    there, later = (Halving(grace=1, reduction=2, epochs=9) for _ in range(2))
    decided = [there.stops(trial, score) for _, trial, score in sorted(past)]
    replay(later, past)

    assert decided == [False, False, True]
    for trial, value in (("04", 0.39), ("05", 0.41), ("06", 0.40)):
        score = Score(1, value)
        assert there.stops(trial, score) == later.stops(trial, score) == (value < 0.4)


def test_a_trial_is_judged_once_at_a_rung():
    rule = Halving(grace=2, reduction=2, epochs=20)
    rule.stops("01", Score(2, 0.5))

    assert rule.stops("02", Score(2, 0.1))
    assert not rule.stops("02", Score(3, 0.1))  # it goes on after a restart


def test_the_median_of_three_others_decides():
    rule = Median(grace=2)
    for trial, value in (("01", 0.2), ("02", 0.4)):
        for epoch in (1, 2, 3):
            rule.stops(trial, Score(epoch, value))
    assert not rule.stops("04", Score(3, 0.0))  # two others only
    for epoch in (1, 2, 3):
        rule.stops("03", Score(epoch, 0.6))

    assert not rule.stops("05", Score(1, 0.0))  # in its grace
    assert rule.stops("05", Score(2, 0.39))
    assert not rule.stops("06", Score(2, 0.4))


def test_what_an_epoch_was_worth():
    entry = {"train/loss": 0.1, "objective": 0.7, "epochs_done": 3}

    assert score_of(entry) is None  # not validated: the objective is of an earlier epoch
    assert score_of(entry | {"val/OKS_AP": 0.7}) == Score(3, 0.7)
    assert score_of(entry | {"train/loss": float("nan")}) == Score(3, 0.0)
