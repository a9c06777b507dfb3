"""A few drawn tigers and the smallest experiment on them, for everything that needs Ray."""

from dataclasses import replace
from pathlib import Path

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
from hrnet_ray.training.builders import build_model
from tests.small_models import SMALLEST


@pytest.fixture(scope="session")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """15 or so training and 7 or so validation tigers, in canvases of 96 px."""
    out = tmp_path_factory.mktemp("data") / "tigers"
    prepare(SyntheticArgs(kind="tigers", num_train=8, num_val=4, out=out, max_image_size=96))
    return read_manifest(out)


@pytest.fixture
def tiny(tigers: DatasetManifest) -> ExperimentConfig:
    """Two epochs of a net that is nearly nothing."""
    return ExperimentConfig(
        name="tiny",
        data=DataConfig(root=str(tigers.root), input_hw=(32, 64)),
        model=ModelConfig(**SMALLEST),
        heatmap=HeatmapConfig(sigma=1.0),
        optim=OptimizerConfig(lr=1e-3, epochs=2, milestones=(1,), batch_size=4),
        evaluation=EvaluationConfig(batch_size=4),
    )


@pytest.fixture
def from_here(tiny: ExperimentConfig, tigers: DatasetManifest, tmp_path: Path, monkeypatch) -> ExperimentConfig:
    """The same, from weights whose path starts in the driver's folder; workers stand elsewhere."""
    torch.save(build_model(tiny, tigers).state_dict(), tmp_path / "start.pth")
    monkeypatch.chdir(tmp_path)
    return replace(tiny, model=replace(tiny.model, pretrained="start.pth"))


@pytest.fixture
def here(tmp_path: Path) -> ClusterConfig:
    """Two workers on this machine's CPUs."""
    return ClusterConfig(num_workers=2, device="cpu", storage_path=str(tmp_path / "runs"))
