"""Workers and drivers are killed without a word; the same command, or Ray itself, goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from hrnet_ray.runtime.records import read_epochs
from hrnet_ray.runtime.train import fit

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.chaos

EPOCHS = 5


def _when(holds: Callable[[], bool], *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def _our_workers() -> list[psutil.Process]:
    """Training workers that descend from this very process; nobody else's are looked at."""
    family = psutil.Process().children(recursive=True)
    return [p for p in family if p.cmdline() and p.cmdline()[0].startswith("ray::RayTrainWorker")]


def test_a_run_whose_worker_is_killed_ends_with_the_same_figures(ray_session, tiny, here):
    longer = replace(tiny, optim=replace(tiny.optim, epochs=EPOCHS))
    calm = fit(replace(longer, name="calm"), here)
    folder = Path(here.storage).absolute() / "tigers" / "hurt"
    killed: list[int] = []

    def kill() -> None:
        _when(lambda: len(read_epochs(folder)) >= 2, within_s=120)
        victim = _our_workers()[-1]
        killed.append(victim.pid)
        victim.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    hurt = fit(replace(longer, name="hurt"), here)
    killer.join()

    assert len(killed) == 1
    assert [entry["epoch"] for entry in read_epochs(hurt.folder)] == list(range(EPOCHS))
    for before, after in zip(read_epochs(calm.folder), read_epochs(hurt.folder), strict=True):
        for name in ("train/loss", "val/OKS_AP", "val/EPE_px"):
            assert after[name] == before[name], (name, after["epoch"])  # bit for bit


def test_the_same_command_goes_on_after_its_driver_was_killed(tmp_path):
    command = [sys.executable, "experiments/train_atrw.py", "--smoke", "--cluster.device", "cpu"]
    command += ["--cluster.storage", str(tmp_path)]
    folder = tmp_path / "tigers" / "w48-192x256-smoke"
    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    family = []
    try:
        _when(lambda: len(read_epochs(folder)) >= 1, within_s=180)
    finally:
        family = psutil.Process(first.pid).children(recursive=True)
        os.kill(first.pid, signal.SIGKILL)
    first.wait()
    psutil.wait_procs(family, timeout=60)
    done = len(read_epochs(folder))

    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    print(second.stdout[-2000:], second.stderr[-2000:])
    assert second.returncode == 0
    assert (done == 2) or f"after epoch {done}" in second.stdout
    assert [entry["epoch"] for entry in read_epochs(folder)] == [0, 1]
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 2
