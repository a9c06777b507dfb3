"""Trials or settings of a study come to harm; and what a study costs in decoding."""

import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import psutil
import pytest
import torch
from mlflow import MlflowClient
from ray import tune

from hrnet_ray.config import ClusterConfig, DataConfig
from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.distributed.data.object_store import CachedSplit, load_into_object_store
from hrnet_ray.distributed.tuning.trial_records import get_trials_dir, read_trial_records
from hrnet_ray.distributed.tuning.tune import SearchConfig, run_study
from hrnet_ray.errors import TrainingDivergedError
from hrnet_ray.reports.dataset.sample_grids import MAX_SAMPLES
from hrnet_ray.runs.event_log import read_metrics
from hrnet_ray.tracking import default_tracking_uri
from hrnet_ray.training.builders import build_model
from tests.chaos.commands import when, with_its_ray
from tests.chaos.orphans import orphaned

pytestmark = pytest.mark.chaos

HERE = Path(__file__).parent


def _runs(storage: Path) -> list:
    client = MlflowClient(default_tracking_uri(storage))
    boards = [board.experiment_id for board in client.search_experiments()]
    return client.search_runs(boards, max_results=100)


def _training() -> list[psutil.Process]:
    """Processes that train a trial right now; those that wait for one have another title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ImplicitFunc.train"):
                found.append(process)
    return found


@pytest.mark.parametrize("epochs", [1, 0], ids=["after an epoch", "before the first epoch"])
def test_trials_that_raise_diverge_or_are_killed_leave_the_others_alone(
    epochs: int, ray_session, tiny, tigers, tmp_path, monkeypatch
):
    """Of eight trials four raise (their weights are gone), one diverges, one is killed twice."""
    base = replace(tiny, name="unlucky", optim=replace(tiny.optim, epochs=4))
    cluster = ClusterConfig(num_workers=1, device="cpu", storage_path=str(tmp_path / "runs"))
    rates, absent = (1e-3, 2e-3, 4e-3, 1e30), str(tmp_path / "absent.pth")
    space = {"optim.lr": tune.choice(rates), "model.pretrained": tune.choice([None, absent])}
    torch.save(build_model(tiny, tigers).state_dict(), absent)

    def load_late(manifest: DatasetManifest, data: DataConfig) -> dict[str, CachedSplit]:
        Path(absent).unlink()  # it was looked at, and nobody has started from it yet
        return load_into_object_store(manifest, data)

    monkeypatch.setattr("hrnet_ray.distributed.tuning.tune.load", load_late)
    trials = get_trials_dir(tmp_path / "runs" / "tigers" / "unlucky")
    victims: list[str] = []
    dead: set[int] = set()

    def at_work() -> list[psutil.Process]:
        """The process of the healthy trial that trains, unless it is not the victim's."""
        healthy = [
            note.number
            for note in read_trial_records(trials.parent).values()
            if note.state == "running"
            and note.sampled_params["model.pretrained"] is None
            and note.sampled_params["optim.lr"] < 1
            and len(read_metrics(trials / note.number)) >= epochs
            and (trials / note.number / "resolved_config.json").is_file()  # it has begun
        ]
        if not healthy or healthy[0] not in (victims or healthy):
            return []
        victims[:] = healthy[:1]
        return [p for p in _training() if p.pid not in dead]

    def kill() -> None:
        """Kill the first healthy trial's process, and the one that goes on."""
        for _ in range(2):
            seen: list[psutil.Process] = []
            when(lambda seen=seen: bool(seen.extend(at_work()) or seen), within_s=200)
            seen[0].kill()
            dead.add(seen[0].pid)

    killer = threading.Thread(target=kill)
    killer.start()
    search = SearchConfig(
        sampler="grid", max_concurrent_trials=1, grace_period=2, reduction_factor=2
    )
    study = run_study(base, space, cluster, search)
    killer.join()

    ends = {trial["folder"]: trial for trial in study.trials}
    assert len(ends) == 8
    victim = ends[victims[0]]
    assert len(dead) == 2
    assert victim["error"] == "its process was killed, perhaps for want of memory"
    raised = [trial for trial in ends.values() if trial["model.pretrained"] == absent]
    assert len(raised) == 4
    assert all("absent.pth" in trial["error"] for trial in raised)
    (diverged,) = (t for t in ends.values() if t["optim.lr"] == 1e30 and t not in raised)
    assert "diverged" in diverged["error"]
    others = [trial for trial in ends.values() if not trial["error"]]
    assert len(others) == 2
    assert all(trial["epochs"] == 4 or trial["stopped_by"] == "asha" for trial in others)
    assert (victim["epochs"] > 0) == (epochs > 0)
    scored = (*others, victim) if epochs else others
    assert study.best_trial["score"] == max(trial["score"] for trial in scored)
    statuses = {run.data.tags.get("run.folder", "")[-2:]: run for run in _runs(tmp_path / "runs")}
    for number, trial in ends.items():
        run = statuses[number]
        assert run.info.status == ("FAILED" if trial["error"] else "FINISHED"), number
        assert run.data.tags.get("error", "") == trial["error"]


