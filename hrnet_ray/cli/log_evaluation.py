"""What an evaluation leaves in MLflow: figures, tables and plots, in the run of its model."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hrnet_ray.cli.model_resolution import Loaded, Store
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.errors import DataError
from hrnet_ray.evaluation.model_evaluation import Evaluation

if TYPE_CHECKING:
    from hrnet_ray.tracking.model_registry import Registry


@dataclass(frozen=True)
class Telling:
    """A run that is told of an evaluation."""

    registry: "Registry"
    run_id: str
    model_id: str | None = None

    @classmethod
    def of(cls, loaded: Loaded, text: str, manifest: Manifest, store: Store) -> "Telling":
        """The run of a model; of one that was named by files, the run of its folder.

        Raises:
            DataError: there is none.
            UsageError, ClusterError: MLflow is not there.
        """
        registry = store.open()
        run_id = loaded.run_id or run_id_of(Path(text), registry, manifest.name)
        if not run_id:
            raise no_run(text, registry)
        return cls(registry, run_id)

    def tell(self, evaluation: Evaluation, files: Path | None) -> str:
        """Note the figures, and copy the files; says where they are."""
        split = evaluation.question.split
        place = evaluation.data if split == "val" else f"{evaluation.data}-{split}"
        assessment, interval = evaluation.judged.assessment, evaluation.judged.interval
        values = assessment.summary | {
            f"{assessment.main}.low": interval.low,
            f"{assessment.main}.high": interval.high,
        }
        self.registry.log_evaluation(
            self.run_id,
            {f"{place}.{name}": v for name, v in values.items() if math.isfinite(v)},
            files=files,
            under=f"evaluation/{place}",
            at_ms=int(time.time() * 1000),
            data=(evaluation.data, evaluation.digest),
            model_id=self.model_id,
        )
        return f"told MLflow: run {self.run_id}, metrics eval/{place}.*, evaluation/{place}/"


def run_id_of(path: Path, registry: "Registry", data: str) -> str | None:
    """The run of a run's folder, of its model folder, or of its weights."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "resolved.json").is_file():
            run = registry.run_of(folder, f"hrnet/{data}")
            return run.info.run_id if run else None
    return None


def no_run(text: str, registry: "Registry") -> DataError:
    """There is no run of this folder."""
    return DataError(
        "no MLflow run of this model",
        f"{text} in {registry.said}",
        "tell MLflow of it with `hrnet-ray mlflow-sync`, or give its --tracking-uri or --storage",
    )
