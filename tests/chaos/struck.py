"""Runs that are struck on purpose, and what they must leave: the very same as a calm one."""

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

ROWS_A_STEP = 4  # two workers can share no less


@pytest.fixture(scope="session")
def herd(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """Tigers for six steps of four, at least."""
    out = tmp_path_factory.mktemp("data") / "herd"
    prepare(SyntheticArgs(kind="tigers", num_train=20, num_val=4, out=out, max_image_size=96))
    manifest = read_manifest(out)
    assert manifest.splits["train"].rows >= 6 * ROWS_A_STEP
    return manifest


def short(herd: DatasetManifest, *, name: str, epochs: int) -> ExperimentConfig:
    """Epochs of a second; the net is nearly nothing, the rate stays."""
    return ExperimentConfig(
        name=name,
        data=DataConfig(root=str(herd.root), input_hw=(32, 64)),
        model=ModelConfig(width=4, modules=(1, 1, 1), blocks=1, stem=8),
        heatmap=HeatmapConfig(sigma=1.0),
        optim=OptimizerConfig(lr=1e-3, epochs=epochs, milestones=(epochs,), batch_size=ROWS_A_STEP),
        evaluation=EvaluationConfig(batch_size=4),
    )


@contextmanager
def struck(*faults: str) -> Iterator[None]:
    """While open, runs that begin meet these faults."""
    os.environ |= {ALLOW_FAULTS_ENV_VAR: "1", FAULTS_ENV_VAR: ";".join(faults)}
    try:
        yield
    finally:
        del os.environ[ALLOW_FAULTS_ENV_VAR], os.environ[FAULTS_ENV_VAR]


def fit_struck(
    experiment: ExperimentConfig, cluster: ClusterConfig, faults: list[str]
) -> RunResult:
    """Train through all of the faults; tells what each of them cost."""
    with struck(*faults):
        run = train_experiment(experiment, replace(cluster, max_failures=len(faults) + 2))
    began = [json.loads(line) for line in (marks(run) / FIRST_STEPS_FILE).read_text().splitlines()]
    struck_at = [json.loads(path.read_text()) for path in sorted(marks(run).glob("??-*.json"))]
    assert len(struck_at) == len(faults)
    for fault, mark in zip(faults, struck_at, strict=True):
        after = [b["at_s"] - mark["at_s"] for b in began if b["at_s"] > mark["at_s"]]
        told = f"first step {min(after):5.1f} s after" if after else "no step was left to do"
        print(f"{fault:34} {told}", flush=True)
    return run


def marks(run: RunResult) -> Path:
    """Where the faults of a run leave their marks."""
    return run.folder / "debug" / "faults"


def assert_same(hurt: RunResult, calm: RunResult) -> None:
    """Each epoch once, every figure, every order of rows and the last checkpoint bit for bit."""
    lines = (hurt.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(calm.num_epochs))
    for after, before in zip(read_metrics(hurt.folder), read_metrics(calm.folder), strict=True):
        assert figures(after) == figures(before)
    orders = [sorted((run.folder / "data" / "order").iterdir()) for run in (hurt, calm)]
    assert len(orders[1]) == calm.num_epochs
    assert [p.read_bytes() for p in orders[0]] == [p.read_bytes() for p in orders[1]]
    states = [last_state(run) for run in (hurt, calm)]
    assert same(*states)


def figures(entry: dict[str, Any]) -> dict[str, str]:
    """What was learnt and scored, to the last digit, without what the clock says."""
    kept = ("epoch", "train/", "val/", "objective")
    return {name: repr(value) for name, value in entry.items() if name.startswith(kept)}


def last_state(run: RunResult) -> dict[str, Any]:
    """Weights, statistics, moments, schedule and progress after the last epoch."""
    path = run.folder / "ray" / f"epoch_{run.num_epochs - 1:04d}" / STATE_FILE
    return torch.load(path, weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Equal in every bit, and in every name."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
