"""A real `mlflow server` on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_S = 120  # 5 s on a calm machine


@contextmanager
def serving(folder: Path, *more: str, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """Its port; its database, artifacts and log lie in the folder."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"),
        *("--artifacts-destination", str(folder / "artifacts"), *more),
    ]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(environment or {})}
    with (folder / "run.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=os.environ | settings,
            start_new_session=True,
            cwd=folder,
        )
    try:
        _wait_for(port, process, folder / "run.log")
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the server and its worker, started just above
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"mlflow server did not start: {log.read_text()[-2000:]}")
