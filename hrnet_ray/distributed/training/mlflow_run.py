"""A run's folder and its MLflow run: what of an experiment is worth comparing there."""

import getpass
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from hrnet_ray.config import Experiment, flatten
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.inference.model_package import fingerprints
from hrnet_ray.runs.run_dir import git_commit
from hrnet_ray.tracking import Board, DataVersion, Run

MOST_PARAMS = 40
NOT_COMPARED = {
    "name",  # the run's own
    "data.root",
    "model.stem",
    "model.init_partial",
    "augment.half_body_above",
    "optim.lr_batch",
    "optim.compile",
    "evaluation.shift_heatmap",
    "evaluation.every",
    "evaluation.batch_size",
}
"""Settings that stay in resolved.json: a table of more than 40 columns compares nothing."""


def open_run(
    board: Board,
    folder: Path,
    experiment: Experiment,
    manifest: Manifest,
    *,
    kind: str,
    workers: int,
    name: str | None = None,
    parent: Run | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
) -> Run:
    """The MLflow run of a run's folder: the same folder is always the same run."""
    settings = flatten(experiment) if params is None else params
    return Run.open(
        board,
        folder,
        name=name or experiment.name,
        params=compared(settings, folder)
        | {"data.name": manifest.name, "cluster.workers": workers},
        tags=_tags(folder, experiment, manifest, kind) | (tags or {}),
        data=[_version(manifest, split) for split in ("train", "val")],
        parent=parent,
    )


def vouch_for_model(run: Run, folder: Path) -> None:
    """Note the sha256 of the run's model: what is changed in MLflow afterwards is refused."""
    try:
        run.log_summary({}, tags=fingerprints(folder / "model"))
    except OSError:  # a trial without a score has no model
        return


def compared(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings that become params: at most 40, and whatever is searched is among them."""
    try:
        resolved = json.loads((folder / "resolved.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        resolved = {}
    searched = resolved.get("search", {})
    left_out = NOT_COMPARED - resolved.get("drawn", {}).keys() - searched.keys()
    kept = {name: value for name, value in settings.items() if name not in left_out}
    return {name: searched.get(name, value) for name, value in kept.items()}


def _tags(folder: Path, experiment: Experiment, manifest: Manifest, kind: str) -> dict[str, str]:
    commit = git_commit()
    tags = {
        "kind": kind,
        "study": experiment.name if kind in ("study", "trial") else "",
        "user": _user(),
        "data.name": manifest.name,
        "data.digest": manifest.digest,
        "git.sha": commit.rstrip("+"),
        "git.dirty": str(commit.endswith("+")).lower(),
        "hrnet_ray.version": version("hrnet-ray"),
        "ray.version": ray.__version__,
        "ray.job_id": os.environ.get("RAY_JOB_SUBMISSION_ID", ""),
        "run.folder": str(folder),
        # The names that MLflow's own columns are filled from.
        "mlflow.user": _user(),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.git.commit": commit.rstrip("+"),
    }
    return {name: value for name, value in tags.items() if value}


def _version(manifest: Manifest, split: str) -> DataVersion:
    return DataVersion(
        name=f"{manifest.name}-{split}",
        digest=manifest.digest,
        root=str(manifest.root),
        context=split,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in many containers
        return str(os.getuid())
