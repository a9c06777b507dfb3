"""A trained model as an MLflow model: what `mlflow.pyfunc.load_model` reads, and ours beside it.

data/model.pt2     crops to keypoints by torch.export, no pickle; needs torch and mlflow, not us
hrnet/             our own model folder: model.safetensors, config.json, README.md
MLmodel and more   MLflow's own: signature, input example, requirements
"""

import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from hrnet_ray.inference.export_modules import KeypointExportModule
from hrnet_ray.inference.model_package import (
    CONFIG_FILE,
    MODEL_CARD_FILE,
    WEIGHTS_FILE,
    ModelSpec,
)
from hrnet_ray.models import HRNet
from hrnet_ray.tracking.model_registry import ModelRegistry, extend_request_timeout
from hrnet_ray.utils.files import sha256_file
from hrnet_ray.utils.quiet import quiet_loggers

from mlflow.entities import LoggedModelOutput, Run  # isort: skip
from mlflow.models import Model, ModelSignature  # isort: skip
from mlflow.pytorch import save_model  # isort: skip
from mlflow.types import Schema, TensorSpec  # isort: skip

MODEL_PACKAGE_DIR = "hrnet"
EXPORTED_MODEL_FILE = "data/model.pt2"
EXAMPLE_BATCH_SIZE = 2
"""Crops of the example: with one, torch.export would take its batch for the only size."""


@dataclass(frozen=True)
class LoggedModelRef:
    """A model in MLflow that no registry knows yet."""

    model_id: str
    artifact_uri: str
    tags: dict[str, str]
    """The sha256 of what was exported."""


def log_model(registry: ModelRegistry, run: Run, model_dir: Path, model: HRNet, spec: ModelSpec) -> LoggedModelRef:
    """Export the model of a run (its files are in `folder`), and log it there.

    Raises:
        ClusterError: the store does not answer.
    """
    run_id, client = run.info.run_id, registry.client
    with (
        tempfile.TemporaryDirectory() as scratch,
        registry.translate_errors(),
        extend_request_timeout(),
    ):
        made = client.create_logged_model(
            run.info.experiment_id,
            name="hrnet",
            source_run_id=run_id,
            params=_collect_model_params(spec),
            model_type="keypoints",
        )
        ours = Model(made.artifact_location, run_id, model_uuid=made.model_id, model_id=made.model_id)
        files = Path(scratch) / "model"
        tags = save_mlflow_model(files, model_dir, model, spec, ours)
        client.log_model_artifacts(made.model_id, str(files))
        client.set_logged_model_tags(made.model_id, tags)
        client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
        client.finalize_logged_model(made.model_id, "READY")
    return LoggedModelRef(made.model_id, made.artifact_location, tags)


def save_mlflow_model(
    out_dir: Path, model_dir: Path, model: HRNet, spec: ModelSpec, mlflow_model: Model
) -> dict[str, str]:
    """Write the model that MLflow keeps; returns the sha256 of what was exported, as tags."""
    height, width = spec.input_hw
    crops = np.full((EXAMPLE_BATCH_SIZE, height, width, 3), 128, np.uint8)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, height, width, 3))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(spec.skeleton), 3))]),
    )
    # MLflow asks for an environment that we name ourselves; torch warns of later versions.
    with quiet_loggers("mlflow", "torch.export", "torch.__trace"):
        save_model(
            KeypointExportModule(model.cpu(), spec).eval(),
            out_dir,
            mlflow_model=mlflow_model,
            signature=signature,
            input_example=crops,
            serialization_format="pt2",
            pip_requirements=[f"{name}=={_get_base_version(name)}" for name in ("torch", "mlflow", "numpy")],
        )
    # What was exported on a CPU runs on a CPU; without this, MLflow refuses it beside a GPU.
    mlflow_model.flavors["python_function"]["config"] = {"device": "cpu"}
    mlflow_model.save(str(out_dir / "MLmodel"))
    (out_dir / MODEL_PACKAGE_DIR).mkdir()
    for name in (WEIGHTS_FILE, CONFIG_FILE, MODEL_CARD_FILE):
        if (model_dir / name).is_file():  # the card may have been removed by hand
            shutil.copyfile(model_dir / name, out_dir / MODEL_PACKAGE_DIR / name)
    return {"pt2.sha256": sha256_file(out_dir / EXPORTED_MODEL_FILE)}


def _collect_model_params(spec: ModelSpec) -> dict[str, str]:
    names = ("width", "input_hw", "padding", "sigma", "decode", "flip_test")
    return {name: str(getattr(spec, name)) for name in names} | {"skeleton": spec.skeleton.name}


def _get_base_version(package: str) -> str:
    return version(package).split("+")[0]  # 2.13.0+cpu is in no registry
