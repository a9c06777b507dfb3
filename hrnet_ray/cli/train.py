"""`hrnet-ray train`."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hrnet_ray.config import Cluster, Experiment
from hrnet_ray.text import without_secrets


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train one model. The same command goes on where it stopped.

    hrnet-ray train --name first --data.root data/atrw --optim.epochs 60
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)
    cluster: Cluster = field(default_factory=Cluster)


def run(args: Args) -> None:
    """Train, and say what came out."""
    from hrnet_ray.distributed.training.train import fit

    outcome = fit(args.experiment, args.cluster)
    print(f"best {outcome.main} {outcome.best:.4f}, epoch {outcome.best_epoch + 1}")
    tell_where(outcome.folder, args.cluster)


def tell_where(folder: Path, cluster: Cluster) -> None:
    """Say where the pictures and the model are, and how to compare and use them."""
    here = near(folder)
    print(f"  pictures  {here}/plots")
    print(f"  model     {here}/model")
    print(f"  compare   {mlflow_command(cluster)}")
    print(f"  use it    hrnet-ray predict --model {here}/model --pictures FOLDER --out predictions")


def mlflow_command(cluster: Cluster) -> str:
    """How to see the runs: the server's address, or the command that opens the local store."""
    if cluster.tracking_uri:
        return without_secrets(cluster.tracking_uri)
    store = near(Path(cluster.storage) / "mlflow.db")
    return f"mlflow server --backend-store-uri sqlite:///{store}    then http://127.0.0.1:5000"


def near(path: Path) -> str:
    """As short as it can be pasted: relative to here where it lies below."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative
