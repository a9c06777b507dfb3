"""Configuration of a training worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.data.object_store import CachedSplit
from hrnet_ray.distributed.training.backends import TrainBackend


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Configuration of a worker; plain values, because it is sent to other nodes."""

    experiment: ExperimentConfig
    manifest: DatasetManifest
    cached_splits: Mapping[str, CachedSplit]
    run_folder: Path
    threads: int
    log_sample_order: bool
    backend: TrainBackend
    driver_cwd: str
    """Working directory of the driver, to which relative paths in settings refer."""
    max_workers: int = 1
