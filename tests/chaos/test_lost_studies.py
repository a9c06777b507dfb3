"""A study loses its driver or its cluster; the same command ends like an undisturbed study."""

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
from tests.chaos.commands import MODEL_FLAGS, run_with_ray, wait_until
from tests.chaos.small_cluster import SmallCluster

pytestmark = pytest.mark.chaos

EPOCHS, TRIALS, KILLS = 12, 8, 3


class Study:
    """Eight trials of twelve epochs without early stopping, so all figures follow from the seed."""

    def __init__(self, root: Path, storage: Path) -> None:
        search = f"--search.num-trials {TRIALS} --search.max-concurrent-trials 2 --search.scheduler none"
        optim = f"--optim.epochs {EPOCHS} --optim.milestones 8 --optim.batch-size 4"
        self.storage, self.folder = storage, storage / "tigers" / "study"
        self.log = storage / "run.log"
        self.words = [
            *(
                "tune",
                "--size",
                "published",
                "--name",
                "study",
                "--data.root",
                str(root),
                *MODEL_FLAGS.split(),
                *optim.split(),
            ),
            *("--evaluation.batch-size", "4", "--cluster.device", "cpu", *search.split()),
            *("--cluster.storage-path", str(storage), "--search.no-register-best"),
            *("--space", "optim.lr=log(1e-4,1e-2)", "heatmap.sigma=uniform(0.8,1.6)"),
        ]

    @contextmanager
    def started(self, address: str = "local") -> Iterator[subprocess.Popen[bytes]]:
        """Run the command; it is killed at the end of the block."""
        self.storage.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "hrnet_ray.cli", *self.words]
        with run_with_ray(words, self.log, RAY_ADDRESS=address) as driver:
            yield driver

    def finish(self, address: str = "local") -> None:
        """Run the command to its end."""
        with self.started(address) as driver:
            assert driver.wait(400) == 0, self.read_output()[-3000:]

    def read_output(self) -> str:
        """The output of all commands so far."""
        return self.log.read_text()

    def count_epochs(self) -> int:
        """The number of recorded epochs of all trials."""
        return sum(len(read_metrics(folder)) for folder in get_trials_dir(self.folder).glob("*"))

    def lines(self, number: str) -> list[str]:
        """A trial's lines of metrics.jsonl; a repeated epoch has two."""
        path = get_trials_dir(self.folder) / number / "metrics.jsonl"
        return path.read_text().splitlines()

    def count_statuses(self) -> dict[str, Counter[str]]:
        """The statuses of all MLflow runs by kind."""
        client = MlflowClient(default_tracking_uri(self.storage))
        experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
        statuses: dict[str, Counter[str]] = {}
        for run in client.search_runs(experiment_ids, max_results=100):
            statuses.setdefault(run.data.tags["kind"], Counter())[run.info.status] += 1
        return statuses


@pytest.fixture(scope="module")
def undisturbed_study(tigers, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study without failures."""
    study = Study(tigers.root, tmp_path_factory.mktemp("undisturbed"))
    study.finish()
    return study


def test_a_study_whose_driver_is_killed_three_times_has_the_trials_of_an_undisturbed_one(
    undisturbed_study: Study, tigers, tmp_path
):
    generator = random.Random(int(os.environ.get("CHAOS_SEED", "0")))
    study = Study(tigers.root, tmp_path / "killed")
    for _ in range(KILLS):
        after = study.count_epochs() + generator.randint(2, 20)
        with study.started() as driver:
            wait_until(lambda a=after: study.count_epochs() >= a, within_s=240)
            time.sleep(generator.random())
            assert driver.poll() is None
    study.finish()

    _require_the_same(study, undisturbed_study, losses=KILLS)


def test_a_lost_cluster_ends_the_command_and_the_next_cluster_resumes_the_study(
    undisturbed_study: Study, tigers, tmp_path
):
    study = Study(tigers.root, tmp_path / "lost")
    with SmallCluster([2]) as cluster, study.started(cluster.address) as driver:
        wait_until(lambda: study.count_epochs() >= 15 or driver.poll() is not None)
        cluster.kill()
        ended_s = wait_until(lambda: driver.poll() is not None)

    print(f"head node killed; the command ended after {ended_s:.1f} s")
    assert driver.returncode == 4, study.read_output()[-3000:]
    assert "error: the cluster is lost: its head node does not answer\n" in study.read_output()
    assert "Traceback" not in study.read_output()
    assert 15 <= study.count_epochs() < TRIALS * EPOCHS

    with SmallCluster([2]) as cluster:
        study.finish(cluster.address)

    _require_the_same(study, undisturbed_study, losses=1)


def _require_the_same(study: Study, expected: Study, *, losses: int) -> None:
    """Require the trials, parameters and figures of the other study, with few repeated epochs."""
    theirs, ours = read_trial_records(expected.folder), read_trial_records(study.folder)
    assert list(theirs) == list(ours) == [f"{number:02d}" for number in range(1, TRIALS + 1)]
    assert {record.state for record in ours.values()} == {"done"}
    assert [record.sampled_params for record in ours.values()] == [record.sampled_params for record in theirs.values()]
    for number in theirs:
        one, other = (read_metrics(get_trials_dir(s.folder) / number) for s in (expected, study))
        for name in ("epoch", "train/loss", "val/OKS_AP"):
            assert [entry[name] for entry in other] == [entry[name] for entry in one], name
    repeated = sum(len(study.lines(number)) - EPOCHS for number in ours)
    assert 0 <= repeated <= losses * 2  # one epoch of each trial that was running
    best = [json.loads((s.folder / "summary.json").read_text()) for s in (expected, study)]
    assert best[0]["best_trial"] == best[1]["best_trial"]
    assert best[0]["best"] == best[1]["best"]
    assert study.count_statuses() == {
        "study": Counter(FINISHED=1),
        "trial": Counter(FINISHED=TRIALS),
    }
