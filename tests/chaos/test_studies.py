"""Failing trials of a study, and the number of images that a study decodes."""

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
from tests.chaos.commands import run_with_ray, wait_until
from tests.chaos.orphans import make_orphan

pytestmark = pytest.mark.chaos

HERE = Path(__file__).parent


def _runs(storage: Path) -> list:
    client = MlflowClient(default_tracking_uri(storage))
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiment_ids, max_results=100)


def _training() -> list[psutil.Process]:
    """Processes that train a trial now; idle ones have another title."""
    processes = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ImplicitFunc.train"):
                processes.append(process)
    return processes


@pytest.mark.parametrize("epochs", [1, 0], ids=["after an epoch", "before the first epoch"])
def test_failing_diverging_and_killed_trials_do_not_affect_the_others(
    epochs: int, ray_session, tiny, tigers, tmp_path, monkeypatch
):
    """Of eight trials four fail (their weights vanish), one diverges, one is killed twice."""
    base = replace(tiny, name="unlucky", optim=replace(tiny.optim, epochs=4))
    cluster = ClusterConfig(num_workers=1, device="cpu", storage_path=str(tmp_path / "runs"))
    rates, absent = (1e-3, 2e-3, 4e-3, 1e30), str(tmp_path / "absent.pth")
    space = {"optim.lr": tune.choice(rates), "model.pretrained": tune.choice([None, absent])}
    torch.save(build_model(tiny, tigers).state_dict(), absent)

    def load_and_remove_weights(manifest: DatasetManifest, data: DataConfig) -> dict[str, CachedSplit]:
        Path(absent).unlink()  # after the preflight checks, before the first trial
        return load_into_object_store(manifest, data)

    monkeypatch.setattr("hrnet_ray.distributed.tuning.tune.load_into_object_store", load_and_remove_weights)
    trials = get_trials_dir(tmp_path / "runs" / "tigers" / "unlucky")
    victims: list[str] = []
    dead: set[int] = set()

    def find_victims() -> list[psutil.Process]:
        """The process of the running healthy trial, if it is the victim."""
        healthy = [
            record.number
            for record in read_trial_records(trials.parent).values()
            if record.state == "running"
            and record.sampled_params["model.pretrained"] is None
            and record.sampled_params["optim.lr"] < 1
            and len(read_metrics(trials / record.number)) >= epochs
            and (trials / record.number / "resolved_config.json").is_file()  # it has started
        ]
        if not healthy or healthy[0] not in (victims or healthy):
            return []
        victims[:] = healthy[:1]
        return [p for p in _training() if p.pid not in dead]

    def kill() -> None:
        """Kill the process of the first healthy trial, and the one that resumes it."""
        for _ in range(2):
            candidates: list[psutil.Process] = []
            wait_until(
                lambda candidates=candidates: bool(candidates.extend(find_victims()) or candidates),
                within_s=200,
            )
            candidates[0].kill()
            dead.add(candidates[0].pid)

    killer = threading.Thread(target=kill)
    killer.start()
    search = SearchConfig(sampler="grid", max_concurrent_trials=1, grace_period=2, reduction_factor=2)
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


def test_a_study_decodes_each_image_once_with_any_number_of_trials(tigers, tmp_path):
    rows = Counter(
        sha256(data).hexdigest()
        for split in ("train", "val")
        for data in read_split(tigers, split, columns=["picture"])["picture"].to_pylist()
    )
    counts = tmp_path / "counts"
    counts.mkdir()
    command = [sys.executable, str(HERE / "counting.py"), str(counts), str(tigers.root)]

    with run_with_ray([*command, str(tmp_path / "runs"), "4"], tmp_path / "run.log") as driver:
        assert driver.wait(300) == 0, (tmp_path / "run.log").read_text()[-3000:]

    assert len(read_trial_records(tmp_path / "runs" / "tigers" / "counted")) == 4
    driver_counts = counts / str(driver.pid)  # the driver writes the dataset report
    worker_counts = [path for path in counts.iterdir() if path != driver_counts]
    decoded = Counter(line for path in worker_counts for line in path.read_text().splitlines())
    assert {image: decoded[image] for image in rows} == rows  # without the images that trials draw
    report_images = driver_counts.read_text().splitlines()
    assert len(report_images) <= rows.total() + MAX_SAMPLES + 2 * MAX_SAMPLES  # an issue may show a pair of images


def test_a_trial_with_lost_rows_is_retried_and_the_same_command_loads_them_again(
    ray_session, tiny, tmp_path, monkeypatch
):
    cluster = ClusterConfig(num_workers=1, device="cpu", storage_path=str(tmp_path / "runs"))
    search = SearchConfig(num_trials=1, max_concurrent_trials=1)
    space = {"optim.lr": tune.loguniform(1e-4, 1e-2)}

    def load_with_orphan(manifest: DatasetManifest, data: DataConfig) -> dict[str, CachedSplit]:
        stored = load_into_object_store(manifest, data)
        stored["val"].block_refs[0] = make_orphan(stored["val"].block_refs[0])
        return stored

    with monkeypatch.context() as patch:
        patch.setattr("hrnet_ray.distributed.tuning.tune.load_into_object_store", load_with_orphan)
        with pytest.raises(TrainingDivergedError, match="rows in the object store are lost"):
            run_study(tiny, space, cluster, search)

    study = tmp_path / "runs" / "tigers" / tiny.name
    record = read_trial_records(study)["01"]
    assert record.state == "failed"
    assert record.error.startswith("rows in the object store are lost: OwnerDiedError, waited for")
    (tries,) = (study / "tune").glob("01_*/error.txt")
    assert "Failure # 2 " in tries.read_text()

    again = run_study(tiny, space, cluster, search)

    assert (again.best_trial["error"], again.best_trial["epochs"]) == ("", 2)