def test_a_study_decodes_each_picture_once_whatever_the_number_of_trials(tigers, tmp_path):
    rows = Counter(
        sha256(data).hexdigest()
        for split in ("train", "val")
        for data in read_split(tigers, split, columns=["picture"])["picture"].to_pylist()
    )
    counts = tmp_path / "counts"
    counts.mkdir()
    command = [sys.executable, str(HERE / "counting.py"), str(counts), str(tigers.root)]

    with with_its_ray([*command, str(tmp_path / "runs"), "4"], tmp_path / "run.log") as driver:
        assert driver.wait(300) == 0, (tmp_path / "run.log").read_text()[-3000:]

    assert len(read_trial_records(tmp_path / "runs" / "tigers" / "counted")) == 4
    looks = counts / str(driver.pid)  # the driver looks at the data before they are learnt
    at_work = [path for path in counts.iterdir() if path != looks]
    decoded = Counter(line for path in at_work for line in path.read_text().splitlines())
    assert {picture: decoded[picture] for picture in rows} == rows  # not what trials have drawn
    seen = looks.read_text().splitlines()
    assert len(seen) <= rows.total() + MAX_SAMPLES + 2 * MAX_SAMPLES  # a suspect may be a pair


def test_a_trial_whose_rows_are_lost_is_tried_twice_and_by_the_same_command_with_rows_read_anew(
    ray_session, tiny, tmp_path, monkeypatch
):
    cluster = ClusterConfig(num_workers=1, device="cpu", storage_path=str(tmp_path / "runs"))
    search = SearchConfig(num_trials=1, max_concurrent_trials=1)
    space = {"optim.lr": tune.loguniform(1e-4, 1e-2)}

    def load_badly(manifest: DatasetManifest, data: DataConfig) -> dict[str, CachedSplit]:
        stored = load_into_object_store(manifest, data)
        stored["val"].block_refs[0] = orphaned(stored["val"].block_refs[0])
        return stored

    with monkeypatch.context() as hurt:
        hurt.setattr("hrnet_ray.distributed.tuning.tune.load", load_badly)
        with pytest.raises(TrainingDivergedError, match="rows in the object store are lost"):
            run_study(tiny, space, cluster, search)

    study = tmp_path / "runs" / "tigers" / tiny.name
    note = read_trial_records(study)["01"]
    assert note.state == "failed"
    assert note.error.startswith("rows in the object store are lost: OwnerDiedError, waited for")
    (tries,) = (study / "tune").glob("01_*/error.txt")
    assert "Failure # 2 " in tries.read_text()

    again = run_study(tiny, space, cluster, search)

    assert (again.best_trial["error"], again.best_trial["epochs"]) == ("", 2)
