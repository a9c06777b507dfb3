"""`hrnet-ray train`."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hrnet_ray.config import ClusterConfig, ExperimentConfig
from hrnet_ray.text import redact_secrets


@dataclass(frozen=True, kw_only=True)
class TrainArgs:
    """Train one model. The same command goes on where it stopped.

    hrnet-ray train --name first --data.root data/atrw --optim.epochs 60
    """

    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def run(args: TrainArgs) -> None:
    """Train, and say what came out."""
    from hrnet_ray.distributed.training.train import train_experiment

    outcome = train_experiment(args.experiment, args.cluster)
    print(f"best {outcome.primary_metric} {outcome.best_score:.4f}, epoch {outcome.best_epoch + 1}")
    print_next_steps(outcome.folder, args.cluster)


def print_next_steps(folder: Path, cluster: ClusterConfig) -> None:
    """Say where the pictures and the model are, and how to compare and use them."""
    here = to_short_path(folder)
    print(f"  pictures  {here}/plots")
    print(f"  model     {here}/model")
    print(f"  compare   {format_mlflow_ui_command(cluster)}")
    print(f"  use it    hrnet-ray predict --model {here}/model --input FOLDER --out predictions")


def format_mlflow_ui_command(cluster: ClusterConfig) -> str:
    """How to see the runs: the server's address, or the command that opens the local store."""
    if cluster.tracking_uri:
        return redact_secrets(cluster.tracking_uri)
    store = to_short_path(Path(cluster.storage_path) / "mlflow.db")
    return f"mlflow server --backend-store-uri sqlite:///{store}    then http://127.0.0.1:5000"


def to_short_path(path: Path) -> str:
    """As short as it can be pasted: relative to here where it lies below."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative
