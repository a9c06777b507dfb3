"""What is drawn and learnt, without Ray: the trials' folders are written by hand."""

import json
from dataclasses import replace

import optuna
import pytest
from ray import tune

from hrnet_ray.distributed.tuning.latency import LATENCY_METRIC
from hrnet_ray.distributed.tuning.search_algorithm import ResumableSearcher
from hrnet_ray.distributed.tuning.search_config import SearchConfig
from hrnet_ray.distributed.tuning.trial_records import (
    get_trials_dir,
    mark_ended,
    mark_failed,
    read_trial_records,
    update_trial_record,
)
from hrnet_ray.errors import DataError, TrainingDivergedError

SPACE = {"optim.lr": tune.loguniform(1e-4, 1e-2), "heatmap.sigma": tune.uniform(1.0, 3.0)}
EPOCHS = 4


def _searcher(study, **search):
    points = search.pop("points", [])
    search = {"scheduler": "none"} | search if "grace_period" not in search else search
    return ResumableSearcher(study, SPACE, SearchConfig(**search), points, epochs=EPOCHS)


def _trains(study, number, scores, **more):
    lines = [
        {
            "at_ms": 1000 * int(number) + epoch,
            "epoch": epoch,
            "epochs_done": epoch + 1,
            "train/loss": 1.0,
            "val/OKS_AP": score,
            "objective": score,
            **more,
        }
        for epoch, score in enumerate(scores)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (get_trials_dir(study) / number / "metrics.jsonl").write_text(text)


def _ends(searcher, study, tune_id, number, scores, **more):
    _trains(study, number, scores, **more)
    searcher.on_trial_complete(tune_id)
    update_trial_record(study, number, mark_ended)


def _states(searcher):
    return [(trial.state.name, trial.value) for trial in searcher.build_optuna_study().trials]


def test_a_draw_is_on_disk_before_the_trial_begins(tmp_path):
    drawn = _searcher(tmp_path).suggest("a")

    note = read_trial_records(tmp_path)["01"]
    assert drawn == {**note.sampled_params, "number": "01"}
    assert note.state == "running"


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_that_was_killed_draws_what_it_would_have_drawn(tmp_path, sampler):
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def run(study, searcher, ids):
        drawn = []
        for tune_id in ids:
            settings = searcher.suggest(tune_id)
            _ends(searcher, study, tune_id, settings["number"], [settings["heatmap.sigma"] / 10] * 4)
            drawn.append(settings)
        return drawn

    settings = {"sampler": sampler, "n_startup_trials": 3, "num_trials": 8}
    calm = run(whole, _searcher(whole, **settings), "abcdefgh")
    first = run(killed, _searcher(killed, **settings), "abcd")
    second = run(killed, _searcher(killed, **settings), "efgh")

    assert first + second == calm
    assert len({draw["optim.lr"] for draw in calm}) == 8


def test_trials_that_had_not_ended_go_on_before_new_ones_are_drawn(tmp_path):
    before = _searcher(tmp_path)
    one, two, three = (before.suggest(tune_id) for tune_id in "abc")
    _ends(before, tmp_path, "b", "02", [0.1, 0.2, 0.3, 0.4])
    update_trial_record(tmp_path, "03", lambda note: mark_ended(mark_failed(note, RuntimeError("no luck"))))

    after = _searcher(tmp_path)

    assert after.suggest("d") == one
    assert after.suggest("e") == three
    assert after.suggest("f")["number"] == "04"
    assert two["number"] == "02"
    assert {note.state for note in read_trial_records(tmp_path).values()} == {"running", "done"}


def test_what_optuna_is_told(tmp_path):
    searcher = _searcher(tmp_path)
    for tune_id in "abcde":
        searcher.suggest(tune_id)
    _ends(searcher, tmp_path, "a", "01", [0.1, 0.2, 0.3, 0.4])
    _ends(searcher, tmp_path, "b", "02", [0.1, 0.2])
    update_trial_record(tmp_path, "02", lambda note: replace(note, stopped_by="asha"))
    _trains(tmp_path, "03", [0.9])
    update_trial_record(
        tmp_path,
        "03",
        lambda note: mark_failed(note, TrainingDivergedError("no number", "here", "lower")),
    )
    searcher.on_trial_complete("c")
    searcher.on_trial_complete("d", error=True)  # noted when the others have ended
    update_trial_record(tmp_path, "05", lambda note: mark_failed(note, DataError("no file", "there", "copy it")))
    searcher.on_trial_complete("e")

    assert _states(searcher) == [
        ("COMPLETE", 0.4),
        ("PRUNED", 0.2),
        ("PRUNED", None),  # below everything
        ("RUNNING", None),
        ("FAIL", None),
    ]
    notes = read_trial_records(tmp_path)
    assert notes["03"].diverged
    assert notes["03"].error == "no number: here"
    assert (notes["05"].state, notes["05"].error) == ("failed", "no file: there")


def test_tpe_looks_where_trials_were_good(tmp_path):
    searcher = _searcher(tmp_path, n_startup_trials=8, num_trials=40)
    drawn = []
    for at in range(40):
        settings = searcher.suggest(str(at))
        score = 1 - abs(settings["heatmap.sigma"] - 2.6) / 2
        _ends(searcher, tmp_path, str(at), settings["number"], [score] * 4)
        drawn.append(abs(settings["heatmap.sigma"] - 2.6))

    assert sum(drawn[-20:]) / 20 < 0.5  # draws at random are 0.68 away


def test_points_given_are_tried_first(tmp_path):
    points = [{"optim.lr": 1e-3, "heatmap.sigma": 1.5}, {"optim.lr": 2e-3, "heatmap.sigma": 2.5}]
    searcher = _searcher(tmp_path, points=points)

    drawn = [searcher.suggest(tune_id) for tune_id in "abc"]

    assert drawn[:2] == [{**p, "number": f"0{n}"} for n, p in enumerate(points, 1)]
    assert drawn[2]["number"] == "03"
    assert drawn[2]["optim.lr"] not in (1e-3, 2e-3)


def test_score_against_latency_tells_optuna_both(tmp_path):
    searcher = _searcher(tmp_path, optimize_latency=True, n_startup_trials=1)
    for tune_id, number, score in (("a", "01", 0.5), ("b", "02", 0.0)):
        searcher.suggest(tune_id)
        _ends(searcher, tmp_path, tune_id, number, [score] * 4, **{LATENCY_METRIC: 7.0})
    third = searcher.suggest("c")  # TPE itself, with two directions

    known = searcher.build_optuna_study().trials
    assert known[0].values == [0.5, 7.0]
    assert known[1].state == optuna.trial.TrialState.FAIL
    assert 1e-4 <= third["optim.lr"] <= 1e-2


def test_what_waits_at_a_rung_goes_on_before_new_trials_and_the_best_at_the_end(tmp_path):
    searcher = _searcher(tmp_path, num_trials=3, grace_period=1, reduction_factor=2)

    def one_trial(tune_id, epochs):
        number = searcher.suggest(tune_id)["number"]
        scores = {"01": 0.3, "02": 0.2, "03": 0.1}
        _trains(tmp_path, number, [scores[number]] * epochs)
        searcher.on_trial_complete(tune_id)
        stopped_by = "" if epochs == EPOCHS else "asha"
        update_trial_record(tmp_path, number, lambda note: mark_ended(replace(note, stopped_by=stopped_by)))
        return number

    numbers = [one_trial(*step) for step in (("a", 1), ("b", 1), ("c", 2), ("d", 1), ("e", 4))]

    assert numbers == ["01", "02", "01", "03", "01"]  # rungs are at 1 and 2
    assert not searcher.has_pending_trials()
    assert searcher.suggest("f") == "FINISHED"
    more = _searcher(tmp_path, num_trials=4, grace_period=1, reduction_factor=2)
    assert more.suggest("g")["number"] == "04"
    assert more.suggest("h") is None  # until that one has come to its rung


def test_a_note_cut_short_is_named(tmp_path):
    _searcher(tmp_path).suggest("a")
    path = get_trials_dir(tmp_path) / "01" / "trial.json"
    path.write_text(path.read_text()[:20])

    with pytest.raises(DataError, match="a trial's note that cannot be read"):
        read_trial_records(tmp_path)


def test_the_time_that_a_trial_took_adds_up_over_commands(tmp_path):
    _searcher(tmp_path).suggest("a")
    update_trial_record(
        tmp_path,
        "01",
        lambda note: replace(note, duration_s=100.0, last_started_s=note.last_started_s - 20),
    )
    update_trial_record(tmp_path, "01", mark_ended)

    assert 120 <= read_trial_records(tmp_path)["01"].duration_s < 130
