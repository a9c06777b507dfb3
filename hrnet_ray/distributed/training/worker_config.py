"""What a training worker is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import Experiment
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.distributed.data.object_store import Stored
from hrnet_ray.distributed.training.backends import Host


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is told. Plain values: it travels to other machines."""

    experiment: Experiment
    manifest: Manifest
    data: Mapping[str, Stored]
    run_folder: Path
    threads: int
    write_order: bool
    host: Host
    started_in: str
    """The driver's folder, where relative paths of settings start: workers stand elsewhere."""
    most_workers: int = 1
