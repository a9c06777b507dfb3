"""The table of checks: their names, what they ask for, and how long they may take."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from hrnet_ray.config import ClusterConfig, ExperimentConfig
from hrnet_ray.doctor import config_and_data, disk, gpu, host_limits, mlflow_server, packages
from hrnet_ray.doctor.local_ray import TOTAL_TIMEOUT_S as RAY_S, check_local_ray
from hrnet_ray.doctor.ray_cluster import (
    CONNECT_TIMEOUT_S,
    PROBE_TIMEOUT_S,
    ClusterProbe,
    check_clock_skew,
    check_reachable,
    check_shared_storage,
    probe_cluster,
    resolve_ray_address,
)
from hrnet_ray.doctor.ray_token import check_ray_token
from hrnet_ray.doctor.result import CheckResult, run_with_timeout

DEFAULT_TIMEOUT_S = 10.0
"""For a check that reads files of this machine; a network folder that is gone would hang it."""


@dataclass(frozen=True, kw_only=True)
class DiagnosticContext:
    """What the doctor is asked about. What several checks need is found out once."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    dataset_uri: str | None = None
    recipe_path: Path | None = None
    test_gpu: bool = False
    start_ray: bool = False

    @property
    def storage_dir(self) -> Path:
        return Path(self.cluster.storage_path).absolute()

    @cached_property
    def recipe(self) -> config_and_data.RecipeCheck:
        return config_and_data.check_recipe(self.recipe_path)

    @property
    def experiment(self) -> ExperimentConfig:
        return self.recipe.experiment or ExperimentConfig()

    def check_batch_size(self) -> CheckResult:
        """How many crops fit the GPU, by trying where that is asked for."""
        workers = self.cluster.num_workers
        return gpu.check_batch_size(self.experiment, workers=workers, measure=self.test_gpu)

    @property
    def data_root(self) -> str | None:
        named = self.recipe.experiment
        return self.dataset_uri or (named.data.root if named else None)

    @cached_property
    def cluster_probe(self) -> ClusterProbe | None:
        address = resolve_ray_address(self.cluster)
        return (
            probe_cluster(address, disk.find_nearest_existing_dir(self.storage_dir))
            if address
            else None
        )


@dataclass(frozen=True)
class DiagnosticCheck:
    """One line of the doctor's table."""

    name: str
    run_check: Callable[[DiagnosticContext], CheckResult]
    timeout_s: float = DEFAULT_TIMEOUT_S


CHECKS = (
    DiagnosticCheck("python", lambda _: packages.check_python_version()),
    DiagnosticCheck("packages", lambda _: packages.check_packages()),
    DiagnosticCheck("opencv wheels", lambda _: packages.check_opencv_wheels()),
    DiagnosticCheck(
        "libGL", lambda _: packages.check_opencv_import(), packages.IMPORT_TIMEOUT_S + 1
    ),
    DiagnosticCheck("config", lambda case: case.recipe.result, config_and_data.READ_TIMEOUT_S + 1),
    DiagnosticCheck(
        "data",
        lambda case: config_and_data.check_dataset(case.data_root),
        config_and_data.READ_TIMEOUT_S,
    ),
    DiagnosticCheck(
        "GPU driver", lambda _: gpu.check_driver(), 30.0
    ),  # the first import of torch, on a slow disk
    DiagnosticCheck("batch", lambda case: case.check_batch_size(), 120.0),
    DiagnosticCheck("memory", lambda _: host_limits.check_memory()),
    DiagnosticCheck("shared memory", lambda _: host_limits.check_shm()),
    DiagnosticCheck("open files", lambda _: host_limits.check_open_files()),
    DiagnosticCheck("threads", lambda _: host_limits.check_omp_threads()),
    DiagnosticCheck("storage", lambda case: disk.check_storage(case.storage_dir)),
    DiagnosticCheck("temporary", lambda _: disk.check_disk_space(disk.get_ray_tmpdir())),
    DiagnosticCheck("old sessions", lambda _: disk.check_stale_sessions()),
    DiagnosticCheck(
        "Ray",
        lambda case: check_local_ray(start=case.start_ray),
        RAY_S,
    ),
    DiagnosticCheck("token", lambda _: check_ray_token()),
    DiagnosticCheck(
        "cluster",
        lambda case: check_reachable(case.cluster_probe, case.cluster),
        CONNECT_TIMEOUT_S + PROBE_TIMEOUT_S + DEFAULT_TIMEOUT_S,
    ),
    DiagnosticCheck("shared storage", lambda case: check_shared_storage(case.cluster_probe)),
    DiagnosticCheck("clocks", lambda case: check_clock_skew(case.cluster_probe)),
    DiagnosticCheck(
        "MLflow",
        lambda case: mlflow_server.check_mlflow_server(case.cluster.tracking_uri),
        mlflow_server.REQUEST_TIMEOUT_S + 1,
    ),
)


def run_diagnostics(context: DiagnosticContext) -> Iterator[tuple[str, CheckResult]]:
    """Name and finding of every check, as they come; seconds in all."""
    for check in CHECKS:
        yield (
            check.name,
            run_with_timeout(partial(check.run_check, context), timeout_s=check.timeout_s),
        )
