"""The small model and synthetic dataset of the demo and of every `--smoke-test`."""

from pathlib import Path
from typing import Literal

from hrnet_ray.cli.prepare import SyntheticArgs, run as prepare_data
from hrnet_ray.config import ClusterConfig, ExperimentConfig, ModelConfig, with_overrides

SMALL_MODEL_CONFIG = ModelConfig(width=16, modules=(1, 1, 1), blocks=2, stem=32)


def prepare_smoke_experiment(
    experiment: ExperimentConfig, cluster: ClusterConfig, *, kind: Literal["tigers", "people"]
) -> ExperimentConfig:
    """Return a copy of the experiment with a small model, a synthetic dataset and two epochs.

    It tests that training runs; its scores mean nothing. The dataset is generated once, below
    `cluster.storage_path`.
    """
    root = Path(cluster.storage_path).absolute() / "smoke-data" / kind
    if not (root / "manifest.json").is_file():
        prepare_data(SyntheticArgs(kind=kind, num_train=48, num_val=12, out=root, name=kind, max_image_size=128))
    height, width = experiment.data.input_hw
    changes = {
        "name": f"{experiment.name}-smoke",
        "data.root": str(root),
        "data.input_hw": (64, 64) if height == width else (64, 96),
        "model": SMALL_MODEL_CONFIG,
        "optim.epochs": 2,
        "optim.batch_size": 8,
        "optim.milestones": (1,),
        "evaluation.val_interval": 1,
    }
    return with_overrides(experiment, changes)
