"""A study loses its driver or its whole cluster: the same command ends with what a calm one has."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hrnet_ray.distributed.tuning.trial_records import get_trials_dir, read_trial_records
from hrnet_ray.runs.event_log import read_metrics
from hrnet_ray.tracking import default_tracking_uri
from tests.chaos.commands import NET, when, with_its_ray
from tests.chaos.small_cluster import SmallCluster

pytestmark = pytest.mark.chaos

EPOCHS, TRIALS, KILLS = 12, 8, 3


class Study:
    """Eight trials of twelve epochs, nothing stopped early: every figure follows from the seed."""

    def __init__(self, root: Path, storage: Path) -> None:
        search = (
            f"--search.num-trials {TRIALS} --search.max-concurrent-trials 2 --search.scheduler none"
        )
        optim = f"--optim.epochs {EPOCHS} --optim.milestones 8 --optim.batch-size 4"
        self.storage, self.folder = storage, storage / "tigers" / "hurt"
        self.log = storage / "run.log"
        self.words = [
            *("tune", "--name", "hurt", "--data.root", str(root), *NET.split(), *optim.split()),
            *("--evaluation.batch-size", "4", "--cluster.device", "cpu", *search.split()),
            *("--cluster.storage-path", str(storage), "--search.no-register-best"),
            *("--space", "optim.lr=log(1e-4,1e-2)", "heatmap.sigma=uniform(0.8,1.6)"),
        ]

    @contextmanager
    def started(self, address: str = "local") -> Iterator[subprocess.Popen[bytes]]:
        """The command at work."""
        self.storage.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "hrnet_ray.cli", *self.words]
        with with_its_ray(words, self.log, RAY_ADDRESS=address) as driver:
            yield driver

    def to_the_end(self, address: str = "local") -> None:
        """Run the command until it has nothing left to do."""
        with self.started(address) as driver:
            assert driver.wait(400) == 0, self.said()[-3000:]

    def said(self) -> str:
        """What all commands printed so far."""
        return self.log.read_text()

    def epochs(self) -> int:
        """How many are recorded, of all trials."""
        return sum(len(read_metrics(folder)) for folder in get_trials_dir(self.folder).glob("*"))

    def lines(self, number: str) -> list[str]:
        """A trial's records: an epoch that was done twice has two."""
        path = get_trials_dir(self.folder) / number / "metrics.jsonl"
        return path.read_text().splitlines()

    def ends(self) -> dict[str, Counter[str]]:
        """How all runs ended in MLflow, by their kind."""
        client = MlflowClient(default_tracking_uri(self.storage))
        boards = [board.experiment_id for board in client.search_experiments()]
        ends: dict[str, Counter[str]] = {}
        for run in client.search_runs(boards, max_results=100):
            ends.setdefault(run.data.tags["kind"], Counter())[run.info.status] += 1
        return ends


@pytest.fixture(scope="module")
def calm_study(tigers, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """What the command does when nobody hurts it."""
    study = Study(tigers.root, tmp_path_factory.mktemp("calm"))
    study.to_the_end()
    return study


def test_a_driver_killed_three_times_ends_with_the_trials_of_a_calm_one(
    calm_study: Study, tigers, tmp_path
):
    chance = random.Random(int(os.environ.get("CHAOS_SEED", "0")))
    study = Study(tigers.root, tmp_path / "killed")
    for _ in range(KILLS):
        after = study.epochs() + chance.randint(2, 20)
        with study.started() as driver:
            when(lambda a=after: study.epochs() >= a, within_s=240)
            time.sleep(chance.random())
            assert driver.poll() is None
    study.to_the_end()

    _require_the_same(study, calm_study, losses=KILLS)


def test_a_cluster_lost_in_mid_study_ends_the_command_which_goes_on_with_the_next_one(
    calm_study: Study, tigers, tmp_path
):
    study = Study(tigers.root, tmp_path / "lost")
    with SmallCluster([2]) as cluster, study.started(cluster.address) as driver:
        when(lambda: study.epochs() >= 15 or driver.poll() is not None)
        cluster.kill()
        ended_s = when(lambda: driver.poll() is not None)

    print(f"a head's death -> the command has ended: {ended_s:.1f} s")
    assert driver.returncode == 4, study.said()[-3000:]
    assert "error: the cluster is lost: its head does not answer\n" in study.said()
    assert "Traceback" not in study.said()
    assert 15 <= study.epochs() < TRIALS * EPOCHS

    with SmallCluster([2]) as cluster:
        study.to_the_end(cluster.address)

    _require_the_same(study, calm_study, losses=1)


def _require_the_same(study: Study, calm: Study, *, losses: int) -> None:
    """Each trial once, with the draws and the figures of the calm study; hardly anything redone."""
    theirs, ours = read_trial_records(calm.folder), read_trial_records(study.folder)
    assert list(theirs) == list(ours) == [f"{number:02d}" for number in range(1, TRIALS + 1)]
    assert {note.state for note in ours.values()} == {"done"}
    assert [note.sampled_params for note in ours.values()] == [
        note.sampled_params for note in theirs.values()
    ]
    for number in theirs:
        one, other = (read_metrics(get_trials_dir(s.folder) / number) for s in (calm, study))
        for name in ("epoch", "train/loss", "val/OKS_AP"):
            assert [entry[name] for entry in other] == [entry[name] for entry in one], name
    redone = sum(len(study.lines(number)) - EPOCHS for number in ours)
    assert 0 <= redone <= losses * 2  # one epoch of each trial that was running
    best = [json.loads((s.folder / "summary.json").read_text()) for s in (calm, study)]
    assert best[0]["best_trial"] == best[1]["best_trial"]
    assert best[0]["best"] == best[1]["best"]
    assert study.ends() == {"study": Counter(FINISHED=1), "trial": Counter(FINISHED=TRIALS)}
