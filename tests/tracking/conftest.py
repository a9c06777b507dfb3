"""A real MLflow server, and a proxy before it that fails on demand; runs to tell it of."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrnet_ray.tracking.mlflow_store import MlflowStore
from tests.tracking.proxy import Proxy
from tests.tracking.serving import serving


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's database, artifacts and log."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="session")
def server_port(server_folder: Path) -> Iterator[int]:
    """`mlflow server` on loopback."""
    with serving(server_folder) as port:
        yield port


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


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with all tables; making them takes seconds."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowStore(f"sqlite:///{path}")
    return path


@pytest.fixture
def storage(tmp_path: Path, empty_database: Path) -> Path:
    """A storage folder whose database is made already."""
    storage = tmp_path / "runs"
    storage.mkdir()
    shutil.copyfile(empty_database, storage / "mlflow.db")
    return storage
