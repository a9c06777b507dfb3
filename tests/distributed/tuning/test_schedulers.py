import random

import pytest

from hrnet_ray.distributed.tuning.schedulers import (
    MedianStopping,
    SuccessiveHalving,
    TrialScore,
    extract_score,
    replay_scores,
)


def _run(order, *, rule, epochs):
    """Train trials of these qualities one after the other, as a study does; epochs of each."""
    trained = dict.fromkeys(order, 0)
    undrawn, waiting, going = list(order), set(), None
    while True:
        going = rule.next_to_resume(waiting, no_more_trials=not undrawn) or (undrawn.pop(0) if undrawn else None)
        if going is None:
            return trained
        waiting.discard(going)
        while trained[going] < epochs:
            trained[going] += 1
            if rule.should_stop(going, TrialScore(trained[going], order[going])):
                waiting.add(going)
                break


@pytest.mark.parametrize("seed", range(20))
def test_halving_finds_the_best_of_twelve_in_far_fewer_epochs_whatever_their_order(seed):
    qualities = {f"{number:02d}": number / 12 for number in range(12)}
    names = list(qualities)
    random.Random(seed).shuffle(names)
    order = {name: qualities[name] for name in names}

    trained = _run(order, rule=SuccessiveHalving(grace_period=2, reduction_factor=3, epochs=16), epochs=16)

    assert trained["11"] == 16
    assert min(trained.values()) == 2
    assert sum(trained.values()) <= 0.4 * 12 * 16


def test_a_trial_that_waits_goes_on_when_it_is_among_the_best():
    rule = SuccessiveHalving(grace_period=1, reduction_factor=2, epochs=9)

    assert rule.should_stop("01", TrialScore(1, 0.5))  # half of one is nobody
    assert rule.next_to_resume({"01"}, no_more_trials=False) is None
    assert rule.should_stop("02", TrialScore(1, 0.4))
    assert rule.next_to_resume({"01", "02"}, no_more_trials=False) == "01"
    assert not rule.should_stop("03", TrialScore(1, 0.6))
    assert rule.should_stop("03", TrialScore(2, 0.6))
    assert rule.next_to_resume({"02", "03"}, no_more_trials=False) is None
    assert rule.next_to_resume({"02", "03"}, no_more_trials=True) == "03"  # nobody comes to compare it with


def test_the_rungs_are_said_and_none_is_at_the_last_epoch():
    rule = SuccessiveHalving(grace_period=1, reduction_factor=3, epochs=9)

    assert rule.rungs == [1, 3]
    assert str(rule) == "ASHA, one bracket: the best 1/3 go on after epoch 1, 3"


def test_a_rule_filled_from_the_past_decides_as_if_it_had_been_there():
    past = [
        (3, "03", TrialScore(1, 0.2)),
        (1, "01", TrialScore(1, 0.4)),
        (2, "02", TrialScore(1, 0.6)),
    ]
    there, later = (SuccessiveHalving(grace_period=1, reduction_factor=2, epochs=9) for _ in range(2))
    decided = [there.should_stop(trial, score) for _, trial, score in sorted(past)]
    replay_scores(later, past)

    assert decided == [True, False, True]
    for trial, value in (("04", 0.5), ("05", 0.7), ("06", 0.1)):
        score = TrialScore(1, value)
        assert there.should_stop(trial, score) == later.should_stop(trial, score) == (value < 0.4)


def test_a_trial_is_judged_once_at_a_rung():
    rule = SuccessiveHalving(grace_period=2, reduction_factor=2, epochs=20)
    rule.should_stop("01", TrialScore(2, 0.5))

    assert rule.should_stop("02", TrialScore(2, 0.1))
    assert not rule.should_stop("02", TrialScore(3, 0.1))  # it goes on after a restart


def test_the_median_of_three_others_decides():
    rule = MedianStopping(grace_period=2)
    for trial, value in (("01", 0.2), ("02", 0.4)):
        for epoch in (1, 2, 3):
            rule.should_stop(trial, TrialScore(epoch, value))
    assert not rule.should_stop("04", TrialScore(3, 0.0))  # two others only
    for epoch in (1, 2, 3):
        rule.should_stop("03", TrialScore(epoch, 0.6))

    assert not rule.should_stop("05", TrialScore(1, 0.0))  # in its grace
    assert rule.should_stop("05", TrialScore(2, 0.39))
    assert not rule.should_stop("06", TrialScore(2, 0.4))


def test_what_an_epoch_was_worth():
    entry = {"train/loss": 0.1, "objective": 0.7, "epochs_done": 3}

    assert extract_score(entry) is None  # not validated: the objective is of an earlier epoch
    assert extract_score(entry | {"val/OKS_AP": 0.7}) == TrialScore(3, 0.7)
    assert extract_score(entry | {"train/loss": float("nan")}) == TrialScore(3, 0.0)
