"""The Dockerfile, as far as it can be checked without a Docker engine."""

import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def steps(root: Path) -> list[tuple[str, str]]:
    """The instructions as (name, rest), with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (root / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


def copied(steps: list[tuple[str, str]]) -> list[str]:
    return [source for name, rest in steps if name == "COPY" for source in shlex.split(rest)[:-1]]


def test_everything_it_copies_is_there_and_not_ignored(root: Path, steps):
    ignore = (root / ".dockerignore").read_text().split()

    for source in copied(steps):
        assert (root / source).exists(), source
        assert f"!{source}" in ignore, f"{source} is left out by .dockerignore"


def test_it_copies_all_that_the_build_needs(root: Path, steps):
    project = tomllib.loads((root / "pyproject.toml").read_text())
    needed = {
        "pyproject.toml",
        "constraints.txt",
        *project["project"]["license-files"],
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    }

    before_pip = steps[: next(i for i, (_, rest) in enumerate(steps) if "pip install" in rest)]

    assert needed <= set(copied(before_pip))


def test_it_installs_the_tested_versions(steps):
    (pip,) = [rest for name, rest in steps if name == "RUN" and "pip install" in rest]

    assert "-c constraints.txt" in pip


def test_its_python_is_one_that_the_package_supports(root: Path, steps):
    project = tomllib.loads((root / "pyproject.toml").read_text())
    (base,) = [rest for name, rest in steps if name == "FROM"]

    assert project["project"]["requires-python"] == ">=3.11,<3.14"
    assert any(fnmatch(base, f"python:3.{minor}-slim") for minor in (11, 12, 13))


def test_it_brings_the_libraries_that_opencv_loads(steps):
    apt = " ".join(rest for name, rest in steps if name == "RUN" and "apt-get install" in rest)

    assert {"libgl1", "libglib2.0-0"} <= set(apt.split())


def test_it_does_not_run_as_root(steps):
    users = [rest for name, rest in steps if name == "USER"]

    assert users[-1:] == ["ray"]
    assert [name for name, _ in steps].index("USER") < [name for name, _ in steps].index("ENTRYPOINT")


def test_it_fetches_nothing_by_address(root: Path, steps):
    assert "ADD" not in [name for name, _ in steps]
    assert "://" not in (root / "Dockerfile").read_text()


def test_it_has_the_settings_of_the_cluster(root: Path, steps):
    (env,) = [rest for name, rest in steps if name == "ENV"]
    settings = dict(pair.split("=", 1) for pair in env.split())
    cluster = yaml.safe_load((root / "cluster" / "env.yaml").read_text())["env_vars"]

    assert cluster.items() <= settings.items()
    assert settings["RAY_AUTH_MODE"] == "token"
