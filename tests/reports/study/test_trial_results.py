import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray.errors import DataError
from hrnet_ray.reports.study.learning_curves import format_duration, group_trials_by_rung
from hrnet_ray.reports.study.per_keypoint import (
    find_best_trial_per_keypoint,
    select_comparable_trials,
    select_sort_setting,
)
from hrnet_ray.reports.study.summary_cards import describe_best_trial
from hrnet_ray.reports.study.trial_results import TrialOutcome, TrialResult, load_study
from tests.reports.study.studies import write_study


def test_trials_stand_best_first_and_the_failed_one_last_with_its_reason(tmp_path: Path):
    study = load_study(write_study(tmp_path, failed={5: "its loss is nan"}))

    scores = [trial.score for trial in study.scored_trials]
    assert scores == sorted(scores, reverse=True)
    assert (study.trials[-1].name, study.trials[-1].error) == ("05", "its loss is nan")
    assert {ending: len(study.select_by_outcome(ending)) for ending in TrialOutcome} == {
        TrialOutcome.COMPLETED: 2,
        TrialOutcome.STOPPED: 9,
        TrialOutcome.FAILED: 1,
    }
    assert study.searched_settings == ["optim.lr", "heatmap.sigma"]


def test_epochs_and_seconds_add_up(tmp_path: Path):
    study = load_study(write_study(tmp_path, failed={5: "nan"}, epochs=24, rungs=(3, 9)))

    assert study.epochs_run == 7 * 3 + 2 * 9 + 2 * 24 + 3
    assert study.epochs_planned == 12 * 24
    assert {epoch: len(stopped) for epoch, stopped in group_trials_by_rung(study).items()} == {
        3: 7,
        9: 2,
    }
    stopped = group_trials_by_rung(study)[9][0]
    seconds = sum(entry["perf/epoch_s"] for entry in stopped.epoch_records)
    assert stopped.duration_s == pytest.approx(seconds)
    assert stopped.time_saved_s == pytest.approx(seconds / 9 * 15)
    assert study.best_trial.time_saved_s == 0


def test_all_are_alike_after_the_epochs_of_the_shortest(tmp_path: Path):
    study = load_study(write_study(tmp_path, rungs=(4, 9)))

    assert study.common_epochs == 4
    first = study.best_trial.score_curve[:4]
    assert (
        study.best_trial.get_best_score_within(4)
        == max(score for _, score in first)
        < study.best_trial.score
    )
    assert math.isnan(study.best_trial.get_best_score_within(0))


def test_an_epoch_that_was_done_twice_counts_once_and_half_a_line_not_at_all(tmp_path: Path):
    write_study(tmp_path, trials=1, rungs=(), epochs=4)
    path = tmp_path / "trials" / "01" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    again = json.dumps(json.loads(lines[3]) | {"perf/epoch_s": 100.0})
    path.write_text("\n".join([*lines, again, lines[0][:30]]))

    trial = load_study(tmp_path).best_trial

    assert [entry["epoch"] for entry in trial.epoch_records] == [0, 1, 2, 3]
    assert trial.epoch_records[3]["perf/epoch_s"] == 100.0


