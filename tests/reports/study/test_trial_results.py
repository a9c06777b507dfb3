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


def test_trials_are_sorted_by_score_and_the_failed_one_is_last(tmp_path: Path):
    study = load_study(write_study(tmp_path, failed={5: "its loss is nan"}))

    scores = [trial.score for trial in study.scored_trials]
    assert scores == sorted(scores, reverse=True)
    assert (study.trials[-1].name, study.trials[-1].error) == ("05", "its loss is nan")
    assert {outcome: len(study.select_by_outcome(outcome)) for outcome in TrialOutcome} == {
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


def test_common_epochs_are_those_of_the_shortest_trial(tmp_path: Path):
    study = load_study(write_study(tmp_path, rungs=(4, 9)))

    assert study.common_epochs == 4
    first = study.best_trial.score_curve[:4]
    assert study.best_trial.get_best_score_within(4) == max(score for _, score in first) < study.best_trial.score
    assert math.isnan(study.best_trial.get_best_score_within(0))


def test_a_repeated_epoch_counts_once_and_a_partial_line_not_at_all(tmp_path: Path):
    write_study(tmp_path, trials=1, rungs=(), epochs=4)
    path = tmp_path / "trials" / "01" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    again = json.dumps(json.loads(lines[3]) | {"perf/epoch_s": 100.0})
    path.write_text("\n".join([*lines, again, lines[0][:30]]))

    trial = load_study(tmp_path).best_trial

    assert [entry["epoch"] for entry in trial.epoch_records] == [1, 2, 3, 4]
    assert trial.epoch_records[3]["perf/epoch_s"] == 100.0


def test_a_missing_list_of_trials_is_an_error_with_a_fix(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        load_study(tmp_path)

    assert caught.value.what == "the list of trials cannot be read"
    assert "run the `hrnet-ray tune` command again" in caught.value.fix


def test_a_study_without_any_score_is_refused(tmp_path: Path):
    write_study(tmp_path, trials=2, rungs=(), failed={1: "nan", 2: "nan"})

    with pytest.raises(DataError, match="no trial has a score"):
        load_study(tmp_path)


def test_further_columns_of_trials_csv_are_kept(tmp_path: Path):
    write_study(tmp_path, trials=3, rungs=())
    path = tmp_path / "trials.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*lines[0], "latency_ms"])
        table.writeheader()
        table.writerows([line | {"latency_ms": "12.5"} for line in lines])

    assert load_study(tmp_path).best_trial.extra_columns == {"latency_ms": "12.5"}


def test_each_keypoint_has_its_best_trial_and_heatmap_sigma_sorts_the_trials(tmp_path: Path):
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


def test_keypoints_are_compared_for_completed_trials_first(tmp_path: Path):
    study = load_study(write_study(tmp_path, rungs=(3, 9)))

    selected = {trial.name for trial in select_comparable_trials(study)}

    assert len(selected) == 6  # two completed ones, the rest by score
    assert selected == {trial.name for trial in study.scored_trials[:6]}


def test_without_heatmap_sigma_the_first_number_sorts_and_without_any_the_score(tmp_path: Path):
    with_number = write_study(tmp_path / "a", draw=lambda rng: {"optim.lr": float(rng.uniform(1e-4, 1e-3))})
    with_category = write_study(
        tmp_path / "b", draw=lambda rng: {"optim.optimizer": str(rng.choice(["adam", "adamw"]))}
    )

    assert select_sort_setting(load_study(with_number)) == "optim.lr"
    assert select_sort_setting(load_study(with_category)) is None
    assert select_comparable_trials(load_study(with_category))[0].name == load_study(with_category).best_trial.name


def test_a_trial_that_failed_after_a_score_keeps_both():
    trial = TrialResult(
        name="01",
        sampled_params={},
        settings={"optim.epochs": 9},
        metric="OKS_AP",
        score=0.5,
        best_epoch=2,
        epoch_records=[],
        error="worker failed",
        extra_columns={},
    )

    assert trial.has_score
    assert trial.outcome is TrialOutcome.FAILED


def test_recorded_trial_times_are_used(tmp_path: Path):
    write_study(tmp_path, trials=2, rungs=(), epochs=4)
    path = tmp_path / "trials.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*lines[0], "stopped_by", "started_at", "seconds"])
        table.writeheader()
        for line in lines:
            recorded = {"started_at": "2025-10-09T08:53:00+00:00", "seconds": "500.5"}
            table.writerow(line | recorded | {"stopped_by": "asha"})

    study = load_study(tmp_path)

    last_ms = max(trial.epoch_records[-1]["at_ms"] for trial in study.trials)
    assert [trial.duration_s for trial in study.trials] == [500.5, 500.5]
    assert study.best_trial.stopped_by == "asha"
    assert study.best_trial.extra_columns == {}
    assert study.wall_s == max(last_ms / 1000 - 1_760_000_000 + 20, 500.5)


def test_trials_with_equal_scores_have_no_single_best(tmp_path: Path):
    study = load_study(write_study(tmp_path, trials=3, rungs=()))
    first = study.best_trial
    tied = replace(study, trials=[first, replace(study.trials[1], score=first.score), study.trials[2]])

    assert describe_best_trial(study).startswith(f"Trial #{first.name} is the best, with optim.lr ")
    assert describe_best_trial(tied).startswith("No single best trial: 2 of 3 reached the same OKS_AP ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(47.6, "48 s"), (200.0, "3 min 20 s"), (2712.0, "45 min"), (7500.0, "2 h 05 min")],
)
def test_a_duration_is_readable(seconds: float, text: str):
    assert format_duration(seconds) == text
