"""Ctrl-C, the SIGTERM of `ray job stop` and a lost run lock: the run ends, and can be resumed."""

import json
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
from hrnet_ray.runs.controller import SAVE_TIMEOUT_S
from hrnet_ray.runs.event_log import read_metrics
from hrnet_ray.runs.lock import LOCK_FILE
from hrnet_ray.tracking import default_tracking_uri
from hrnet_ray.training.checkpoint_store import STATE_FILE
from hrnet_ray.training.fault_injection import ALLOW_FAULTS_ENV_VAR, FAULTS_ENV_VAR
from tests.chaos.commands import MODEL_FLAGS, wait_until
from tests.chaos.small_cluster import environment_without_ray
from tests.chaos.struck import assert_same

pytestmark = pytest.mark.chaos

EPOCHS = 3
DELAY_S = 0.3
"""Seconds into an epoch; the fastest machine so far takes 1.6 s for an epoch."""
STOP_TIMEOUT_S = 30
"""Seconds after which `ray job stop` kills."""


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """A dataset with epochs of some seconds in steps of four rows."""
    out = tmp_path_factory.mktemp("data") / "pack"
    prepare(SyntheticArgs(kind="tigers", num_train=200, num_val=4, out=out, max_image_size=96))
    return read_manifest(out)


def make_command(verb: str, pack: DatasetManifest, storage: Path, *more: str) -> list[str]:
    search = ["--search.num-trials", "1", "--search.scheduler", "none"] if verb == "tune" else []
    return [
        *(sys.executable, "-m", "hrnet_ray.cli", verb, "--size", "published", "--name", "run", *MODEL_FLAGS.split()),
        *("--optim.epochs", str(EPOCHS), "--optim.batch-size", "4", "--cluster.device", "cpu"),
        *("--data.root", str(pack.root), "--cluster.storage-path", str(storage)),
        *("--cluster.log-sample-order", *search, *more),
    ]


def run_folder(verb: str, storage: Path) -> Path:
    run = storage / "pack" / "run"
    return run / "trials" / "01" if verb == "tune" else run


def finish(command: list[str]) -> str:
    result = subprocess.run(
        command,
        env=environment_without_ray(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def undisturbed(pack: DatasetManifest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], RunResult]:
    """Run a command without a stop."""

    @cache
    def run_command(verb: str, workers: int) -> RunResult:
        storage = tmp_path_factory.mktemp("undisturbed")
        finish(make_command(verb, pack, storage, "--cluster.num-workers", str(workers)))
        return outcome(run_folder(verb, storage))

    return run_command


def in_second_epoch(run: Path) -> bool:
    """Whether the first epoch is recorded; `DELAY_S` later the second has some steps."""
    return len(read_metrics(run)) == 1


@pytest.mark.parametrize(
    ("verb", "workers", "number", "group"),
    [
        ("train", 2, signal.SIGINT, True),  # Ctrl-C reaches the whole process group
        ("tune", 1, signal.SIGTERM, False),
    ],
)
def test_a_stop_in_mid_epoch_saves_first_and_repeats_no_step(
    verb: str, workers: int, number: signal.Signals, group: bool, pack, undisturbed, tmp_path
):
    command = make_command(verb, pack, tmp_path, "--cluster.num-workers", str(workers))
    run = run_folder(verb, tmp_path)

    with subprocess.Popen(
        command,
        env=environment_without_ray(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as stopped:
        wait_until(lambda: in_second_epoch(run) or stopped.poll() is not None)
        time.sleep(DELAY_S)
        stopped_s = time.monotonic()
        (os.killpg if group else os.kill)(stopped.pid, number)
        output = stopped.communicate(timeout=60)[0]
        took_s = time.monotonic() - stopped_s

    assert stopped.returncode == 130, output
    assert "Saving before stopping (press Ctrl-C again to stop at once)." in output
    assert "Interrupted. Run the same command to resume." in output
    assert "Traceback" not in output
    assert took_s < STOP_TIMEOUT_S
    assert [entry["epoch"] for entry in read_metrics(run)] == [1]
    state = torch.load(run / "checkpoints" / "mid_epoch_0002" / STATE_FILE, weights_only=True)
    steps = len((run / "dataset_report" / "order" / "epoch_0001.txt").read_text().splitlines())
    assert 0 < len(state["progress"]["partial_epoch"]["skipped"]) < steps
    assert statuses(tmp_path) == {"KILLED"}

    finish(command)

    assert_same(outcome(run), undisturbed(verb, workers))
    assert not list((run / "checkpoints").glob("mid_epoch_*"))
    assert not (run / "stop_request").exists()
    assert statuses(tmp_path) == {"FINISHED"}


def outcome(run: Path) -> RunResult:
    return RunResult(run, "OKS_AP", 0.0, 0, EPOCHS)


def statuses(storage: Path) -> set[str]:
    client = MlflowClient(default_tracking_uri(storage))
    experiment = client.get_experiment_by_name("hrnet/pack")
    return {run.info.status for run in client.search_runs([experiment.experiment_id])}


def test_a_second_signal_stops_at_once(pack, tmp_path):
    command = make_command("train", pack, tmp_path)
    run = run_folder("train", tmp_path)
    hangs = {
        ALLOW_FAULTS_ENV_VAR: "1",
        FAULTS_ENV_VAR: "hang:epoch=0,step=50",
    }  # so that it cannot save

    with subprocess.Popen(
        command,
        env=environment_without_ray() | hangs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as stopped:
        wait_until(lambda: list(run.glob("debug/faults/*-hang.json")) or stopped.poll() is not None)
        stopped_s = time.monotonic()
        stopped.send_signal(signal.SIGINT)
        time.sleep(2)
        assert stopped.poll() is None  # it waits
        stopped.send_signal(signal.SIGINT)
        output = stopped.communicate(timeout=60)[0]
        took_s = time.monotonic() - stopped_s

    assert stopped.returncode == 130, output
    assert took_s < SAVE_TIMEOUT_S


def test_a_command_whose_lock_was_taken_over_ends_and_leaves_the_folder_to_the_other_command(pack, tmp_path):
    command = make_command("train", pack, tmp_path)
    run = run_folder("train", tmp_path)

    with subprocess.Popen(
        command,
        env=environment_without_ray(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as stopped:
        wait_until(lambda: in_second_epoch(run) or stopped.poll() is not None)
        (run / LOCK_FILE).write_text(json.dumps({"pid": 7, "host": "far", "since": "then", "token": "other"}))
        output = stopped.communicate(timeout=60)[0]

    assert stopped.returncode == 4, output
    assert "error: another command took over this run\n" in output
    assert f"{run}: process 7 on far since then" in output
    assert "Saving before stopping" not in output
    assert "Traceback" not in output
    assert (run / "stop_request").read_text() == "training"  # no request to the other command's training
    assert json.loads((run / LOCK_FILE).read_text())["token"] == "other"
    assert statuses(tmp_path) == {"KILLED"}
