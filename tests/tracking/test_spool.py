"""Servers that refuse, hang, fail, are slow, forget, or never come back; runs that are killed.

The loop is what a worker does: it appends epochs to metrics.jsonl. In the end a real server knows
exactly what stands there.
"""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hrnet_ray.cli import main
from hrnet_ray.errors import ClusterError, DataError, UsageError
from hrnet_ray.tracking import MlflowExperiment, default_tracking_uri, experiment as board_module
from hrnet_ray.tracking.mlflow_store import MlflowStore
from hrnet_ray.tracking.run_record import read_run_record
from hrnet_ray.tracking.sync_command import sync_runs
from hrnet_ray.tracking.sync_run import RunSyncer
from hrnet_ray.tracking.sync_state import read_sync_state
from tests.tracking.proxy import Proxy
from tests.tracking.runs import begun, found, history, images, recorded, train

pytestmark = pytest.mark.timeout(240)  # a server that hangs costs 3 s a try

EPOCHS, PACE_S = 8, 0.1
WAIT_S = 3.0  # of the shortest request to a server that does not answer


def loop(folder: Path, epochs: range) -> float:
    """Record epochs at a pace; returns the longest that one of them took beyond it, in seconds."""
    longest = 0.0
    for epoch in epochs:
        started = time.monotonic()
        train(folder, epoch)
        longest = max(longest, time.monotonic() - started)
        time.sleep(PACE_S)
    return longest


