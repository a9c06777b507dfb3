"""The model that a user means, files on this machine or a name in MLflow; and where it runs."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.inference.model_package import CONFIG, SAFETENSORS, WEIGHTS, ModelSpec, load_model
from hrnet_ray.models import HRNet

if TYPE_CHECKING:  # mlflow costs seconds: only who asks for it pays them
    from hrnet_ray.tracking.model_registry import Registry, Version

MLFLOW_NAME = re.compile(r"models:/.*|[0-9a-f]{32}")


@dataclass(frozen=True)
class Loaded:
    """A model, and where it is from."""

    model: HRNet
    spec: ModelSpec
    path: Path
    """The folder that it was loaded from, or its weights."""
    run_id: str | None = None
    """MLflow's run, where the model was named by MLflow's words."""
    version: "Version | None" = None


@dataclass(frozen=True)
class Store:
    """Where MLflow is: a server, or the file that a training leaves in its storage."""

    tracking_uri: str | None = None
    storage: Path = Path("runs")

    def open(self) -> "Registry":
        """The models and runs in it.

        Raises:
            UsageError: there is no such file.
            ClusterError: it does not answer.
        """
        from hrnet_ray.tracking import database_uri
        from hrnet_ray.tracking.model_registry import Registry

        if self.tracking_uri:
            return Registry(self.tracking_uri)
        if not (self.storage / "mlflow.db").is_file():
            raise UsageError(
                "no MLflow store there",
                f"{self.storage / 'mlflow.db'}",
                "give the --tracking-uri of a server, or the --storage of the trainings",
            )
        return Registry(database_uri(self.storage))


def load(text: str, flag: str, store: Store, *, into: Path | None = None) -> Loaded:
    """Load a model by the name that a user gave it; what comes from MLflow stays in `into`.

    Raises:
        DataError: there is none, it is damaged, or it was changed after it was registered.
        UsageError, ClusterError: MLflow is needed, and is not there.
    """
    if not MLFLOW_NAME.fullmatch(text) or Path(text).exists():
        path = find_model(text, flag)
        return Loaded(*load_model(path), path)
    from hrnet_ray.tracking.model_download import fetch_model

    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        found = fetch_model(store.open(), text, flag, into or Path(scratch))
        if not found.checked:
            print(f"note: run {text} has no sha256 to check its model by: it did not finish")
        return Loaded(*load_model(found.folder), found.folder, found.run_id or None, found.version)


def store_above(path: Path) -> Path:
    """The storage that a run's folder is in: the nearest one above it with an MLflow file."""
    above = (folder for folder in path.absolute().parents if (folder / "mlflow.db").is_file())
    return next(above, Path("runs"))


def find_model(text: str, flag: str) -> Path:
    """The model folder, or the weights beside a config.json, that a user means by `text`.

    Raises:
        DataError: there is none.
    """
    path = Path(text)
    if path.suffix == SAFETENSORS and path.name != WEIGHTS and path.is_file():
        if (path.parent / CONFIG).is_file():
            return path
    elif path.name == WEIGHTS:
        path = path.parent
    for folder in (path, path / "model"):
        if (folder / CONFIG).is_file():
            return folder
    raise DataError(
        "no model there",
        f"{flag} {text}",
        f"give a folder with {CONFIG} and {WEIGHTS}, a run's folder (runs/<data set>/<run>), the "
        "id of an MLflow run, or models:/NAME@champion",
    )


def device_of(name: str) -> torch.device:
    """The device of this process.

    Raises:
        UsageError: it has no GPU.
    """
    there = torch.cuda.is_available()
    if name == "gpu" and not there:
        raise UsageError("no GPU that torch can use", "--device gpu", "leave it out, or give cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")
