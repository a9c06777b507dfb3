"""`ray job submit` against a head of our own, on loopback, with token authentication."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The address of a real head's job server. It ends by the pid that we started."""
    port, dashboard = _free_port(), _free_port()
    short = tempfile.mkdtemp(prefix="ray")  # pytest's own path is too long for Ray's sockets
    started = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={port}",
            f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
            "--include-dashboard=true", "--node-ip-address=127.0.0.1",
            "--object-store-memory=300000000", "--disable-usage-stats", f"--temp-dir={short}",
        ],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=(tmp_path / "head.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(dashboard, started, tmp_path / "head.log")
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        _end(started)
        shutil.rmtree(short, ignore_errors=True)


def _end(head: subprocess.Popen) -> None:
    """End the head and what descends from it, and nothing else."""
    if head.poll() is not None:
        return
    family = psutil.Process(head.pid).children(recursive=True)
    for process in [*family, head]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()
    psutil.wait_procs(family, timeout=15)


def _wait_for(port: int, head: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        assert head.poll() is None, log.read_text()[-2000:]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"no job server after 60 s\n{log.read_text()[-2000:]}")


def _submit(head: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Submit, and again while the head says that its agent is still on its way."""
    for _ in range(30):
        submitted = subprocess.run(
            [RAY, "job", "submit", "--address", head, "--working-dir", ".", "--", *command],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        if "No available agent" not in submitted.stderr:
            break
        time.sleep(2)
    return submitted


@pytest.mark.ray
def test_the_search_runs_as_a_submitted_job(head, tmp_path):
    storage = tmp_path / "runs"
    command = ["python", "experiments/tune_atrw.py", "--smoke", "--cluster.storage", str(storage)]

    submitted = _submit(head, command)

    print(submitted.stdout[-4000:], submitted.stderr[-2000:])
    assert submitted.returncode == 0
    assert re.search(r"best OKS_AP \d\.\d{4} with optim\.lr", submitted.stdout)
    assert "\r" not in submitted.stdout  # no bars in a log
    trials = (storage / "tigers" / "tune-w32-192x256-smoke" / "trials.csv").read_text()
    assert len(trials.splitlines()) == 1 + 2
