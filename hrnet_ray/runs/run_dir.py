"""The folder of a run, `runs/<dataset>/<run>/`, with the same file names for every run.

Files: resolved_config.json, command.txt, environment.json, metrics.jsonl, events.jsonl,
summary.json, run.log, system_metrics.jsonl. Folders: dataset_report, plots, predictions, model,
checkpoints, .mlflow. MLflow's artifacts have the same names. `runs/latest` links to the newest run.
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
from hrnet_ray.utils.files import write_text_atomically

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
    """Create the run folder, or reopen it if its settings are the same.

    Raises:
        UsageError: a run of this name has other settings, or the dataset is named `latest`.
        ClusterError: the storage is not writable.
        DataError: the recorded settings cannot be read.
    """
    if manifest.name == LATEST_LINK:
        raise UsageError(
            f"the dataset name must not be {LATEST_LINK!r}, which is the link to the newest run",
            str(manifest.root),
            "prepare the dataset with another --name",
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
            "--cluster.storage-path must be writable",
            f"{cluster.storage_path} on {platform.node()}: {error.strerror or error}",
            "free some space, or choose a folder that every node can write to",
        ) from error
    except ValueError as error:
        raise DataError(
            "the settings of this run are unreadable",
            f"{path}: {error}",
            "choose another --name, or remove this file if the settings are the same",
        ) from error
    return folder


def _write_initial_files(folder: Path, settings_path: Path, settings: dict[str, Any]) -> None:
    """Write settings, command and environment; of two concurrent commands one wins."""
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
    """Point `runs/latest` at this run, where symbolic links are possible."""
    part = link.with_name(f".{link.name}-{platform.node()}-{os.getpid()}")
    with suppress(OSError):
        if link.is_symlink() or not link.exists():
            part.symlink_to(folder.relative_to(link.parent), target_is_directory=True)
            part.replace(link)


def record_cluster_info(folder: Path, cluster_info: dict[str, Any]) -> None:
    """Add the resources of the cluster at the start of the run to `environment.json`."""
    path = folder / "environment.json"
    try:
        environment = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a crash truncated it
        environment = collect_environment()
    if "cluster" not in environment:
        write_text_atomically(path, json.dumps(environment | {"cluster": cluster_info}, indent=2))


def check_writable(folder: Path) -> None:
    """Write, sync and remove a few bytes in a folder.

    Raises:
        OSError: the folder is not writable, or its disk is full.
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


def _require_same_settings(saved_settings: dict[str, Any], new_settings: dict[str, Any], folder: Path) -> None:
    # A run of an earlier version lacks the settings that were added since: their defaults change nothing.
    saved_settings = json.loads(json.dumps(flatten_config(ExperimentConfig()))) | saved_settings
    # The dataset may move; its digest identifies it.
    without_root = (
        {name: value for name, value in settings.items() if name != "data.root"}
        for settings in (saved_settings, new_settings)
    )
    differing = diff_configs(*without_root)
    if not differing:
        return
    fix = "choose another --name, or repeat the original command to resume that run"
    if [text.partition(":")[0] for text in differing] == ["optim.epochs"]:
        model = folder / "model" / WEIGHTS_FILE
        fix = f"to continue from its model, choose another --name and --model.pretrained {model}"
    raise UsageError(
        f"a run named {folder.name!r} exists with other settings",
        f"{folder}: {'; '.join(differing[:5])}",
        fix,
    )


def build_checkpoint_provenance(
    experiment: ExperimentConfig, manifest: DatasetManifest, *, num_workers: int
) -> dict[str, Any]:
    """Describe the origin of a checkpoint: settings, dataset, seed and package versions."""
    settings = json.dumps(flatten_config(experiment), sort_keys=True).encode()
    return {
        "config": sha256(settings).hexdigest(),
        "data": manifest.digest,
        "seed": experiment.seed,
        "workers": num_workers,
        **{name: _get_package_version(name) for name in ("torch", "ray")},
    }


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write the final figures of a run to `summary.json`."""
    write_text_atomically(folder / "summary.json", json.dumps(summary, indent=2))


def collect_environment() -> dict[str, Any]:
    """Describe Python, machine, packages and git commit of this process."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: _get_package_version(name) for name in REPORTED_PACKAGES},
        "git": get_git_commit(),
    }


def get_git_commit() -> str:
    """Return the git commit of the working directory, with `+` if it has changes."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()


def _get_package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
