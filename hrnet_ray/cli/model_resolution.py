"""Loading of the model that a user names: files on this machine or a name in MLflow."""

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

if TYPE_CHECKING:  # importing MLflow takes seconds
    from hrnet_ray.tracking.model_registry import ModelRegistry, RegisteredVersion

MLFLOW_MODEL_PATTERN = re.compile(r"models:/.*|[0-9a-f]{32}")


@dataclass(frozen=True)
class ResolvedModel:
    """A loaded model and its origin."""

    model: HRNet
    spec: ModelSpec
    path: Path
    """Folder that the model was loaded from, or its weights file."""
    run_id: str | None = None
    """Id of the MLflow run, for a model that was named by MLflow."""
    version: "RegisteredVersion | None" = None


@dataclass(frozen=True, kw_only=True)
class MlflowStoreArgs:
    """Flags of the MLflow store: a server, or the database in the storage folder of the runs."""

    tracking_uri: str | None = None
    """MLflow server for models that MLflow names; by default the database in --storage-path."""
    storage_path: Path = Path("runs")
    """Storage folder of the runs, which contains MLflow's database mlflow.db."""

    def open_registry(self) -> "ModelRegistry":
        """Open the models and runs of the store.

        Raises:
            UsageError: the database does not exist.
            ClusterError: the store does not answer.
        """
        from hrnet_ray.tracking import default_tracking_uri
        from hrnet_ray.tracking.model_registry import ModelRegistry

        if self.tracking_uri:
            return ModelRegistry(self.tracking_uri)
        if not (self.storage_path / "mlflow.db").is_file():
            raise UsageError(
                "the MLflow database does not exist",
                f"{self.storage_path / 'mlflow.db'}",
                "give the --tracking-uri of a server, or the --storage-path of the runs",
            )
        return ModelRegistry(default_tracking_uri(self.storage_path))


@dataclass(frozen=True, kw_only=True)
class ModelArgs(MlflowStoreArgs):
    """Flags of a verb that loads a model."""

    model: str
    """Model folder, run folder, weights beside their config.json, id of an MLflow run, or
    models:/NAME@champion or models:/NAME/3."""


def resolve_model(
    model_ref: str, flag: str, store: MlflowStoreArgs, *, download_dir: Path | None = None
) -> ResolvedModel:
    """Load the model that `model_ref` names; `flag` is the flag to name in errors.

    Files from MLflow are kept in `download_dir`, if it is given.

    Raises:
        DataError: no such model exists, it is damaged, or it was changed after registration.
        UsageError, ClusterError: the MLflow store does not exist or does not answer.
    """
    if not MLFLOW_MODEL_PATTERN.fullmatch(model_ref) or Path(model_ref).exists():
        path = find_model_dir(model_ref, flag)
        return ResolvedModel(*load_model(path), path)
    from hrnet_ray.tracking.model_download import download_model

    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        downloaded = download_model(store.open_registry(), model_ref, flag, download_dir or Path(scratch))
        if not downloaded.hash_verified:
            print(f"note: run {model_ref} did not finish, so its model has no SHA-256 to verify")
        loaded = load_model(downloaded.folder)
        run_id = downloaded.run_id or None
        return ResolvedModel(*loaded, downloaded.folder, run_id, downloaded.version)


def find_storage_dir(path: Path) -> Path:
    """Find the storage folder of a run: its nearest parent with an mlflow.db, else `runs`."""
    parents = (folder for folder in path.absolute().parents if (folder / "mlflow.db").is_file())
    return next(parents, Path("runs"))


def find_model_dir(model_ref: str, flag: str) -> Path:
    """Find the model folder, or the weights beside a config.json, that `model_ref` names.

    Raises:
        DataError: no such model exists.
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
        "the model does not exist",
        f"{flag} {model_ref}",
        f"give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, a run's folder "
        "(runs/<dataset>/<run>), the id of an MLflow run, or models:/NAME@champion",
    )


def select_device(device_name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `gpu` stands for.

    Raises:
        UsageError: `gpu` was asked for, and torch finds none.
    """
    has_gpu = torch.cuda.is_available()
    if device_name == "gpu" and not has_gpu:
        raise UsageError("torch finds no GPU", "--device gpu", "omit --device, or give cpu")
    return torch.device("cuda" if has_gpu and device_name != "cpu" else "cpu")