def wait_until_told(uri: str, name: str, folder: Path) -> None:
    """Wait until a run has all of metrics.jsonl."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = found(uri, name)
        if runs and history(uri, runs[0].info.run_id) == recorded(folder):
            return
        time.sleep(0.2)


def assert_told_exactly(proxy: Proxy, name: str, folder: Path, *, status: str = "FINISHED") -> None:
    """One run, with the points of metrics.jsonl and no others, an image an epoch, and its end."""
    (run,) = found(proxy.url, name)
    points = history(proxy.url, run.info.run_id)
    assert points == recorded(folder)
    assert len({(key, step) for key, step, *_ in points}) == len(points) == 2 * EPOCHS
    assert run.info.status == status
    assert run.data.params == {"optim.lr": "0.001"}
    assert len(images(proxy.url, run.info.run_id)) == EPOCHS
    assert {entry.path for entry in MlflowClient(proxy.url).list_artifacts(run.info.run_id)} >= {
        "resolved_config.json",
        "metrics.jsonl",
    }


@pytest.mark.parametrize("fault", ["refuses", "hangs", "fails", "slow", "forgets"])
def test_a_fault_of_the_server_in_mid_run_costs_nothing(
    fault: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(board_module, "FLUSH_TIMEOUT_S", 120.0)  # the machine may be busy
    name, folder = f"mid-{fault}", tmp_path / "otters" / "first"
    board = MlflowExperiment.open_for_dataset(name, storage_dir=tmp_path, tracking_uri=proxy.url)
    run = begun(board, folder)
    loop(folder, range(3))
    wait_until_told(proxy.url, name, folder)
    told_before = len(proxy.requests)

    proxy.mode = fault
    longest = loop(folder, range(3, EPOCHS))
    _wait_for_requests(proxy, beyond=told_before)
    proxy.mode = "good"  # it is there again
    run.log_artifacts(folder, relative_paths=("metrics.jsonl",))
    run.finish_run("FINISHED")

    assert longest < WAIT_S, "an epoch waited for the server"
    assert_told_exactly(proxy, name, folder)


def _wait_for_requests(proxy: Proxy, *, beyond: int) -> None:
    """Keep the fault until it was met; a request that is refused is met by nobody."""
    deadline = time.monotonic() + 10
    while proxy.mode != "refuses" and time.monotonic() < deadline:
        if len(proxy.requests) > beyond + 1:
            return
        time.sleep(0.05)


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_a_server_that_never_comes_back_is_told_later_by_a_command(
    fault: str,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(board_module, "FLUSH_TIMEOUT_S", 1.0)
    name, folder = f"never-{fault}", tmp_path / "otters" / "first"
    proxy.mode = fault  # from the first moment: the run begins all the same

    with caplog.at_level(logging.WARNING, "hrnet_ray.tracking"):
        run = begun(
            MlflowExperiment.open_for_dataset(name, storage_dir=tmp_path, tracking_uri=proxy.url),
            folder,
        )
        longest = loop(folder, range(EPOCHS))
        run.log_artifacts(folder, relative_paths=("metrics.jsonl",))
        started = time.monotonic()
        run.finish_run("FINISHED")

    assert time.monotonic() - started < 1.0 + WAIT_S
    assert longest < WAIT_S
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("MLflow sync incomplete: 8 epochs, 8 images, 2 files, 1 ")
    assert line.endswith(f"To finish: hrnet-ray mlflow-sync {os.path.relpath(folder)}")
    if fault == "refuses":  # a hanging server has not been given up yet
        (warning,) = [r.getMessage() for r in caplog.records if "training continues" in r.message]
        assert warning.startswith(f"MLflow sync failed ({proxy.url}: connection refused)")

    proxy.mode = "good"
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            main(["mlflow-sync", str(folder)])
    assert_told_exactly(proxy, name, folder)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "first: 8 epochs, 8 images, 2 files, 1 run status"
    assert second == "first: nothing new"


def test_whoever_gave_up_leaves_the_rest_to_others(proxy: Proxy, tmp_path: Path, dead_uri: str):
    folder = tmp_path / "otters" / "first"
    begun(
        MlflowExperiment.open_for_dataset("silent", storage_dir=tmp_path, tracking_uri=dead_uri),
        folder,
    )
    teller = RunSyncer(MlflowStore(proxy.url))
    teller.sync_run(folder)
    train(folder, 0)
    noted, asked = read_sync_state(folder, teller.store.redacted_uri), len(proxy.requests)

    teller.stop_syncing()
    teller.sync_run(folder)

    assert noted.run_id
    assert read_sync_state(folder, teller.store.redacted_uri) == noted
    assert len(proxy.requests) == asked


def test_of_two_runs_made_at_once_the_one_that_is_kept_is_told(proxy: Proxy, tmp_path: Path, dead_uri: str):
    folder, client = tmp_path / "otters" / "first", MlflowClient(proxy.url)
    begun(
        MlflowExperiment.open_for_dataset("twins", storage_dir=tmp_path, tracking_uri=dead_uri),
        folder,
    )
    teller = RunSyncer(MlflowStore(proxy.url))
    teller.sync_run(folder)
    (mine,) = found(proxy.url, "twins")
    tags = {name: mine.data.tags[name] for name in mine.data.tags if name.startswith("hrnet")}
    twin = client.create_run(mine.info.experiment_id, mine.info.start_time, tags).info.run_id
    client.delete_run(mine.info.run_id)  # as the other one does, having seen two
    train(folder, 0)

    teller.sync_run(folder)

    (kept,) = found(proxy.url, "twins")
    assert kept.info.run_id == twin
    assert history(proxy.url, twin) == recorded(folder)


def test_a_server_that_lost_everything_is_told_everything_again(proxy: Proxy, tmp_path: Path, dead_uri: str):
    folder = tmp_path / "otters" / "first"
    run = begun(
        MlflowExperiment.open_for_dataset("lost", storage_dir=tmp_path, tracking_uri=proxy.url),
        folder,
    )
    loop(folder, range(EPOCHS))
    run.log_artifacts(folder, relative_paths=("metrics.jsonl",))
    run.finish_run("FINISHED")
    client = MlflowClient(proxy.url)
    client.delete_run(found(proxy.url, "lost")[0].info.run_id)

    list(sync_runs(folder))

    assert_told_exactly(proxy, "lost", folder)


def test_it_can_be_told_to_another_store_too(proxy: Proxy, storage: Path):
    folder = storage / "otters" / "first"
    run = begun(MlflowExperiment.open_for_dataset("both", storage_dir=storage, tracking_uri=None), folder)
    loop(folder, range(EPOCHS))
    run.log_artifacts(folder, relative_paths=("metrics.jsonl",))
    run.finish_run("FINISHED")

    list(sync_runs(folder, tracking_uri=proxy.url))
    list(sync_runs(folder))

    assert_told_exactly(proxy, "both", folder)


def test_numbers_that_are_none_are_told_as_such(proxy: Proxy, tmp_path: Path):
    folder = tmp_path / "otters" / "first"
    run = begun(
        MlflowExperiment.open_for_dataset("endless", storage_dir=tmp_path, tracking_uri=proxy.url),
        folder,
    )
    for epoch, score in enumerate([0.5, math.nan, math.inf, -math.inf]):
        train(folder, epoch, score=score)
    run.finish_run("FAILED")

    (noted,) = found(proxy.url, "endless")
    points = history(proxy.url, noted.info.run_id)
    assert points == recorded(folder)
    scores = [value for name, _, _, value in sorted(points) if name == "val/OKS_AP"]
    assert scores == ["0.5", "nan", "nan", "nan"]
    assert noted.data.tags["infinite.val/OKS_AP"] == "-inf at 3"
    assert noted.info.status == "FAILED"


KILLED_DRIVER = """
import os, signal, sys, time
from pathlib import Path
from hrnet_ray.tracking import MlflowExperiment
from tests.tracking.runs import begun, train

