"""What a run leaves: `runs/<data set>/<run>/`, the same names every time.

resolved_config.json command.txt environment.json metrics.jsonl events.jsonl summary.json run.log, and the
folders data/ plots/ predictions/ model/ ray/ (the checkpoints). MLflow's artifact tree has the same
names. For MLflow alone: .mlflow/run_key (by which its run is found), .mlflow/run.json (what it shall know
besides), system_metrics.jsonl (how busy the machine was), .mlflow/sync_state.json (what it knows). `runs/latest` leads to
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

from hrnet_ray.config import ClusterConfig, ExperimentConfig, diff_configs, flatten_config
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.errors import ClusterError, DataError, UsageError
from hrnet_ray.inference.model_package import WEIGHTS_FILE
from hrnet_ray.runs.lock import link_exclusive
from hrnet_ray.runs.log_capture import RUN_LOG, get_shell_command

ARTIFACTS = (
    "resolved_config.json",
    "command.txt",
    "environment.json",
    "metrics.jsonl",
    "events.jsonl",
    "summary.json",
    RUN_LOG,
    "dataset_report",
    "plots",
    "predictions",
    "model",
)
LATEST_LINK = "latest"
REPORTED_PACKAGES = ("torch", "ray", "mlflow", "numpy", "opencv-python", "pyarrow", "optuna")


def open_run_dir(
    experiment: ExperimentConfig,
    cluster: ClusterConfig,
    manifest: DatasetManifest,
    *,
    search_settings: dict[str, str] | None = None,
) -> Path:
    """Make the run's folder, or go on in it when its settings are the same.

    Raises:
        UsageError: another experiment has this name, the differing settings are listed; or the
            data set is called `latest`.
        ClusterError: the storage cannot be written to.
        DataError: what the run was begun with cannot be read any more.
    """
    if manifest.name == LATEST_LINK:
        raise UsageError(
            "a data set of this name has no place beside the link to the last run",
            f"{manifest.root}: name {LATEST_LINK!r}",
            "prepare it with another --name",
        )
    folder = Path(cluster.storage_path).absolute() / manifest.name / experiment.name
    settings = json.loads(json.dumps(flatten_config(experiment) | {"data.digest": manifest.digest}))
    settings |= {"search": search_settings} if search_settings else {}
    path = folder / "resolved_config.json"
    try:
        if not path.is_file():
            _write_initial_files(folder, path, settings)
        _require_same_settings(json.loads(path.read_text(encoding="utf-8")), settings, folder)
        check_writable(folder)
        _link_latest(folder, Path(cluster.storage_path).absolute() / LATEST_LINK)
    except OSError as error:
        raise ClusterError(
            "the storage folder cannot be written to",
            f"--cluster.storage-path {cluster.storage_path} on {platform.node()}: {error.strerror or error}",
            "free some space, or give a folder that every node can write to",
        ) from error
    except ValueError as error:
        raise DataError(
            "the settings of this run cannot be read",
            f"{path}: {error}",
            "give the run another --name, or remove this file if its settings are the same",
        ) from error
    return folder


def _write_initial_files(folder: Path, settings_path: Path, settings: dict[str, Any]) -> None:
    """Write with what a run is made; of two commands that begin together, one has its way."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "command.txt").write_text(get_shell_command() + "\n", encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps(collect_environment(), indent=2))
    part = settings_path.with_name(f".{settings_path.name}-{platform.node()}-{os.getpid()}")
    try:
        part.write_text(json.dumps(settings, indent=2), encoding="utf-8")
        link_exclusive(part, settings_path)
    finally:
        part.unlink(missing_ok=True)


def _link_latest(folder: Path, link: Path) -> None:
    """Let `runs/latest` lead to the run that was asked for last, where links can be made."""
    part = link.with_name(f".{link.name}-{platform.node()}-{os.getpid()}")
    with suppress(OSError):
        if link.is_symlink() or not link.exists():
            part.symlink_to(folder.relative_to(link.parent), target_is_directory=True)
            part.replace(link)


def record_cluster_info(folder: Path, cluster_info: dict[str, Any]) -> None:
    """Add what the cluster had when the run began to `environment.json`."""
    path = folder / "environment.json"
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a crash cut it short
        noted = collect_environment()
    if "cluster" not in noted:
        path.write_text(json.dumps(noted | {"cluster": cluster_info}, indent=2), encoding="utf-8")


def check_writable(folder: Path) -> None:
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


def _require_same_settings(
    saved_settings: dict[str, Any], new_settings: dict[str, Any], folder: Path
) -> None:
    # Where the data lie may change; what they are, their digest tells.
    parts = (
        {k: v for k, v in one.items() if k != "data.root"} for one in (saved_settings, new_settings)
    )
    differing = diff_configs(*parts)
    if not differing:
        return
    fix = "give this one another --name, or repeat the first command to go on with that one"
    if [text.partition(":")[0] for text in differing] == ["optim.epochs"]:
        model = folder / "model" / WEIGHTS_FILE
        fix = f"to train on with its model, give another --name and --model.pretrained {model}"
    raise UsageError(
        f"a run named {folder.name!r} is there already, with other settings",
        f"{folder}: {'; '.join(differing[:5])}",
        fix,
    )


def build_checkpoint_provenance(
    experiment: ExperimentConfig, manifest: DatasetManifest, *, num_workers: int
) -> dict[str, Any]:
    """What a checkpoint says of its origin."""
    settings = json.dumps(flatten_config(experiment), sort_keys=True).encode()
    return {
        "config": sha256(settings).hexdigest(),
        "data": manifest.digest,
        "seed": experiment.seed,
        "workers": num_workers,
        **{name: _get_package_version(name) for name in ("torch", "ray")},
    }


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """The figures that a run ended with."""
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")


def collect_environment() -> dict[str, Any]:
    """With what the numbers were made."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: _get_package_version(name) for name in REPORTED_PACKAGES},
        "git": get_git_commit(),
    }


def get_git_commit() -> str:
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


def _get_package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
