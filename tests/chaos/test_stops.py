"""A person's Ctrl-C, or the SIGTERM of `ray job stop`: an honest end, and the command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hrnet_ray.data.manifest import Manifest
from hrnet_ray.runtime.records import read_epochs
from hrnet_ray.tracking import database_uri

pytestmark = pytest.mark.chaos

EPOCHS = 12
NET = "--data.input-hw 32 64 --model.width 4 --model.modules 1 1 1 --model.blocks 1 --model.stem 8"
RUN = f"{NET} --optim.epochs {EPOCHS} --optim.batch-size 4 --cluster.device cpu"


def command(verb: str, tigers: Manifest, storage: Path) -> list[str]:
    more = ["--search.trials", "2", "--search.at-once", "1"] if verb == "tune" else []
    places = ["--data.root", str(tigers.root), "--cluster.storage", str(storage)]
    return [
        *(sys.executable, "-m", "hrnet_ray.cli", verb, "--name", "stopped"),
        *RUN.split(),
        *places,
        *more,
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["train", "tune"])
def test_a_stopped_command_says_so_and_goes_on(tigers, tmp_path, verb: str, number: signal.Signals):
    words = command(verb, tigers, tmp_path)
    run = tmp_path / "tigers" / "stopped"
    first = run / "trials" / "01" if verb == "tune" else run
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}

    with subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as stopped:
        deadline = time.monotonic() + 120
        while len(read_epochs(first)) < 2:
            assert stopped.poll() is None, stopped.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        stopped.send_signal(number)
        said = stopped.communicate(timeout=60)[0]

    assert stopped.returncode == 130, said
    assert "stopped; the same command goes on from here" in said
    assert "Traceback" not in said
    assert len(read_epochs(first)) < EPOCHS
    client = MlflowClient(database_uri(tmp_path))
    board = client.get_experiment_by_name("hrnet/tigers")
    assert {r.info.status for r in client.search_runs([board.experiment_id])} == {"KILLED"}

    again = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)

    assert again.returncode == 0, again.stdout + again.stderr
    assert [entry["epoch"] for entry in read_epochs(first)] == list(range(EPOCHS))
    assert "FINISHED" in {r.info.status for r in client.search_runs([board.experiment_id])}
