"""What a run leaves: `runs/<data set>/<run>/`, the same names every time.

resolved.json command.txt environment.json metrics.jsonl faults.jsonl summary.json log.txt, and the
folders data/ plots/ predictions/ model/ ray/ (the checkpoints). MLflow's artifact tree has the same
names. For MLflow alone: run.id (by which its run is found), tracked.json (what it shall know
besides), system.jsonl (how busy the machine was), told.json (what it knows). `runs/latest` leads to
the run that was asked for last.
"""

import json
import os
import platform
import subprocess
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hrnet_ray.config import Cluster, Experiment, differences, flatten
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.errors import ClusterError, DataError, UsageError
from hrnet_ray.inference.model_package import WEIGHTS
from hrnet_ray.runs.lock import put_once
from hrnet_ray.runs.log_capture import LOG, command

ARTIFACTS = (
    "resolved.json",
    "command.txt",
    "environment.json",
    "metrics.jsonl",
    "faults.jsonl",
    "summary.json",
    LOG,
    "data",
    "plots",
    "predictions",
    "model",
)
LATEST = "latest"
PACKAGES = ("torch", "ray", "mlflow", "numpy", "opencv-python", "pyarrow", "optuna")


def open_run_folder(
    experiment: Experiment,
    cluster: Cluster,
    manifest: Manifest,
    *,
    searched: dict[str, str] | None = None,
) -> Path:
    """Make the run's folder, or go on in it when its settings are the same.

    Raises:
        UsageError: another experiment has this name, the differing settings are listed; or the
            data set is called `latest`.
        ClusterError: the storage cannot be written to.
        DataError: what the run was begun with cannot be read any more.
    """
    if manifest.name == LATEST:
        raise UsageError(
            "a data set of this name has no place beside the link to the last run",
            f"{manifest.root}: name {LATEST!r}",
            "prepare it with another --name",
        )
    folder = Path(cluster.storage).absolute() / manifest.name / experiment.name
    settings = json.loads(json.dumps(flatten(experiment) | {"data.digest": manifest.digest}))
    settings |= {"search": searched} if searched else {}
    path = folder / "resolved.json"
    try:
        if not path.is_file():
            _begin(folder, path, settings)
        _same(json.loads(path.read_text(encoding="utf-8")), settings, folder)
        probe_folder(folder)
        _link_latest(folder, Path(cluster.storage).absolute() / LATEST)
    except OSError as error:
        raise ClusterError(
            "the storage folder cannot be written to",
            f"--cluster.storage {cluster.storage} on {platform.node()}: {error.strerror or error}",
            "free some space, or give a folder that every node can write to",
        ) from error
    except ValueError as error:
        raise DataError(
            "the settings of this run cannot be read",
            f"{path}: {error}",
            "give the run another --name, or remove this file if its settings are the same",
        ) from error
    return folder


def _begin(folder: Path, path: Path, settings: dict[str, Any]) -> None:
    """Write with what a run is made; of two commands that begin together, one has its way."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "command.txt").write_text(command() + "\n", encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps(environment(), indent=2))
    part = path.with_name(f".{path.name}-{platform.node()}-{os.getpid()}")
    try:
        part.write_text(json.dumps(settings, indent=2), encoding="utf-8")
        put_once(part, path)
    finally:
        part.unlink(missing_ok=True)


def _link_latest(folder: Path, link: Path) -> None:
    """Let `runs/latest` lead to the run that was asked for last, where links can be made."""
    part = link.with_name(f".{link.name}-{platform.node()}-{os.getpid()}")
    with suppress(OSError):
        if link.is_symlink() or not link.exists():
            part.symlink_to(folder.relative_to(link.parent), target_is_directory=True)
            part.replace(link)


def note_machines(folder: Path, machines: dict[str, Any]) -> None:
    """Add what the cluster had when the run began to `environment.json`."""
    path = folder / "environment.json"
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a crash cut it short
        noted = environment()
    if "cluster" not in noted:
        path.write_text(json.dumps(noted | {"cluster": machines}, indent=2), encoding="utf-8")


def probe_folder(folder: Path) -> None:
    """Write a few bytes into a folder, through to the disk, and remove them again.

    Raises:
        OSError: that is not possible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{platform.node()}-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def _same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    # Where the data lie may change; what they are, their digest tells.
    parts = ({k: v for k, v in one.items() if k != "data.root"} for one in (before, now))
    differing = differences(*parts)
    if not differing:
        return
    fix = "give this one another --name, or repeat the first command to go on with that one"
    if [text.partition(":")[0] for text in differing] == ["optim.epochs"]:
        model = folder / "model" / WEIGHTS
        fix = f"to train on with its model, give another --name and --model.init {model}"
    raise UsageError(
        f"a run named {folder.name!r} is there already, with other settings",
        f"{folder}: {'; '.join(differing[:5])}",
        fix,
    )


def made_with(experiment: Experiment, manifest: Manifest, *, workers: int) -> dict[str, Any]:
    """What a checkpoint says of its origin."""
    settings = json.dumps(flatten(experiment), sort_keys=True).encode()
    return {
        "config": sha256(settings).hexdigest(),
        "data": manifest.digest,
        "seed": experiment.seed,
        "workers": workers,
        **{name: _version(name) for name in ("torch", "ray")},
    }


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """The figures that a run ended with."""
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")


def environment() -> dict[str, Any]:
    """With what the numbers were made."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_commit(),
    }


def git_commit() -> str:
    """The commit of the working tree that the command ran in, with `+` when it had changes."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
