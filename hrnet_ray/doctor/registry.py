"""Registry of all checks, with their names, inputs and timeouts."""

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
"""Seconds for a check that reads local files; a dead network folder would hang it."""


TORCH_IMPORT_TIMEOUT_S = 30.0
"""Seconds for a check that imports torch, on a slow disk."""


@dataclass(frozen=True, kw_only=True)
class DiagnosticContext:
    """Inputs of the checks; results that several checks need are computed once."""

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
        """Check the batch size, measured on the GPU with `test_gpu`."""
        workers = self.cluster.num_workers
        return gpu.check_batch_size(self.experiment, workers=workers, measure=self.test_gpu)

    @property
    def data_root(self) -> str | None:
        experiment = self.recipe.experiment
        return self.dataset_uri or (experiment.data.root if experiment else None)

    @cached_property
    def cluster_probe(self) -> ClusterProbe | None:
        address = resolve_ray_address(self.cluster)
        return probe_cluster(address, disk.find_nearest_existing_dir(self.storage_dir)) if address else None


@dataclass(frozen=True)
class DiagnosticCheck:
    """One check, with its name and timeout."""

    name: str
    run_check: Callable[[DiagnosticContext], CheckResult]
    timeout_s: float = DEFAULT_TIMEOUT_S


CHECKS = (
    DiagnosticCheck("python", lambda _: packages.check_python_version()),
    DiagnosticCheck("packages", lambda _: packages.check_packages()),
    DiagnosticCheck("opencv wheels", lambda _: packages.check_opencv_wheels()),
    DiagnosticCheck("libGL", lambda _: packages.check_opencv_import(), packages.IMPORT_TIMEOUT_S + 1),
    DiagnosticCheck("config", lambda context: context.recipe.result, config_and_data.READ_TIMEOUT_S + 1),
    DiagnosticCheck(
        "data",
        lambda context: config_and_data.check_dataset(context.data_root),
        config_and_data.READ_TIMEOUT_S,
    ),
    DiagnosticCheck("GPU driver", lambda _: gpu.check_driver(), TORCH_IMPORT_TIMEOUT_S),
    DiagnosticCheck("batch", lambda context: context.check_batch_size(), 120.0),
    DiagnosticCheck("memory", lambda _: host_limits.check_memory()),
    DiagnosticCheck("shared memory", lambda _: host_limits.check_shm()),
    DiagnosticCheck("open files", lambda _: host_limits.check_open_files()),
    DiagnosticCheck("threads", lambda _: host_limits.check_omp_threads()),
    DiagnosticCheck("storage", lambda context: disk.check_storage(context.storage_dir)),
    DiagnosticCheck("temporary", lambda _: disk.check_disk_space(disk.get_ray_tmpdir())),
    DiagnosticCheck("old sessions", lambda _: disk.check_stale_sessions()),
    DiagnosticCheck(
        "Ray",
        lambda context: check_local_ray(start=context.start_ray),
        RAY_S,
    ),
    DiagnosticCheck("token", lambda _: check_ray_token()),
    DiagnosticCheck(
        "cluster",
        lambda context: check_reachable(context.cluster_probe, context.cluster),
        CONNECT_TIMEOUT_S + PROBE_TIMEOUT_S + DEFAULT_TIMEOUT_S,
    ),
    DiagnosticCheck("shared storage", lambda context: check_shared_storage(context.cluster_probe)),
    DiagnosticCheck("clocks", lambda context: check_clock_skew(context.cluster_probe)),
    DiagnosticCheck(
        "MLflow",
        lambda context: mlflow_server.check_mlflow_server(context.cluster.tracking_uri),
        mlflow_server.REQUEST_TIMEOUT_S + 1,
    ),
)


def run_diagnostics(context: DiagnosticContext) -> Iterator[tuple[str, CheckResult]]:
    """Run all checks and yield the name and the result of each."""
    for check in CHECKS:
        yield (
            check.name,
            run_with_timeout(partial(check.run_check, context), timeout_s=check.timeout_s),
        )
