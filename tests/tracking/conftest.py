"""A real MLflow server, and a proxy before it that fails on demand; runs to tell it of."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrnet_ray.tracking.server import Server
from tests.tracking.proxy import Proxy

START_S = 120  # 5 s on a calm machine


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's database, artifacts and log."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="session")
def server_port(server_folder: Path) -> Iterator[int]:
    """`mlflow server` on loopback."""
    folder = server_folder
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=folder
        )
    try:
        _wait_for(port, process, folder / "log.txt")
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the server and its worker, started just above
        process.wait(30)


@pytest.fixture
def proxy(server_port: int) -> Iterator[Proxy]:
    """The way to the server that a test can cut."""
    proxy = Proxy(server_port)
    yield proxy
    proxy.close()


@pytest.fixture
def dead_uri() -> Iterator[str]:
    """An address of this machine at which nobody listens."""
    with socket.socket() as taken:  # bound, never listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"mlflow server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with all tables; making them takes seconds."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    Server(f"sqlite:///{path}")
    return path


@pytest.fixture
def storage(tmp_path: Path, empty_database: Path) -> Path:
    """A storage folder whose database is made already."""
    storage = tmp_path / "runs"
    storage.mkdir()
    shutil.copyfile(empty_database, storage / "mlflow.db")
    return storage