uri, storage, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
study, trial = storage / "otters" / "search", storage / "otters" / "search" / "trials" / "01"
board = MlflowExperiment.open_for_dataset(name, storage_dir=storage, tracking_uri=uri)
parent = begun(board, study, name="search", tags={"kind": "study"})
begun(board, trial, name="#01", tags={"kind": "trial"}, parent_run=parent)
for epoch in range(3):
    train(trial, epoch)
deadline = time.monotonic() + 60
while not (trial / ".mlflow/sync_state.json").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
train(trial, 3)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_killed_driver_the_history_is_completed_and_nothing_stays_running(
    proxy: Proxy, tmp_path: Path, root: Path
):
    name, study = "killed", tmp_path / "otters" / "search"
    trial = study / "trials" / "01"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_DRIVER, proxy.url, str(tmp_path), name], cwd=root, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert {run.info.status for run in found(proxy.url, name)} == {"RUNNING"}

    told = dict(sync_runs(study))

    assert list(told) == [study, trial]
    runs = {run.data.tags["kind"]: run for run in found(proxy.url, name)}
    assert {kind: run.info.status for kind, run in runs.items()} == {
        "study": "KILLED",
        "trial": "KILLED",
    }
    assert runs["trial"].data.tags["abandoned"] == "true"
    assert runs["trial"].data.tags["mlflow.parentRunId"] == runs["study"].info.run_id
    assert history(proxy.url, runs["trial"].info.run_id) == recorded(trial)
    last = max(at_ms for _, _, at_ms, _ in recorded(trial))
    assert runs["trial"].info.end_time == last  # not when it was noticed

    _the_same_command_goes_on(proxy, tmp_path, name, study, trial)


def _the_same_command_goes_on(proxy: Proxy, storage: Path, name: str, study: Path, trial: Path) -> None:
    board = MlflowExperiment.open_for_dataset(name, storage_dir=storage, tracking_uri=proxy.url)
    parent = begun(board, study, name="search", tags={"kind": "study"})
    begun(board, trial, name="#01", tags={"kind": "trial"}, parent_run=parent).finish_run("FINISHED")
    parent.finish_run("FINISHED")

    runs = found(proxy.url, name)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert not any("abandoned" in run.data.tags for run in runs)


def test_trials_that_the_end_of_a_study_left_open_are_lost(storage: Path):
    board = MlflowExperiment.open_for_dataset("left", storage_dir=storage, tracking_uri=None)
    study, trial = storage / "otters" / "search", storage / "otters" / "search" / "trials" / "01"
    parent = begun(board, study)
    begun(board, trial, parent_run=parent)

    parent.finish_run("FINISHED")

    story = read_run_record(trial)
    assert story is not None
    assert (story.status, story.tags["abandoned"]) == ("KILLED", "true")


