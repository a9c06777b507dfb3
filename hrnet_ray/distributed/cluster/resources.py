"""Start or join Ray, and compute the resources of the workers before a run starts.

Ray waits forever for resources that no node has, and Ray Data starves if the workers reserve all
CPUs. Both are errors here, with the required and the available resources.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from joblib import cpu_count
from ray._private import ray_constants, worker as ray_worker
from ray.data import DataContext

from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.session_dir import use_private_ray_tmpdir, write_address_file
from hrnet_ray.errors import ClusterError
from hrnet_ray.training.cpu_env import OPENMP_WAIT_ENV

RESERVED_DATA_CPUS = 1.0
"""CPUs that are kept free of workers, for reading and decoding."""
TARGET_BLOCK_BYTES = 32 * 2**20
"""Bytes of a block in the object store, the unit of a transfer: about 64 canvases."""
MIN_CPUS_PER_WORKER = 0.25
"""Smallest number of CPUs of a worker."""
TRIAL_DRIVER_CPUS = 0.01
"""CPUs of the process that drives a trial; Ray refuses 0."""

RAY_ENV_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also the interval of polling for reports
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    **OPENMP_WAIT_ENV,
}
LOCAL_RAY_ENV_DEFAULTS = {
    "RAY_worker_niceness": "0",  # by Ray's default of 15, any other program slows the training down
    "RAY_prestart_worker_first_driver": "0",  # idle processes, one per CPU
    "RAY_enable_metrics_collection": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # it asks cloud providers
}
"""Settings of a Ray that a command starts on its own machine: fewer helper processes."""


@dataclass(frozen=True, kw_only=True)
class WorkerResources:
    """Resources of one training worker."""

    cpus: float
    gpus: int
    threads: int
    """Threads of torch on a CPU; `cpus` is only what Ray reserves."""


def describe_cluster() -> dict[str, Any]:
    """Count nodes, CPUs and GPUs, and list the accelerator types."""
    available, prefix = ray.cluster_resources(), "accelerator_type:"
    return {
        "nodes": sum(node["Alive"] for node in ray.nodes()),
        "cpus": available.get("CPU", 0),
        "gpus": available.get("GPU", 0),
        "gpu_kinds": sorted(name.removeprefix(prefix) for name in available if name.startswith(prefix)),
    }


def init_ray(cluster: ClusterConfig, *, include_dashboard: bool = False) -> None:
    """Join the cluster at `ray_address` or RAY_ADDRESS, or start Ray on loopback.

    A local Ray needs its dashboard only for trials of several workers: Ray Train's
    PlacementGroupCleaner asks it for dead actors.
    """
    for name, value in RAY_ENV_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not ray.is_initialized():
        address = cluster.ray_address or os.environ.get("RAY_ADDRESS") or "local"
        if address == "local":
            _start_local_ray(include_dashboard=include_dashboard)
        else:
            _join_cluster(address)
    configure_ray_data()


def owns_ray() -> bool:
    """Whether this process started Ray, so that Ray ends with it."""
    node = ray_worker._global_node
    return node is not None and node.head


def _start_local_ray(*, include_dashboard: bool) -> None:
    for name, value in LOCAL_RAY_ENV_DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Ray binds to all network interfaces unless clusters are disabled: by the variable for the
    # processes that it starts, by the constant for this one, which has read the variable already.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray_constants.ENABLE_RAY_CLUSTER = False
    use_private_ray_tmpdir()
    try:
        ray.init(
            address="local",
            # With one CPU, a worker would leave none for Ray Data; the number need not be real.
            num_cpus=max(2, cpu_count()),
            include_dashboard=include_dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises plain exceptions, for example after its timeout of 30 s
        raise make_start_error(error) from error
    write_address_file(ray.get_runtime_context().gcs_address)
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)  # Ray writes it with mode 0644


def make_start_error(error: Exception) -> ClusterError:
    """Build the error for a local Ray that does not start, usually on an overloaded machine."""
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return ClusterError(
        "Ray did not start on this machine",
        f"{reason} | load average {os.getloadavg()[0]:.0f} on {cpu_count()} CPUs",
        "stop other programs that use CPU or memory, then run the same command again",
    )


def _join_cluster(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            "the Ray cluster does not answer",
            f"{address}: {' '.join(str(error).split())[:160]}",
            "check the address; for token authentication, set RAY_AUTH_MODE=token here too",
        ) from error


def configure_ray_data() -> None:
    """Configure Ray Data in the process that plans a pipeline."""
    context = DataContext.get_current()
    # The new Parquet reader of Ray 2.60 starts 32 actors per execution, which takes 3-5 s.
    context.use_datasource_v2 = False
    context.execution_options.preserve_order = True  # deterministic row order
    context.target_max_block_size = TARGET_BLOCK_BYTES
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def compute_worker_resources(
    cluster: ClusterConfig, available: Mapping[str, float], *, concurrent_trials: int = 1
) -> WorkerResources:
    """Compute the resources of a worker for `concurrent_trials` runs of `num_workers` workers.

    An elastic run plans as many workers as get a CPU (and a GPU) each.

    Raises:
        ClusterError: `min_workers` workers do not fit.
    """
    cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    use_gpu = cluster.device == "gpu" or (cluster.device == "auto" and gpus >= 1)
    min_workers = cluster.effective_min_workers * concurrent_trials
    max_workers = cluster.num_workers * concurrent_trials
    if use_gpu and gpus < min_workers:
        raise _make_shortage_error("GPUs", min_workers, gpus, cluster, concurrent_trials)
    worker_cpus = cpus - RESERVED_DATA_CPUS
    capacity = min(worker_cpus, gpus) if use_gpu else worker_cpus
    workers_per_trial = max(cluster.effective_min_workers, int(capacity // concurrent_trials))
    workers = min(cluster.num_workers, workers_per_trial) * concurrent_trials
    cpus_each = min(1.0, worker_cpus / workers)
    if cpus_each < MIN_CPUS_PER_WORKER:
        required = MIN_CPUS_PER_WORKER * min_workers + RESERVED_DATA_CPUS
        raise _make_shortage_error("CPUs", required, cpus, cluster, concurrent_trials)
    reserved = int(cpus_each * 16) / 16  # rounded down, so that the sum never exceeds the total
    if min_workers < max_workers:  # Ray starts as many as fit, without a CPU for Ray Data
        startable = min(cpus // reserved, gpus) if use_gpu else cpus // reserved
        workers = min(max_workers, max(workers, int(startable)))
    return WorkerResources(cpus=reserved, gpus=int(use_gpu), threads=max(1, int(cpus // workers)))


def require_min_workers(
    cluster: ClusterConfig, worker_resources: WorkerResources, available: Mapping[str, float]
) -> None:
    """Check that the remaining nodes of a cluster can hold a run in progress.

    Raises:
        ClusterError: `min_workers` workers do not fit.
    """
    for name, each in (("CPU", worker_resources.cpus), ("GPU", worker_resources.gpus)):
        required = each * cluster.effective_min_workers
        if available.get(name, 0.0) < required:
            raise _make_shortage_error(f"{name}s", required, available.get(name, 0.0), cluster, 1)


def _make_shortage_error(
    resource_name: str,
    required: int | float,
    available: float,
    cluster: ClusterConfig,
    concurrent_trials: int,
) -> ClusterError:
    min_workers = cluster.effective_min_workers
    trials = f"{concurrent_trials} concurrent trials, each with " if concurrent_trials > 1 else ""
    on_cpu = "--cluster.device cpu, " if resource_name == "GPUs" else ""
    is_elastic = min_workers < cluster.num_workers
    flag = "--cluster.min-workers" if is_elastic and min_workers > 1 else "--cluster.num-workers"
    return ClusterError(
        f"the cluster has too few {resource_name}",
        f"{trials}{'at least ' if is_elastic else ''}{min_workers} workers need "
        f"{required:g} {resource_name}, {available:g} available",
        f"use {on_cpu}a smaller {flag}, or a larger cluster",
    )


def compute_max_concurrent_trials(cluster: ClusterConfig, available: Mapping[str, float], *, num_trials: int) -> int:
    """Compute how many trials can train at the same time with enough CPUs or GPUs each."""
    gpus, cpus = available.get("GPU", 0), available.get("CPU", 0)
    if gpus >= 1 and cluster.device != "cpu":
        fitting = gpus // cluster.num_workers
    else:
        fitting = cpus // max(2, cluster.num_workers) if cpus > 2 else 2
        if cluster.num_workers > 1:
            fitting = min(fitting, cpus - RESERVED_DATA_CPUS)
    return max(1, min(num_trials, int(fitting)))
