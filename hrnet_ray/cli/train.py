"""`hrnet-ray train`: train one model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from hrnet_ray.cli.plan_args import SizeFlag, expand_plan_flags, plan_from_flags
from hrnet_ray.config import ClusterConfig, ExperimentConfig
from hrnet_ray.text import redact_secrets


@dataclass(frozen=True, kw_only=True)
class ExperimentArgs:
    """Flags of a training: all settings of the experiment and of the cluster."""

    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(default_factory=ExperimentConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass(frozen=True, kw_only=True)
class TrainArgs(ExperimentArgs):
    """Train one model. The same command resumes an interrupted training.

    hrnet-ray train --data data/mine

    --size chooses net, input and recipe. Crop shape, epochs and validation interval follow from the
    dataset. Flags replace both. The defaults below hold for --size published only. --data is short
    for --data.root.
    """

    size: SizeFlag = "auto"
    """Net, input and recipe. `auto` is tiny, or with a GPU on this machine (or --cluster.device gpu) small, and w32
    from 1,000 rows. `published` is the paper's W32 recipe as the defaults below show it."""


expand_argv = expand_plan_flags


def complete_args(args: TrainArgs, argv: Sequence[str]) -> TrainArgs:
    """Return the arguments with the planned experiment."""
    return replace(args, experiment=plan_from_flags(args.size, args.experiment, args.cluster, argv))


def run(args: ExperimentArgs) -> None:
    """Train, and print the best score and the next steps."""
    from hrnet_ray.distributed.training.train import train_experiment

    result = train_experiment(args.experiment, args.cluster)
    print(f"best {result.primary_metric} {result.best_score:.4f}, epoch {result.best_epoch}")
    print_next_steps(result.folder, args.cluster)


def print_next_steps(folder: Path, cluster: ClusterConfig) -> None:
    """Print where the plots and the model are, and how to compare and use them."""
    run_path = to_short_path(folder)
    print(f"  plots     {run_path}/plots")
    print(f"  model     {run_path}/model")
    print(f"  compare   {format_mlflow_ui_command(cluster)}")
    print(f"  use it    hrnet-ray predict --model {run_path}/model --input DIR --out predictions")


def format_mlflow_ui_command(cluster: ClusterConfig) -> str:
    """Return the address of the MLflow server, or the command that serves the local store."""
    if cluster.tracking_uri:
        return redact_secrets(cluster.tracking_uri)
    database = to_short_path(Path(cluster.storage_path) / "mlflow.db")
    return f"mlflow server --backend-store-uri sqlite:///{database}    then http://127.0.0.1:5000"


def to_short_path(path: Path) -> str:
    """Return a relative path if `path` lies below the working directory, else an absolute one."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative
