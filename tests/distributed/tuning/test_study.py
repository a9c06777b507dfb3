"""What a study makes of its trials' folders, without Ray."""

import json

import pytest

from hrnet_ray.config import Cluster
from hrnet_ray.distributed.cluster.resources import Share
from hrnet_ray.distributed.tuning.latency import LATENCY
from hrnet_ray.distributed.tuning.search_config import Search
from hrnet_ray.distributed.tuning.study import conclude_study, mark_front
from hrnet_ray.distributed.tuning.trial_records import TrialNote, trials_folder, write_note
from hrnet_ray.distributed.tuning.trial_runner import Plan
from hrnet_ray.errors import DivergedError


@pytest.fixture
def plan(tiny, tigers, tmp_path) -> Plan:
    """A study of at most two epochs a trial, not begun."""
    cluster = Cluster(workers=1, device="cpu", storage=str(tmp_path))
    share = Share(cpus=0.5, gpus=0, threads=1)
    return Plan(
        base=tiny,
        cluster=cluster,
        manifest=tigers,
        folder=tmp_path,
        share=share,
        started_in=str(tmp_path),
    )


def _trial(plan, number, scores, **note):
    drawn = {"optim.lr": 1e-3 * int(number)}
    write_note(
        plan.folder,
        TrialNote(number=number, drawn=drawn, asked_at=0.0, began_at=1.8e9, **note),
    )
    folder = trials_folder(plan.folder) / number
    (folder / "resolved.json").write_text(json.dumps({"drawn": drawn}))
    lines = [
        {"epoch": at, "epochs_done": at + 1, "train/loss": 0.1, "val/OKS_AP": score, LATENCY: 5.0}
        for at, score in enumerate(scores)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("model", "predictions"):
        (folder / name).mkdir()


def test_each_trial_has_its_line_and_what_became_of_it(plan):
    _trial(plan, "01", [0.2, 0.4], state="done", seconds=12.34)
    _trial(plan, "02", [0.1], state="done", stopped_by="asha")
    _trial(plan, "03", [0.3], state="running")  # the time budget was over
    _trial(plan, "04", [0.9], state="done", error="the training diverged: there")
    _trial(plan, "05", [], state="failed", error="no such weights: here")

    study = conclude_study(plan, ["optim.lr"], Search())

    lines = [(t["folder"], t["score"], t["epochs"], t["stopped_by"]) for t in study.trials[:3]]
    assert lines == [("01", 0.4, 2, ""), ("03", 0.3, 1, "time_budget"), ("02", 0.1, 1, "asha")]
    assert [(t["folder"], t["error"]) for t in study.trials[3:]] == [
        ("04", "the training diverged: there"),
        ("05", "no such weights: here"),
    ]
    assert all(trial["score"] != trial["score"] for trial in study.trials[3:])
    assert study.best["started_at"] == "2027-01-15T08:00:00+00:00"
    assert (study.best["seconds"], study.best["latency_ms"]) == (12.3, 5.0)
    assert study.best["optim.lr"] == 1e-3


def test_a_study_without_a_score_says_why(plan):
    _trial(plan, "01", [], state="failed", error="no such weights: here")

    with pytest.raises(DivergedError, match="no such weights: here"):
        conclude_study(plan, ["optim.lr"], Search())


def test_the_front_is_what_nobody_beats_in_both():
    pairs = [(0.9, 30.0), (0.8, 20.0), (0.7, 25.0), (0.8, 20.0), (0.5, 10.0), (0.95, None)]
    trials = [{"score": score, "latency_ms": ms} for score, ms in pairs]
    trials.append({"score": float("nan"), "latency_ms": 1.0})

    mark_front(trials)

    assert [trial["on_front"] for trial in trials] == [True, True, False, True, True] + [False] * 2
