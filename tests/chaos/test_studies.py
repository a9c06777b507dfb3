"""Studies whose driver, trials or settings come to harm; and what a study costs in decoding."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from ray import tune

from hrnet_ray.config import Cluster
from hrnet_ray.data.manifest import read_table
from hrnet_ray.runtime.records import read_epochs
from hrnet_ray.runtime.studies.trial_notes import read_notes, trials_folder
from hrnet_ray.runtime.tune import Search, sweep
from hrnet_ray.tracking import database_uri

pytestmark = pytest.mark.chaos

HERE = Path(__file__).parent
EPOCHS, TRIALS, KILLS = 12, 8, 3


def _when(holds: Callable[[], bool], *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def _command(root: Path, storage: Path) -> list[str]:
    """Eight trials of twelve epochs, nothing stopped early: every figure follows from the seed."""
    small = "--model.width 4 --model.modules 1 1 1 --model.blocks 1 --model.stem 8"
    data = "--data.input-hw 32 64 --optim.batch-size 4 --evaluation.batch-size 4"
    search = f"--search.trials {TRIALS} --search.at-once 2 --search.scheduler none"
    return [
        *(sys.executable, "-m", "hrnet_ray.cli", "tune", "--name", "hurt"),
        *("--data.root", str(root), "--cluster.storage", str(storage), "--cluster.device", "cpu"),
        *f"{small} {data} {search} --optim.epochs {EPOCHS} --optim.milestones 8".split(),
        *("--space", "optim.lr=log(1e-4,1e-2)", "heatmap.sigma=uniform(0.8,1.6)"),
    ]


@contextmanager
def _started(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """The driver in a process of its own, with its Ray; both are gone in the end."""
    with log.open("ab") as file:
        driver = subprocess.Popen(command, stdout=file, stderr=file, env=dict(os.environ))
    family: dict[int, psutil.Process] = {}
    try:
        yield driver
    finally:
        with suppress(psutil.Error):
            family = {p.pid: p for p in psutil.Process(driver.pid).children(recursive=True)}
        with suppress(ProcessLookupError):
            driver.send_signal(signal.SIGKILL)
        driver.wait(10)
        _, alive = psutil.wait_procs(list(family.values()), timeout=20)  # Ray follows its driver
        for process in alive:
            with suppress(psutil.Error):
                process.kill()


def _epochs(study: Path) -> int:
    return sum(len(read_epochs(folder)) for folder in trials_folder(study).glob("*"))


def test_a_driver_killed_three_times_ends_with_the_trials_of_a_calm_one(tigers, tmp_path):
    chance = random.Random(int(os.environ.get("CHAOS_SEED", "0")))
    studies = {}
    for kind, kills in (("calm", 0), ("killed", KILLS)):
        storage = tmp_path / kind
        command, study = _command(tigers.root, storage), storage / tigers.name / "hurt"
        studies[kind] = study
        for _ in range(kills):
            after = _epochs(study) + chance.randint(2, 20)
            with _started(command, tmp_path / "log.txt") as driver:
                _when(lambda a=after, s=study: _epochs(s) >= a, within_s=240)
                time.sleep(chance.random())
                assert driver.poll() is None
        with _started(command, tmp_path / "log.txt") as driver:
            assert driver.wait(400) == 0, (tmp_path / "log.txt").read_text()[-3000:]

    calm, killed = (read_notes(study) for study in studies.values())
    assert list(calm) == list(killed) == [f"{number:02d}" for number in range(1, TRIALS + 1)]
    assert {note.state for note in killed.values()} == {"done"}
    assert [note.drawn for note in killed.values()] == [note.drawn for note in calm.values()]
    redone = 0
    for number in calm:
        lines = [
            (trials_folder(study) / number / "metrics.jsonl").read_text().splitlines()
            for study in studies.values()
        ]
        redone += len(lines[1]) - EPOCHS
        one, other = (read_epochs(trials_folder(study) / number) for study in studies.values())
        for name in ("epoch", "train/loss", "val/OKS_AP"):
            assert [entry[name] for entry in other] == [entry[name] for entry in one], name
    assert 0 <= redone <= KILLS * 2  # one epoch of each trial that was running
    best = [json.loads((study / "summary.json").read_text()) for study in studies.values()]
    assert best[0]["best_trial"] == best[1]["best_trial"]
    assert best[0]["best"] == best[1]["best"]
    assert _mlflow(tmp_path / "killed") == {"study": ["FINISHED"], "trial": ["FINISHED"] * TRIALS}


def _mlflow(storage: Path) -> dict[str, list[str]]:
    """The ends of all runs, by their kind."""
    ends: dict[str, list[str]] = {}
    for run in _runs(storage):
        ends.setdefault(run.data.tags["kind"], []).append(run.info.status)
    return ends


def _runs(storage: Path) -> list:
    client = MlflowClient(database_uri(storage))
    boards = [board.experiment_id for board in client.search_experiments()]
    return client.search_runs(boards, max_results=100)


def test_trials_that_raise_diverge_or_are_killed_leave_the_others_alone(
    ray_session, tiny, tmp_path
):
    """Of eight trials four raise (no such weights), one diverges, one is killed twice."""
    base = replace(tiny, name="unlucky", optim=replace(tiny.optim, epochs=4))
    cluster = Cluster(workers=1, device="cpu", storage=str(tmp_path / "runs"))
    rates, absent = (1e-3, 2e-3, 4e-3, 1e30), str(tmp_path / "absent.pth")
    space = {"optim.lr": tune.choice(rates), "model.init": tune.choice([None, absent])}
    study_folder = tmp_path / "runs" / "tigers" / "unlucky"
    killed: list[str] = []

    def is_the_victim(note) -> bool:
        healthy = note.drawn["model.init"] is None and note.drawn["optim.lr"] < 1
        return note.state == "running" and healthy and note.number in (killed or [note.number])

    def kill() -> None:
        """Kill the first healthy trial's process whenever it has trained an epoch more."""
        for epochs in (1, 2):
            _when(
                lambda e=epochs: any(
                    len(read_epochs(trials_folder(study_folder) / note.number)) >= e
                    for note in read_notes(study_folder).values()
                    if is_the_victim(note)
                ),
                within_s=200,
            )
            note = next(n for n in read_notes(study_folder).values() if is_the_victim(n))
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if process.name().startswith("ray::ImplicitFun"):  # one at once
                        process.kill()
            killed.append(note.number)

    killer = threading.Thread(target=kill)
    killer.start()
    search = Search(sampler="grid", at_once=1, grace_epochs=1, reduction=2)
    study = sweep(base, space, cluster, search)
    killer.join()

    ends = {trial["folder"]: trial for trial in study.trials}
    assert len(ends) == 8
    victim = ends[killed[0]]
    assert killed == [killed[0]] * 2
    assert victim["error"] == "its process was killed, perhaps for want of memory"
    raised = [trial for trial in ends.values() if trial["model.init"] == absent]
    assert len(raised) == 4
    assert all("absent.pth" in trial["error"] for trial in raised)
    (diverged,) = (t for t in ends.values() if t["optim.lr"] == 1e30 and t not in raised)
    assert "diverged" in diverged["error"]
    others = [trial for trial in ends.values() if not trial["error"]]
    assert len(others) == 2
    assert all(trial["epochs"] == 4 or trial["stopped_by"] == "asha" for trial in others)
    assert study.best["score"] == max(t["score"] for t in (*others, victim))
    statuses = {run.data.tags.get("run.folder", "")[-2:]: run for run in _runs(tmp_path / "runs")}
    for number, trial in ends.items():
        run = statuses[number]
        assert run.info.status == ("FAILED" if trial["error"] else "FINISHED"), number
        assert run.data.tags.get("error", "") == trial["error"]


def test_a_study_decodes_each_picture_once_whatever_the_number_of_trials(tigers, tmp_path):
    rows = Counter(
        sha256(data).hexdigest()
        for split in ("train", "val")
        for data in read_table(tigers, split, columns=["picture"])["picture"].to_pylist()
    )
    counts = tmp_path / "counts"
    counts.mkdir()
    command = [sys.executable, str(HERE / "counting.py"), str(counts), str(tigers.root)]

    with _started([*command, str(tmp_path / "runs"), "4"], tmp_path / "log.txt") as driver:
        assert driver.wait(300) == 0, (tmp_path / "log.txt").read_text()[-3000:]

    assert len(read_notes(tmp_path / "runs" / "tigers" / "counted")) == 4
    decoded = Counter(line for path in counts.iterdir() for line in path.read_text().splitlines())
    assert {picture: decoded[picture] for picture in rows} == rows  # not what trials have drawn
