"""The table of checks: their names, what they ask for, and how long they may take."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from hrnet_ray.config import Cluster, Experiment
from hrnet_ray.doctor import config_and_data, disk, gpu, host_limits, mlflow_server, packages
from hrnet_ray.doctor.local_ray import LIMIT_S as RAY_S, ray_here
from hrnet_ray.doctor.ray_cluster import (
    CONNECT_S,
    VISIT_S,
    Visit,
    address_of,
    clocks,
    reached,
    shared_storage,
    visit,
)
from hrnet_ray.doctor.ray_token import token
from hrnet_ray.doctor.result import Finding, looked

LIMIT_S = 10.0
"""For a check that reads files of this machine; a network folder that is gone would hang it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the doctor is asked about. What several checks need is found out once."""

    cluster: Cluster = field(default_factory=Cluster)
    data: str | None = None
    config: Path | None = None
    try_gpu: bool = False
    start_ray: bool = False

    @property
    def storage(self) -> Path:
        return Path(self.cluster.storage).absolute()

    @cached_property
    def settings(self) -> config_and_data.Settings:
        return config_and_data.read_settings(self.config)

    @property
    def experiment(self) -> Experiment:
        return self.settings.experiment or Experiment()

    def batch(self) -> Finding:
        """How many crops fit the GPU, by trying where that is asked for."""
        workers = self.cluster.workers
        return gpu.batch(self.experiment, workers=workers, by_trying=self.try_gpu)

    @property
    def data_root(self) -> str | None:
        named = self.settings.experiment
        return self.data or (named.data.root if named else None)

    @cached_property
    def visit(self) -> Visit | None:
        address = address_of(self.cluster)
        return visit(address, disk.existing(self.storage)) if address else None


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table."""

    name: str
    look: Callable[[Case], Finding]
    limit_s: float = LIMIT_S


CHECKS = (
    Check("python", lambda _: packages.python_version()),
    Check("packages", lambda _: packages.packages()),
    Check("opencv wheels", lambda _: packages.opencv_wheels()),
    Check("libGL", lambda _: packages.opencv_imports(), packages.IMPORT_S + 1),
    Check("config", lambda case: case.settings.finding, config_and_data.READ_S + 1),
    Check("data", lambda case: config_and_data.data(case.data_root), config_and_data.READ_S),
    Check("GPU driver", lambda _: gpu.driver(), 30.0),  # the first import of torch, on a slow disk
    Check("batch", lambda case: case.batch(), 120.0),
    Check("memory", lambda _: host_limits.memory()),
    Check("shared memory", lambda _: host_limits.shared_memory()),
    Check("open files", lambda _: host_limits.open_files()),
    Check("threads", lambda _: host_limits.threads()),
    Check("storage", lambda case: disk.storage(case.storage)),
    Check("temporary", lambda _: disk.disk(disk.temporary())),
    Check("old sessions", lambda _: disk.old_sessions()),
    Check(
        "Ray",
        lambda case: ray_here(start=case.start_ray),
        RAY_S,
    ),
    Check("token", lambda _: token()),
    Check(
        "cluster",
        lambda case: reached(case.visit, case.cluster),
        CONNECT_S + VISIT_S + LIMIT_S,
    ),
    Check("shared storage", lambda case: shared_storage(case.visit)),
    Check("clocks", lambda case: clocks(case.visit)),
    Check(
        "MLflow",
        lambda case: mlflow_server.mlflow(case.cluster.tracking_uri),
        mlflow_server.WAIT_S + 1,
    ),
)


def examine(case: Case) -> Iterator[tuple[str, Finding]]:
    """Name and finding of every check, as they come; seconds in all."""
    for check in CHECKS:
        yield check.name, looked(partial(check.look, case), limit_s=check.limit_s)
