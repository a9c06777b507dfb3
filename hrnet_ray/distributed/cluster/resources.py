"""What the machines have, and what a run needs of them: computed and checked before it starts.

Ray waits for ever for a resource that nobody has, and Ray Data starves when the workers take every
CPU. Both are found here, in a second, with a table of what is wanted and what is there.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from joblib import cpu_count
from ray._private import ray_constants
from ray.data import DataContext

from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.session_dir import use_private_ray_tmpdir, write_address_file
from hrnet_ray.errors import ClusterError
from hrnet_ray.training.cpu_env import OPENMP_WAIT_ENV

RESERVED_DATA_CPUS = 1.0
"""Kept free of workers, for reading and decoding."""
TARGET_BLOCK_BYTES = 32 * 2**20
"""Of a table in the object store: about 64 canvases, what a node fetches from another at once."""
MIN_CPUS_PER_WORKER = 0.25
"""Less than this of a CPU is no training."""
TRIAL_DRIVER_CPUS = 0.01
"""A trial that waits for its workers; Ray refuses 0."""

RAY_ENV_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also how often reports are looked for
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    **OPENMP_WAIT_ENV,
}


@dataclass(frozen=True, kw_only=True)
class WorkerResources:
    """What one training worker gets."""

    cpus: float
    gpus: int
    threads: int
    """For torch on a CPU; `cpus` is only what Ray books."""


def describe_cluster() -> dict[str, Any]:
    """What the cluster has: nodes, CPUs, GPUs, and what Ray calls their kinds."""
    have, kind = ray.cluster_resources(), "accelerator_type:"
    return {
        "nodes": sum(node["Alive"] for node in ray.nodes()),
        "cpus": have.get("CPU", 0),
        "gpus": have.get("GPU", 0),
        "gpu_kinds": sorted(name.removeprefix(kind) for name in have if name.startswith(kind)),
    }


def init_ray(cluster: ClusterConfig) -> None:
    """Join the running cluster that is named, or start Ray on this machine, on loopback only."""
    for name, value in RAY_ENV_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not ray.is_initialized():
        address = cluster.ray_address or os.environ.get("RAY_ADDRESS") or "local"
        if address == "local":
            _start_local_ray()
        else:
            _join_cluster(address)
    configure_ray_data()


def _start_local_ray() -> None:
    # Ray binds to every network of this machine unless told that there will be no other machine:
    # the variable is for the processes it starts, the constant for this one, which read it before.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray_constants.ENABLE_RAY_CLUSTER = False
    use_private_ray_tmpdir()
    ray.init(
        address="local",
        # One CPU would leave Ray Data nothing beside a worker; a second one is only a number.
        num_cpus=max(2, cpu_count()),
        include_dashboard=True,  # Ray Train asks it who died
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    write_address_file(ray.get_runtime_context().gcs_address)
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)  # Ray writes it for everybody to read


def _join_cluster(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            "the Ray cluster does not answer",
            f"{address}: {' '.join(str(error).split())[:160]}",
            "check the address; with token authentication set RAY_AUTH_MODE=token here too",
        ) from error


def configure_ray_data() -> None:
    """Ray Data as this project needs it, wherever a pipeline is planned."""
    context = DataContext.get_current()
    # Ray 2.60's new Parquet reader starts 32 actors for each execution: 3-5 s an epoch.
    context.use_datasource_v2 = False
    context.execution_options.preserve_order = True  # the same rows in the same order, every time
    context.target_max_block_size = TARGET_BLOCK_BYTES
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def compute_worker_resources(
    cluster: ClusterConfig, available: Mapping[str, float], *, concurrent_trials: int = 1
) -> WorkerResources:
    """What each worker gets when `at_once` runs of `cluster.num_workers` workers train together.

    Where fewer workers will do, as many are counted on as get a CPU (and a GPU) each.

    Raises:
        ClusterError: not even the fewest fit; the message says what is there.
    """
    cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    use_gpu = cluster.device == "gpu" or (cluster.device == "auto" and gpus >= 1)
    fewest = cluster.effective_min_workers * concurrent_trials
    if use_gpu and gpus < fewest:
        raise _make_shortage_error("GPUs", fewest, gpus, cluster, concurrent_trials)
    spare = cpus - RESERVED_DATA_CPUS
    there = min(spare, gpus) if use_gpu else spare
    workers = (
        min(
            cluster.num_workers, max(cluster.effective_min_workers, int(there // concurrent_trials))
        )
        * concurrent_trials
    )
    each = min(1.0, spare / workers)
    if each < MIN_CPUS_PER_WORKER:
        raise _make_shortage_error(
            "CPUs",
            MIN_CPUS_PER_WORKER * fewest + RESERVED_DATA_CPUS,
            cpus,
            cluster,
            concurrent_trials,
        )
    # Booked in sixteenths, so that many small shares add up to no more than there is.
    booked = int(each * 16) / 16
    if (
        fewest < cluster.num_workers * concurrent_trials
    ):  # Ray starts what fits, and knows of no CPU for the data
        most = min(cpus // booked, gpus) if use_gpu else cpus // booked
        workers = min(cluster.num_workers * concurrent_trials, max(workers, int(most)))
    return WorkerResources(cpus=booked, gpus=int(use_gpu), threads=max(1, int(cpus // workers)))


def require_min_workers(
    cluster: ClusterConfig, worker_resources: WorkerResources, available: Mapping[str, float]
) -> None:
    """Look whether what is left of a cluster can hold a run that has begun on it.

    Raises:
        ClusterError: not even its fewest workers; the message says what is there.
    """
    for what, name, each in (
        ("CPUs", "CPU", worker_resources.cpus),
        ("GPUs", "GPU", worker_resources.gpus),
    ):
        if available.get(name, 0.0) < each * cluster.effective_min_workers:
            raise _make_shortage_error(
                what, each * cluster.effective_min_workers, available.get(name, 0.0), cluster, 1
            )


def _make_shortage_error(
    resource_name: str,
    required: int | float,
    available: float,
    cluster: ClusterConfig,
    concurrent_trials: int,
) -> ClusterError:
    runs = f"{concurrent_trials} runs at once, each with " if concurrent_trials > 1 else ""
    smaller = "--cluster.device cpu, " if resource_name == "GPUs" else ""
    elastic = cluster.effective_min_workers < cluster.num_workers
    flag = (
        "--cluster.min-workers"
        if elastic and cluster.effective_min_workers > 1
        else "--cluster.num_workers"
    )
    return ClusterError(
        f"the cluster has too few {resource_name}",
        f"{runs}{'at least ' if elastic else ''}{cluster.effective_min_workers} workers want {required:g} {resource_name} | "
        f"have {available:g}",
        f"{smaller}fewer {flag}, or a larger cluster",
    )


def compute_max_concurrent_trials(
    cluster: ClusterConfig, available: Mapping[str, float], *, num_trials: int
) -> int:
    """How many trials can train together without starving each other."""
    if available.get("GPU", 0) >= 1 and cluster.device != "cpu":
        most = available["GPU"] // cluster.num_workers
    else:
        most = (
            available.get("CPU", 0) // max(2, cluster.num_workers)
            if available.get("CPU", 0) > 2
            else 2
        )
        most = (
            most
            if cluster.num_workers == 1
            else min(most, available.get("CPU", 0) - RESERVED_DATA_CPUS)
        )
    return max(1, min(num_trials, int(most)))