@pytest.mark.parametrize(("writers", "points"), [(2, 50), pytest.param(4, 500, marks=pytest.mark.chaos)])
def test_writers_at_once_lose_nothing_in_one_database_that_they_make(
    writers: int, points: int, tmp_path: Path, root: Path
):
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(number), str(points)], cwd=root)
        for number in range(writers)
    ]
    assert [process.wait(200) for process in processes] == [0] * writers

    uri = default_tracking_uri(tmp_path)
    runs = found(uri, "writers")
    counts = Counter(key for run in runs for key, *_ in history(uri, run.info.run_id))
    assert counts == {"val/OKS_AP": writers * points}
    assert [run.info.status for run in runs] == ["FINISHED"] * writers


WRITER = """
import sys, time
from pathlib import Path
from hrnet_ray.runs.event_log import append_metrics
from hrnet_ray.tracking import MlflowExperiment
from tests.tracking.runs import begun

storage, number, points = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
folder = storage / "otters" / number
run = begun(MlflowExperiment.open_for_dataset("writers", storage_dir=storage, tracking_uri=None), folder)
for epoch in range(points):
    append_metrics(folder, {"epoch": epoch, "val/OKS_AP": epoch / points})
    time.sleep(0.01)
run.finish_run("FINISHED")
"""


def test_sync_says_what_is_wrong_in_three_lines(tmp_path: Path, dead_uri: str):
    with pytest.raises(DataError, match="no run to sync to MLflow"):
        list(sync_runs(tmp_path))

    board = MlflowExperiment.open_for_dataset("wrong", storage_dir=tmp_path, tracking_uri=dead_uri)
    begun(board, tmp_path / "first")
    with pytest.raises(ClusterError, match="the MLflow store does not answer"):
        list(sync_runs(tmp_path / "first"))
    with pytest.raises(UsageError, match="no address of an MLflow server"):
        list(sync_runs(tmp_path / "first", tracking_uri="localhost:5000"))


def test_a_story_that_a_crash_spoilt_is_written_anew_for_the_same_run(storage: Path):
    folder = storage / "otters" / "first"
    board = MlflowExperiment.open_for_dataset("spoilt", storage_dir=storage, tracking_uri=None)
    run = begun(board, folder)
    train(folder, 0)
    run.finish_run("FAILED")
    (folder / ".mlflow/run.json").write_text('{"experiment": "hr')
    (folder / ".mlflow/sync_state.json").write_text("[]")

    again = begun(MlflowExperiment.open_for_dataset("spoilt", storage_dir=storage, tracking_uri=None), folder)
    train(folder, 1)
    again.finish_run("FINISHED")

    uri = default_tracking_uri(storage)
    (noted,) = found(uri, "spoilt")
    assert history(uri, noted.info.run_id) == recorded(folder)
    assert noted.info.status == "FINISHED"
    assert json.loads((folder / ".mlflow/sync_state.json").read_text()).keys() == {uri}


def test_two_that_tell_the_same_in_the_same_moment_both_succeed(proxy: Proxy):
    """A request that was given up may still be carried out beside the one that follows it."""
    servers = [MlflowStore(proxy.url) for _ in range(2)]
    client, together = servers[0].client, threading.Barrier(2)
    experiment = client.create_experiment("hrnet/at-once")

    for attempt in range(20):
        run_id = client.create_run(experiment).info.run_id
        tags = {f"tag{number}": str(attempt) for number in range(20)}

        def tell(server: MlflowStore, run_id: str = run_id, tags: dict[str, str] = tags) -> None:
            together.wait(30)
            server.log_params_and_tags(run_id, params={"optim.lr": "0.1"}, tags=tags)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(tell, servers))
        assert tags.items() <= client.get_run(run_id).data.tags.items()
