"""What the tests share: where things are, and one local Ray for the session."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from hypothesis import settings

pytest_plugins = ["tests.data_fixtures", "tests.tiny_experiment"]

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

TIMEOUT_S = {"ray": 480, "chaos": 600}  # pyproject.toml holds the timeout of all other tests

# Nobody else's Ray or MLflow may be reached, whatever the shell that started pytest had set.
for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
    os.environ.pop(name, None)

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray binds 127.0.0.1 only, on Linux too
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report is seen after 0.2 s, not 2 s
    # Authentication as on a cluster; a token of our own keeps Ray from writing ~/.ray/auth_token.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


# The same examples in each run; `--hypothesis-profile=new` looks for others.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("new", deadline=None)
settings.load_profile("same")


@pytest.hookimpl(wrapper=True)  # before anybody else's: xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Run the quick tests first, then `ray`, then `chaos`; give the slow ones more time.

    With two processes (`make test`), one takes all `ray` tests, which mostly wait, and the other
    the quick ones.
    """

    def slowness(item: pytest.Item) -> int:
        return sum(item.get_closest_marker(mark) is not None for mark in TIMEOUT_S)

    for item in items:
        if item.get_closest_marker("timeout") is None:
            limits = [s for mark, s in TIMEOUT_S.items() if item.get_closest_marker(mark)]
            if limits:
                item.add_marker(pytest.mark.timeout(max(limits)))
        if slowness(item):
            item.add_marker(pytest.mark.xdist_group("ray"))
    items.sort(key=slowness)  # a stable sort: files keep their order
    yield


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Hold torch to one thread, so that tests don't crowd each other out on a small machine."""
    if "torch" in sys.modules:  # the test modules are imported by now
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Seed what draws, so that a test draws the same whichever tests its process ran before."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def as_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave annotations to the package itself; elsewhere the tests' own hook is there first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder with pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures and annotations beside the checkout, where a machine has them."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the checkout has no ../shared/data beside it")
    return SHARED_DATA


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program, where a machine has one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    return found


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray of our own with two CPUs, for all `ray` tests; it is gone when they end."""
    import ray

    from hrnet_ray.distributed.cluster.session_dir import use_private_ray_tmpdir, write_address_file

    use_private_ray_tmpdir()
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=500 * 1024**2,
        include_dashboard=True,  # Ray Train asks it which controllers are alive
        logging_level="warning",
    )
    write_address_file(ray.get_runtime_context().gcs_address)
    yield
    ray.shutdown()
