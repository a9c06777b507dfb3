"""Logging of an evaluation to the MLflow run of its model: metrics, tables and plots."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hrnet_ray.cli.model_resolution import MlflowStoreArgs, ResolvedModel
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.errors import DataError
from hrnet_ray.evaluation.model_evaluation import EvaluationResult

if TYPE_CHECKING:
    from hrnet_ray.tracking.model_registry import ModelRegistry


@dataclass(frozen=True)
class EvaluationLogger:
    """Logs evaluations to one MLflow run."""

    registry: "ModelRegistry"
    run_id: str
    model_id: str | None = None

    @classmethod
    def from_model(
        cls,
        resolved_model: ResolvedModel,
        model_ref: str,
        manifest: DatasetManifest,
        store: MlflowStoreArgs,
    ) -> "EvaluationLogger":
        """Find the run of a model; for a model on disk, the run of its folder.

        Raises:
            DataError: the store has no such run.
            UsageError, ClusterError: the MLflow store does not exist or does not answer.
        """
        registry = store.open_registry()
        run_id = resolved_model.run_id or find_run_id(Path(model_ref), registry, manifest.name)
        if not run_id:
            raise build_run_not_found_error(model_ref, registry)
        return cls(registry, run_id)

    def log_evaluation(self, evaluation: EvaluationResult, artifacts_dir: Path | None) -> str:
        """Log the metrics and upload `artifacts_dir`; return a line for the terminal."""
        split = evaluation.eval_spec.split
        prefix = evaluation.dataset_name if split == "val" else f"{evaluation.dataset_name}-{split}"
        metrics = evaluation.model_evaluation.metrics
        interval = evaluation.model_evaluation.interval
        values = metrics.summary | {
            f"{metrics.primary_metric}.low": interval.low,
            f"{metrics.primary_metric}.high": interval.high,
        }
        self.registry.log_evaluation(
            self.run_id,
            {f"{prefix}.{name}": v for name, v in values.items() if math.isfinite(v)},
            artifacts_dir=artifacts_dir,
            artifact_path=f"evaluation/{prefix}",
            at_ms=int(time.time() * 1000),
            dataset_name_and_digest=(evaluation.dataset_name, evaluation.dataset_digest),
            model_id=self.model_id,
        )
        return f"logged to MLflow: run {self.run_id}, metrics eval/{prefix}.*, evaluation/{prefix}/"


def find_run_id(path: Path, registry: "ModelRegistry", dataset_name: str) -> str | None:
    """Find the id of the run that a folder, model folder or weights file belongs to."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "resolved_config.json").is_file():
            run = registry.find_run_by_dir(folder, f"hrnet/{dataset_name}")
            return run.info.run_id if run else None
    return None


def build_run_not_found_error(model_ref: str, registry: "ModelRegistry") -> DataError:
    """Build the error for a model without an MLflow run."""
    return DataError(
        "the model has no MLflow run",
        f"{model_ref} in {registry.redacted_uri}",
        "run `hrnet-ray mlflow-sync` on its folder, or give its --tracking-uri or --storage-path",
    )
