"""A real Ray head of our own on loopback, with token authentication, and `ray job` against it."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
RAY = str(BIN / "ray")


@dataclass(frozen=True)
class Head:
    """Where it listens, what it is, and where it writes."""

    address: str
    process: subprocess.Popen
    session: Path

    def family(self) -> list[psutil.Process]:
        """The head and all that descends from it."""
        started = psutil.Process(self.process.pid)
        return [started, *started.children(recursive=True)]

    def job(self, *words: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        """`ray job WORDS`, from the folder of the repository."""
        env = dict(os.environ) if token is None else os.environ | {"RAY_AUTH_TOKEN": token}
        return subprocess.run(
            [RAY, "job", words[0], "--address", self.address, *words[1:]],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=env,
        )

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, and again while the head says that its agent is still on its way."""
        for _ in range(30):
            submitted = self.job("submit", *words)
            if "No available agent" not in submitted.stderr:
                break
            time.sleep(2)
        return submitted


@contextmanager
def ray_head(folder: Path) -> Iterator[Head]:
    """Start a head in the repository's folder; it ends by the pid that we started."""
    port, dashboard = _free_port(), _free_port()
    short = tempfile.mkdtemp(prefix="ray")  # pytest's own path is too long for Ray's sockets
    log = folder / "head.log"
    started = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={port}",
            f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
            f"--dashboard-agent-listen-port={_free_port()}",
            f"--ray-client-server-port={_free_port()}",
            "--include-dashboard=true", "--node-ip-address=127.0.0.1",
            "--object-store-memory=300000000", "--disable-usage-stats", f"--temp-dir={short}",
        ],
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        cwd=ROOT,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(dashboard, started, log)
        yield Head(f"http://127.0.0.1:{dashboard}", started, Path(short))
    finally:
        _end(started)
        shutil.rmtree(short, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end(head: subprocess.Popen) -> None:
    """End the head and what descends from it, and nothing else."""
    if head.poll() is not None:
        return
    family = psutil.Process(head.pid).children(recursive=True)
    for process in [*family, psutil.Process(head.pid)]:
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