def test_a_list_of_trials_that_is_not_there_is_an_error_with_a_way_out(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        load_study(tmp_path)

    assert caught.value.what == "a list of trials that cannot be read"
    assert "repeat the command" in caught.value.fix


def test_a_study_without_any_score_is_refused(tmp_path: Path):
    write_study(tmp_path, trials=2, rungs=(), failed={1: "nan", 2: "nan"})

    with pytest.raises(DataError, match="no trial with a score"):
        load_study(tmp_path)


def test_what_else_trials_csv_says_is_kept(tmp_path: Path):
    write_study(tmp_path, trials=3, rungs=())
    path = tmp_path / "trials.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*lines[0], "latency_ms"])
        table.writeheader()
        table.writerows([line | {"latency_ms": "12.5"} for line in lines])

    assert load_study(tmp_path).best_trial.extra_columns == {"latency_ms": "12.5"}


def test_a_keypoint_is_won_by_who_finds_it_best_and_sigma_orders_the_trials(tmp_path: Path):
    study = load_study(write_study(tmp_path, rungs=()))

    trials = select_comparable_trials(study)
    winners = {winner.keypoint: winner for winner in find_best_trial_per_keypoint(study)}

    assert select_sort_setting(study) == "heatmap.sigma"
    sigmas = [trial.sampled_params["heatmap.sigma"] for trial in trials]
    assert sigmas == sorted(sigmas)
    assert len(trials) == 12
    assert len(winners) == 15
    for name, winner in winners.items():
        assert winner.score == max(trial.keypoint_scores[name] for trial in trials)
        assert winner.best_trial_gap == winner.score - study.best_trial.keypoint_scores[name] >= 0
        assert winner.trial in winner.tied_trials
    assert any(winner.trial is not study.best_trial for winner in winners.values())


def test_keypoints_are_those_of_the_trials_that_ran_longest(tmp_path: Path):
    study = load_study(write_study(tmp_path, rungs=(3, 9)))

    chosen = {trial.name for trial in select_comparable_trials(study)}

    assert len(chosen) == 6  # two to the end, the rest by their scores
    assert chosen == {trial.name for trial in study.scored_trials[:6]}


def test_without_sigma_the_first_number_orders_and_without_any_the_score(tmp_path: Path):
    rate = write_study(
        tmp_path / "a", draw=lambda rng: {"optim.lr": float(rng.uniform(1e-4, 1e-3))}
    )
    choice = write_study(
        tmp_path / "b", draw=lambda rng: {"optim.optimizer": str(rng.choice(["adam", "adamw"]))}
    )

    assert select_sort_setting(load_study(rate)) == "optim.lr"
    assert select_sort_setting(load_study(choice)) is None
    assert (
        select_comparable_trials(load_study(choice))[0].name == load_study(choice).best_trial.name
    )


def test_a_trial_that_failed_after_a_score_keeps_both():
    trial = TrialResult(
        name="01",
        sampled_params={},
        settings={"optim.epochs": 9},
        metric="OKS_AP",
        score=0.5,
        best_epoch=1,
        epoch_records=[],
        error="lost its worker",
        extra_columns={},
    )

    assert trial.has_score
    assert trial.outcome is TrialOutcome.FAILED


def test_what_the_study_noted_of_a_trials_time_counts(tmp_path: Path):
    write_study(tmp_path, trials=2, rungs=(), epochs=4)
    path = tmp_path / "trials.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*lines[0], "stopped_by", "started_at", "seconds"])
        table.writeheader()
        for line in lines:
            noted = {"started_at": "2025-10-09T08:53:00+00:00", "seconds": "500.5"}
            table.writerow(line | noted | {"stopped_by": "asha"})

    study = load_study(tmp_path)

    last_ms = max(trial.epoch_records[-1]["at_ms"] for trial in study.trials)
    assert [trial.duration_s for trial in study.trials] == [500.5, 500.5]
    assert study.best_trial.stopped_by == "asha"
    assert study.best_trial.extra_columns == {}
    assert study.wall_s == max(last_ms / 1000 - 1_760_000_000 + 20, 500.5)


def test_trials_that_came_to_the_same_have_no_winner(tmp_path: Path):
    study = load_study(write_study(tmp_path, trials=3, rungs=()))
    first = study.best_trial
    tied = replace(study, trials=[first, replace(study.trials[1], score=first.score), study.trials[2]])

    assert describe_best_trial(study).startswith(f"Trial #{first.name} won with optim.lr ")
    assert describe_best_trial(tied).startswith("No trial won: 2 of 3 came to the same OKS_AP ")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(47.6, "48 s"), (200.0, "3 min 20 s"), (2712.0, "45 min"), (7500.0, "2 h 05 min")],
)
def test_a_duration_is_said_for_people(seconds: float, said: str):
    assert format_duration(seconds) == said
