"""What a study makes of its trials' folders, without Ray."""

import json

import pytest

from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.resources import WorkerResources
from hrnet_ray.distributed.tuning.latency import LATENCY_METRIC
from hrnet_ray.distributed.tuning.search_config import SearchConfig
from hrnet_ray.distributed.tuning.study import mark_pareto_front, summarize_study
from hrnet_ray.distributed.tuning.trial_records import (
    TrialRecord,
    get_trials_dir,
    write_trial_record,
)
from hrnet_ray.distributed.tuning.trial_runner import StudyPlan
from hrnet_ray.errors import TrainingDivergedError


@pytest.fixture
def plan(tiny, tigers, tmp_path) -> StudyPlan:
    """A study of at most two epochs a trial, not begun."""
    cluster = ClusterConfig(num_workers=1, device="cpu", storage_path=str(tmp_path))
    share = WorkerResources(cpus=0.5, gpus=0, threads=1)
    return StudyPlan(
        base_experiment=tiny,
        cluster=cluster,
        manifest=tigers,
        folder=tmp_path,
        worker_resources=share,
        driver_cwd=str(tmp_path),
    )


def _trial(plan, number, scores, **note):
    drawn = {"optim.lr": 1e-3 * int(number)}
    write_trial_record(
        plan.folder,
        TrialRecord(number=number, sampled_params=drawn, last_started_s=0.0, first_started_s=1.8e9, **note),
    )
    folder = get_trials_dir(plan.folder) / number
    (folder / "resolved_config.json").write_text(json.dumps({"drawn": drawn}))
    lines = [
        {
            "epoch": at,
            "epochs_done": at + 1,
            "train/loss": 0.1,
            "val/OKS_AP": score,
            LATENCY_METRIC: 5.0,
        }
        for at, score in enumerate(scores)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("model", "predictions"):
        (folder / name).mkdir()


def test_each_trial_has_its_line_and_what_became_of_it(plan):
    _trial(plan, "01", [0.2, 0.4], state="done", duration_s=12.34)
    _trial(plan, "02", [0.1], state="done", stopped_by="asha")
    _trial(plan, "03", [0.3], state="running")  # the time budget was over
    _trial(plan, "04", [0.9], state="done", error="the training diverged: there")
    _trial(plan, "05", [], state="failed", error="no such weights: here")

    study = summarize_study(plan, ["optim.lr"], SearchConfig())

    lines = [(t["folder"], t["score"], t["epochs"], t["stopped_by"]) for t in study.trials[:3]]
    assert lines == [("01", 0.4, 2, ""), ("03", 0.3, 1, "time_budget"), ("02", 0.1, 1, "asha")]
    assert [(t["folder"], t["error"]) for t in study.trials[3:]] == [
        ("04", "the training diverged: there"),
        ("05", "no such weights: here"),
    ]
    assert all(trial["score"] != trial["score"] for trial in study.trials[3:])
    assert study.best_trial["started_at"] == "2027-01-15T08:00:00+00:00"
    assert (study.best_trial["seconds"], study.best_trial["latency_ms"]) == (12.3, 5.0)
    assert study.best_trial["optim.lr"] == 1e-3


def test_a_study_without_a_score_says_why(plan):
    _trial(plan, "01", [], state="failed", error="no such weights: here")

    with pytest.raises(TrainingDivergedError, match="no such weights: here"):
        summarize_study(plan, ["optim.lr"], SearchConfig())


def test_the_front_is_what_nobody_beats_in_both():
    pairs = [(0.9, 30.0), (0.8, 20.0), (0.7, 25.0), (0.8, 20.0), (0.5, 10.0), (0.95, None)]
    trials = [{"score": score, "latency_ms": ms} for score, ms in pairs]
    trials.append({"score": float("nan"), "latency_ms": 1.0})

    mark_pareto_front(trials)

    assert [trial["pareto_optimal"] for trial in trials] == [True, True, False, True, True] + [False] * 2
