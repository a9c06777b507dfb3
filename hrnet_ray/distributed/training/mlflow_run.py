"""The MLflow run of a run folder: its name, params and tags."""

import getpass
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from hrnet_ray.config import ExperimentConfig, flatten_config
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.inference.model_package import compute_file_hashes
from hrnet_ray.runs.run_dir import get_git_commit
from hrnet_ray.tracking import DatasetVersion, MlflowExperiment, RunLogger

MAX_PARAMS = 40
"""Params of an MLflow run at most: its table of runs has one column for each."""
EXCLUDED_PARAMS = {
    "name",  # the name of the MLflow run
    "data.root",
    "model.stem",
    "model.allow_partial_load",
    "augment.half_body_min_visible",
    "optim.lr_reference_batch_size",
    "optim.compile",
    "evaluation.shift_heatmap",
    "evaluation.val_interval",
    "evaluation.batch_size",
}
"""Settings that are only in resolved_config.json."""


def open_mlflow_run(
    mlflow_experiment: MlflowExperiment,
    folder: Path,
    experiment: ExperimentConfig,
    manifest: DatasetManifest,
    *,
    kind: str,
    num_workers: int,
    name: str | None = None,
    parent: RunLogger | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
) -> RunLogger:
    """Open the MLflow run of a run folder; the same folder always has the same MLflow run."""
    settings = flatten_config(experiment) if params is None else params
    return RunLogger.open_or_resume(
        mlflow_experiment,
        folder,
        name=name or experiment.name,
        params=select_params(settings, folder) | {"data.name": manifest.name, "cluster.num_workers": num_workers},
        tags=_build_tags(folder, experiment, manifest, kind) | (tags or {}),
        datasets=[_build_dataset_version(manifest, split) for split in ("train", "val")],
        parent_run=parent,
    )


def tag_model_hashes(run: RunLogger, folder: Path) -> None:
    """Record the SHA-256 of the model files, so that a later change in MLflow is detected."""
    try:
        run.log_summary({}, tags=compute_file_hashes(folder / "model"))
    except OSError:  # a trial without a score has no model
        return


def select_params(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Select the settings that become params: at most 40, searched ones always included."""
    try:
        resolved = json.loads((folder / "resolved_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        resolved = {}
    searched = resolved.get("search", {})
    excluded = EXCLUDED_PARAMS - resolved.get("sampled_params", {}).keys() - searched.keys()
    return {name: searched.get(name, value) for name, value in settings.items() if name not in excluded}


def _build_tags(folder: Path, experiment: ExperimentConfig, manifest: DatasetManifest, kind: str) -> dict[str, str]:
    commit = get_git_commit()
    tags = {
        "kind": kind,
        "study": experiment.name if kind in ("study", "trial") else "",
        "user": _get_user(),
        "data.name": manifest.name,
        "data.digest": manifest.digest,
        "git.sha": commit.rstrip("+"),
        "git.dirty": str(commit.endswith("+")).lower(),
        "hrnet_ray.version": version("hrnet-ray"),
        "ray.version": ray.__version__,
        "ray.job_id": os.environ.get("RAY_JOB_SUBMISSION_ID", ""),
        "run.folder": str(folder),
        # MLflow fills its own columns from these.
        "mlflow.user": _get_user(),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.git.commit": commit.rstrip("+"),
    }
    return {name: value for name, value in tags.items() if value}


def _build_dataset_version(manifest: DatasetManifest, split: str) -> DatasetVersion:
    return DatasetVersion(
        name=f"{manifest.name}-{split}",
        digest=manifest.digest,
        root=str(manifest.root),
        context=split,
    )


def _get_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return str(os.getuid())
