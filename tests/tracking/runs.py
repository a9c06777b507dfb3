"""Runs for the tests to tell MLflow of: folders as a training leaves them, but for the training."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run as Noted

from hrnet_ray.data.images import codec
from hrnet_ray.runs.event_log import append_metrics, read_metrics
from hrnet_ray.tracking import DatasetVersion, MlflowExperiment, RunLogger

DIGEST = "0123456789abcdef" * 4


def begun(board: MlflowExperiment, folder: Path, **more: Any) -> RunLogger:
    """A run, opened as the driver opens it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolved_config.json").write_text('{"optim.lr": 0.001}')
    data = [
        DatasetVersion(name=f"otters-{split}", digest=DIGEST, root="/data/otters", context=split)
        for split in ("train", "val")
    ]
    told: dict[str, Any] = {"name": "first", "params": {"optim.lr": 1e-3}, "datasets": data}
    return RunLogger.open_or_resume(board, folder, **{**told, "tags": {"kind": "train"}, **more})


def train(folder: Path, epoch: int, *, score: float | None = None) -> None:
    """Record an epoch, and draw its image."""
    picture = np.full((24, 36, 3), (200, 40, 10 * (epoch % 25)), np.uint8)
    path = folder / "plots" / "sample_predictions" / f"epoch_{epoch:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    codec.write_image(path, picture)
    score = 0.1 * epoch if score is None else score
    entry = {"epoch": epoch, "train/loss": 1 / (epoch + 1), "val/OKS_AP": score, "objective": 1.0}
    append_metrics(folder, entry)


def found(uri: str, experiment: str) -> list[Noted]:
    """What a store has of an experiment, oldest first."""
    client = MlflowClient(uri)
    known = client.get_experiment_by_name(f"hrnet/{experiment}")
    runs = client.search_runs([known.experiment_id]) if known else []
    return sorted(runs, key=lambda run: run.info.start_time)


def history(uri: str, run_id: str) -> list[tuple[str, int, int, str]]:
    """All numbers of a run but those of the machine: name, step, time, value; each as it stands."""
    client = MlflowClient(uri)
    names = [n for n in client.get_run(run_id).data.metrics if not n.startswith("system/")]
    points = [point for name in names for point in client.get_metric_history(run_id, name)]
    return sorted((p.key, p.step, p.timestamp, repr(p.value)) for p in points)


def recorded(folder: Path) -> list[tuple[str, int, int, str]]:
    """The same of metrics.jsonl; infinite numbers are NaN in MLflow."""
    return sorted(
        (name, entry["epoch"], entry["at_ms"], repr(math.nan if math.isinf(value) else value))
        for entry in read_metrics(folder)
        for name, value in entry.items()
        if "/" in name
    )


def images(uri: str, run_id: str) -> list[str]:
    """Names of the images that a run shows by step, without the small copies."""
    files = [entry.path for entry in MlflowClient(uri).list_artifacts(run_id, "images")]
    return sorted(name for name in files if name.endswith(".png"))
