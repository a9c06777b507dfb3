"""A run folder and its MLflow run."""

import os
from pathlib import Path
from typing import Any

import ray

from hrnet_ray.config import Experiment, flatten
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.runtime.judge import fixed16
from hrnet_ray.runtime.run_folder import git_commit
from hrnet_ray.tracking import Board, Run


def open_run(
    board: Board,
    folder: Path,
    experiment: Experiment,
    manifest: Manifest,
    *,
    kind: str,
    name: str | None = None,
    parent: Run | None = None,
    params: dict[str, Any] | None = None,
) -> Run:
    """The MLflow run of a run folder: the same folder is always the same run."""
    tags = {
        "kind": kind,
        "data.name": manifest.name,
        "data.digest": manifest.digest,
        "git.sha": git_commit(),
        "ray.version": ray.__version__,
        "ray.job_id": os.environ.get("RAY_JOB_SUBMISSION_ID", ""),
        "run.folder": str(folder),
    }
    run = Run.open(
        board,
        key=str(folder),
        name=name or experiment.name,
        params=flatten(experiment) if params is None else params,
        tags={name: value for name, value in tags.items() if value},
        parent=parent,
    )
    run.log_data(name=manifest.name, digest=manifest.digest, root=str(manifest.root))
    return run


def track_epoch(run: Run, folder: Path, entry: dict[str, Any]) -> None:
    """Copy a recorded epoch to MLflow: its numbers, and its picture where one was drawn."""
    metrics = {name: value for name, value in entry.items() if "/" in name}
    run.log_epoch(metrics, epoch=entry["epoch"], at_ms=entry["at_ms"])
    picture = fixed16(folder, entry["epoch"])
    if picture.is_file():
        run.log_picture(picture, name="val/fixed16", epoch=entry["epoch"])
