"""Runs with injected faults, which have to end like a run without faults."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hrnet_ray.cli.prepare import SyntheticArgs, run as prepare
from hrnet_ray.config import (
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    HeatmapConfig,
    ModelConfig,
    OptimizerConfig,
)
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.distributed.training.run_summary import RunResult
from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.runs.event_log import read_metrics
from hrnet_ray.training.checkpoint_store import STATE_FILE
from hrnet_ray.training.fault_injection import (
    ALLOW_FAULTS_ENV_VAR,
    FAULTS_ENV_VAR,
    FIRST_STEPS_FILE,
)
from tests.small_models import SMALLEST

ROWS_PER_STEP = 4
"""Batch size, the smallest for two workers."""


@pytest.fixture(scope="session")
def herd(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """A dataset of at least six steps of four rows."""
    out = tmp_path_factory.mktemp("data") / "herd"
    prepare(SyntheticArgs(kind="tigers", num_train=20, num_val=4, out=out, max_image_size=96))
    manifest = read_manifest(out)
    assert manifest.splits["train"].rows >= 6 * ROWS_PER_STEP
    return manifest


def make_experiment(herd: DatasetManifest, *, name: str, epochs: int) -> ExperimentConfig:
    """Build an experiment with epochs of a second and a constant learning rate."""
    return ExperimentConfig(
        name=name,
        data=DataConfig(root=str(herd.root), input_hw=(32, 64)),
        model=ModelConfig(**SMALLEST),
        heatmap=HeatmapConfig(sigma=1.0),
        optim=OptimizerConfig(lr=1e-3, epochs=epochs, milestones=(epochs,), batch_size=ROWS_PER_STEP),
        evaluation=EvaluationConfig(batch_size=4),
    )


@contextmanager
def inject_faults(*faults: str) -> Iterator[None]:
    """Inject these faults into runs that start in the block."""
    os.environ |= {ALLOW_FAULTS_ENV_VAR: "1", FAULTS_ENV_VAR: ";".join(faults)}
    try:
        yield
    finally:
        del os.environ[ALLOW_FAULTS_ENV_VAR], os.environ[FAULTS_ENV_VAR]


def train_with_faults(experiment: ExperimentConfig, cluster: ClusterConfig, faults: list[str]) -> RunResult:
    """Train through all faults, and print the recovery time of each."""
    with inject_faults(*faults):
        run = train_experiment(experiment, replace(cluster, max_failures=len(faults) + 2))
    first_steps = [json.loads(line) for line in (get_marks_folder(run) / FIRST_STEPS_FILE).read_text().splitlines()]
    marks = [json.loads(path.read_text()) for path in sorted(get_marks_folder(run).glob("??-*.json"))]
    assert len(marks) == len(faults)
    for fault, mark in zip(faults, marks, strict=True):
        delays_s = [s["at_s"] - mark["at_s"] for s in first_steps if s["at_s"] > mark["at_s"]]
        recovery = f"first step after {min(delays_s):5.1f} s" if delays_s else "no step was left"
        print(f"{fault:34} {recovery}", flush=True)
    return run


def get_marks_folder(run: RunResult) -> Path:
    """The folder with the records of injected faults."""
    return run.folder / "debug" / "faults"


def assert_same(actual: RunResult, expected: RunResult) -> None:
    """Require each epoch once, and equal metrics, row orders and last checkpoints to the bit."""
    lines = (actual.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, expected.num_epochs + 1))
    for after, before in zip(read_metrics(actual.folder), read_metrics(expected.folder), strict=True):
        assert select_figures(after) == select_figures(before)
    orders = [sorted((run.folder / "dataset_report" / "order").iterdir()) for run in (actual, expected)]
    assert len(orders[1]) == expected.num_epochs
    assert [p.read_bytes() for p in orders[0]] == [p.read_bytes() for p in orders[1]]
    states = [load_last_state(run) for run in (actual, expected)]
    assert is_equal(*states)


def select_figures(entry: dict[str, Any]) -> dict[str, str]:
    """The metrics of an epoch to the last digit, without times."""
    prefixes = ("epoch", "train/", "val/", "objective")
    return {name: repr(value) for name, value in entry.items() if name.startswith(prefixes)}


def load_last_state(run: RunResult) -> dict[str, Any]:
    """The state of the checkpoint after the last epoch."""
    path = run.folder / "checkpoints" / f"epoch_{run.num_epochs:04d}" / STATE_FILE
    return torch.load(path, weights_only=True)


def is_equal(one: Any, other: Any) -> bool:
    """Whether two nested structures of tensors are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return one == other
