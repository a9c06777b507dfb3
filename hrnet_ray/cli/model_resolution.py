"""The model that a user means, files on this machine or a name in MLflow; and where it runs."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.inference.model_package import (
    CONFIG_FILE,
    SAFETENSORS_SUFFIX,
    WEIGHTS_FILE,
    ModelSpec,
    load_model,
)
from hrnet_ray.models import HRNet

if TYPE_CHECKING:  # mlflow costs seconds: only who asks for it pays them
    from hrnet_ray.tracking.model_registry import ModelRegistry, RegisteredVersion

MLFLOW_MODEL_PATTERN = re.compile(r"models:/.*|[0-9a-f]{32}")


@dataclass(frozen=True)
class ResolvedModel:
    """A model, and where it is from."""

    model: HRNet
    spec: ModelSpec
    path: Path
    """The folder that it was loaded from, or its weights."""
    run_id: str | None = None
    """MLflow's run, where the model was named by MLflow's words."""
    version: "RegisteredVersion | None" = None


@dataclass(frozen=True)
class MlflowStoreArgs:
    """Where MLflow is: a server, or the file that a training leaves in its storage."""

    tracking_uri: str | None = None
    storage_path: Path = Path("runs")

    def open_registry(self) -> "ModelRegistry":
        """The models and runs in it.

        Raises:
            UsageError: there is no such file.
            ClusterError: it does not answer.
        """
        from hrnet_ray.tracking import default_tracking_uri
        from hrnet_ray.tracking.model_registry import ModelRegistry

        if self.tracking_uri:
            return ModelRegistry(self.tracking_uri)
        if not (self.storage_path / "mlflow.db").is_file():
            raise UsageError(
                "no MLflow store there",
                f"{self.storage_path / 'mlflow.db'}",
                "give the --tracking-uri of a server, or the --storage-path of the trainings",
            )
        return ModelRegistry(default_tracking_uri(self.storage_path))


def resolve_model(
    model_ref: str, flag: str, store: MlflowStoreArgs, *, download_dir: Path | None = None
) -> ResolvedModel:
    """Load a model by the name that a user gave it; what comes from MLflow stays in `into`.

    Raises:
        DataError: there is none, it is damaged, or it was changed after it was registered.
        UsageError, ClusterError: MLflow is needed, and is not there.
    """
    if not MLFLOW_MODEL_PATTERN.fullmatch(model_ref) or Path(model_ref).exists():
        path = find_model_dir(model_ref, flag)
        return ResolvedModel(*load_model(path), path)
    from hrnet_ray.tracking.model_download import download_model

    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        found = download_model(
            store.open_registry(), model_ref, flag, download_dir or Path(scratch)
        )
        if not found.hash_verified:
            print(f"note: run {model_ref} has no sha256 to check its model by: it did not finish")
        return ResolvedModel(
            *load_model(found.folder), found.folder, found.run_id or None, found.version
        )


def find_storage_dir(path: Path) -> Path:
    """The storage that a run's folder is in: the nearest one above it with an MLflow file."""
    above = (folder for folder in path.absolute().parents if (folder / "mlflow.db").is_file())
    return next(above, Path("runs"))


def find_model_dir(model_ref: str, flag: str) -> Path:
    """The model folder, or the weights beside a config.json, that a user means by `text`.

    Raises:
        DataError: there is none.
    """
    path = Path(model_ref)
    if path.suffix == SAFETENSORS_SUFFIX and path.name != WEIGHTS_FILE and path.is_file():
        if (path.parent / CONFIG_FILE).is_file():
            return path
    elif path.name == WEIGHTS_FILE:
        path = path.parent
    for folder in (path, path / "model"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise DataError(
        "no model there",
        f"{flag} {model_ref}",
        f"give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, a run's folder (runs/<data set>/<run>), the "
        "id of an MLflow run, or models:/NAME@champion",
    )


def select_device(device_name: str) -> torch.device:
    """The device of this process.

    Raises:
        UsageError: it has no GPU.
    """
    there = torch.cuda.is_available()
    if device_name == "gpu" and not there:
        raise UsageError("no GPU that torch can use", "--device gpu", "leave it out, or give cpu")
    return torch.device("cuda" if there and device_name != "cpu" else "cpu")
