"""Shared fixtures: paths, seeds, and one local Ray for the session."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from hypothesis import settings

pytest_plugins = ["tests.data_fixtures", "tests.tiny_experiment"]

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

TIMEOUT_S = {"ray": 480, "chaos": 600}
"""Seconds by marker; pyproject.toml has the timeout of all other tests."""
MAX_ID_CHARS = 200
"""Characters of a test id: longer ones fill the log and cannot be copied into a command."""
MAX_VALUE_CHARS = 24
"""Characters of a parameter's value in a test id, without an explicit id."""

# The tests must not reach another Ray or MLflow that the shell of pytest has set.
for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
    os.environ.pop(name, None)

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray binds 127.0.0.1 only, on Linux too
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report arrives after 0.2 s, not 2 s
    # Authentication as on a cluster; with this token Ray does not write ~/.ray/auth_token.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


# The same examples in each run; `--hypothesis-profile=new` generates new ones.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("new", deadline=None)
settings.load_profile("same")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Shorten the values of long texts in test ids."""
    if isinstance(val, bytes):
        val = val[: MAX_VALUE_CHARS + 1].decode("ascii", "backslashreplace")
    if isinstance(val, str) and len(val) > MAX_VALUE_CHARS:
        return f"{val[:MAX_VALUE_CHARS]}..."
    return None


def require_short_ids(node_ids: Iterable[str]) -> None:
    """Raise if a test id has more than MAX_ID_CHARS characters.

    Raises:
        pytest.UsageError: there are such ids; the message has the longest one's first characters.
    """
    longest = max(node_ids, key=len, default="")
    if len(longest) > MAX_ID_CHARS:
        raise pytest.UsageError(
            f"a test id must have at most {MAX_ID_CHARS} characters, got {len(longest):,}: "
            f"{longest[:MAX_ID_CHARS]}... Pass ids=[...] to pytest.mark.parametrize."
        )


@pytest.hookimpl(wrapper=True)  # before the hook of xdist, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Run the quick tests first, then `ray`, then `chaos`; give the slow ones more time.

    With two processes (`make test`), one takes all `ray` tests, which mostly wait, and the other
    the quick ones.
    """
    require_short_ids(item.nodeid for item in items)

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
    """Limit torch to one thread, so that parallel tests share a small machine."""
    if "torch" in sys.modules:  # the test modules are imported by now
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Seed all random generators, so that a test does not depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def as_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the shape checks of the tests, so that the package's own setting applies."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder with pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real images and annotations beside the checkout; skip without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the checkout has no ../shared/data beside it")
    return SHARED_DATA


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of Chromium; skip without it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    return found


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start a local Ray with two CPUs for all `ray` tests, and stop it after them."""
    import ray

    from hrnet_ray.distributed.cluster.session_dir import use_private_ray_tmpdir, write_address_file

    use_private_ray_tmpdir()
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=500 * 1024**2,
        include_dashboard=True,  # Ray Train gets the list of live controllers from it
        logging_level="warning",
    )
    write_address_file(ray.get_runtime_context().gcs_address)
    yield
    ray.shutdown()
