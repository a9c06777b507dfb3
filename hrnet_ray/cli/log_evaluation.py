"""What an evaluation leaves in MLflow: figures, tables and plots, in the run of its model."""

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
    """A run that is told of an evaluation."""

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
        """The run of a model; of one that was named by files, the run of its folder.

        Raises:
            DataError: there is none.
            UsageError, ClusterError: MLflow is not there.
        """
        registry = store.open_registry()
        run_id = resolved_model.run_id or find_run_id(Path(model_ref), registry, manifest.name)
        if not run_id:
            raise build_run_not_found_error(model_ref, registry)
        return cls(registry, run_id)

    def log_evaluation(self, evaluation: EvaluationResult, artifacts_dir: Path | None) -> str:
        """Note the figures, and copy the files; says where they are."""
        split = evaluation.eval_spec.split
        place = evaluation.dataset_name if split == "val" else f"{evaluation.dataset_name}-{split}"
        assessment, interval = (
            evaluation.model_evaluation.metrics,
            evaluation.model_evaluation.interval,
        )
        values = assessment.summary | {
            f"{assessment.primary_metric}.low": interval.low,
            f"{assessment.primary_metric}.high": interval.high,
        }
        self.registry.log_evaluation(
            self.run_id,
            {f"{place}.{name}": v for name, v in values.items() if math.isfinite(v)},
            artifacts_dir=artifacts_dir,
            artifact_path=f"evaluation/{place}",
            at_ms=int(time.time() * 1000),
            dataset_name_and_digest=(evaluation.dataset_name, evaluation.dataset_digest),
            model_id=self.model_id,
        )
        return f"told MLflow: run {self.run_id}, metrics eval/{place}.*, evaluation/{place}/"


def find_run_id(path: Path, registry: "ModelRegistry", dataset_name: str) -> str | None:
    """The run of a run's folder, of its model folder, or of its weights."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "resolved_config.json").is_file():
            run = registry.find_run_by_dir(folder, f"hrnet/{dataset_name}")
            return run.info.run_id if run else None
    return None


def build_run_not_found_error(model_ref: str, registry: "ModelRegistry") -> DataError:
    """There is no run of this folder."""
    return DataError(
        "no MLflow run of this model",
        f"{model_ref} in {registry.redacted_uri}",
        "tell MLflow of it with `hrnet-ray mlflow-sync`, or give its --tracking-uri or --storage-path",
    )
