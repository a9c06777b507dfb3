"""A person's Ctrl-C, or the SIGTERM of `ray job stop`: an honest end, and the command goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from hrnet_ray.cli.prepare import SyntheticArgs, run as prepare
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.distributed.training.run_summary import RunResult
from hrnet_ray.runs.event_log import read_metrics
from hrnet_ray.runs.signals import SAVE_TIMEOUT_S
from hrnet_ray.tracking import default_tracking_uri
from hrnet_ray.training.checkpoint_store import STATE_FILE
from hrnet_ray.training.fault_injection import ALLOW_FAULTS_ENV_VAR, FAULTS_ENV_VAR
from tests.chaos.commands import NET, when
from tests.chaos.small_cluster import calm_environment
from tests.chaos.struck import assert_same

pytestmark = pytest.mark.chaos

EPOCHS = 3
A_WHILE_S = 0.3  # the quickest machine so far takes 1.6 s for an epoch
WITHIN_S = 30  # what `ray job stop` waits before it kills


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """Tigers enough for epochs of some seconds, in steps of four."""
    out = tmp_path_factory.mktemp("data") / "pack"
    prepare(SyntheticArgs(kind="tigers", num_train=200, num_val=4, out=out, max_image_size=96))
    return read_manifest(out)


def words(verb: str, pack: DatasetManifest, storage: Path, *more: str) -> list[str]:
    one = ["--search.num-trials", "1", "--search.scheduler", "none"] if verb == "tune" else []
    return [
        *(sys.executable, "-m", "hrnet_ray.cli", verb, "--name", "run", *NET.split()),
        *("--optim.epochs", str(EPOCHS), "--optim.batch-size", "4", "--cluster.device", "cpu"),
        *("--data.root", str(pack.root), "--cluster.storage-path", str(storage)),
        *("--cluster.log-sample-order", *one, *more),
    ]


def run_folder(verb: str, storage: Path) -> Path:
    run = storage / "pack" / "run"
    return run / "trials" / "01" if verb == "tune" else run


def finish(command: list[str]) -> str:
    ended = subprocess.run(
        command, env=calm_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="session")
def undisturbed(
    pack: DatasetManifest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], RunResult]:
    """What a command leaves when nobody stops it."""

    @cache
    def left_by(verb: str, workers: int) -> RunResult:
        storage = tmp_path_factory.mktemp("undisturbed")
        finish(words(verb, pack, storage, "--cluster.num_workers", str(workers)))
        return outcome(run_folder(verb, storage))

    return left_by


def in_second_epoch(run: Path) -> bool:
    """Whether the first one has been recorded: `A_WHILE_S` later there are steps of the second."""
    return len(read_metrics(run)) == 1


@pytest.mark.parametrize(
    ("verb", "workers", "number", "group"),
    [
        ("train", 2, signal.SIGINT, True),  # Ctrl-C goes to all that the terminal started
        ("tune", 1, signal.SIGTERM, False),
    ],
)
def test_stopped_in_mid_epoch_it_saves_first_and_no_step_is_done_twice(
    verb: str, workers: int, number: signal.Signals, group: bool, pack, undisturbed, tmp_path
):
    command = words(verb, pack, tmp_path, "--cluster.num_workers", str(workers))
    run = run_folder(verb, tmp_path)

    with subprocess.Popen(
        command,
        env=calm_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as stopped:
        when(lambda: in_second_epoch(run) or stopped.poll() is not None)
        time.sleep(A_WHILE_S)
        asked = time.monotonic()
        (os.killpg if group else os.kill)(stopped.pid, number)
        said = stopped.communicate(timeout=60)[0]
        took = time.monotonic() - asked

    assert stopped.returncode == 130, said
    assert "stopping: saving first (once more to stop at once)" in said
    assert "stopped; the same command goes on from here" in said
    assert "Traceback" not in said
    assert took < WITHIN_S
    assert [entry["epoch"] for entry in read_metrics(run)] == [0]
    state = torch.load(run / "ray" / "paused_0001" / STATE_FILE, weights_only=True)
    steps = len((run / "data" / "order" / "epoch_0000.txt").read_text().splitlines())
    assert 0 < len(state["progress"]["begun"]["bad"]) < steps
    assert statuses(tmp_path) == {"KILLED"}

    finish(command)

    assert_same(outcome(run), undisturbed(verb, workers))
    assert not list((run / "ray").glob("paused_*"))
    assert not (run / "stop").exists()
    assert statuses(tmp_path) == {"FINISHED"}


def outcome(run: Path) -> RunResult:
    return RunResult(run, "OKS_AP", 0.0, 0, EPOCHS)


def statuses(storage: Path) -> set[str]:
    client = MlflowClient(default_tracking_uri(storage))
    board = client.get_experiment_by_name("hrnet/pack")
    return {run.info.status for run in client.search_runs([board.experiment_id])}


def test_a_second_signal_stops_at_once(pack, tmp_path):
    command = words("train", pack, tmp_path)
    run = run_folder("train", tmp_path)
    hangs = {
        ALLOW_FAULTS_ENV_VAR: "1",
        FAULTS_ENV_VAR: "hang:epoch=0,step=50",
    }  # and will never have saved

    with subprocess.Popen(
        command,
        env=calm_environment() | hangs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as stopped:
        when(lambda: list(run.glob("debug/faults/*-hang.json")) or stopped.poll() is not None)
        asked = time.monotonic()
        stopped.send_signal(signal.SIGINT)
        time.sleep(2)
        assert stopped.poll() is None  # it waits
        stopped.send_signal(signal.SIGINT)
        said = stopped.communicate(timeout=60)[0]
        took = time.monotonic() - asked

    assert stopped.returncode == 130, said
    assert took < SAVE_TIMEOUT_S
