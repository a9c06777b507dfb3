"""Request the nodes of a run from the autoscaler, and wait for them."""

import time
from collections.abc import Mapping
from dataclasses import replace

import ray
from ray.autoscaler.sdk import request_resources

from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.resources import RESERVED_DATA_CPUS, compute_worker_resources
from hrnet_ray.errors import ClusterError

POLL_INTERVAL_S = 1.0
"""Seconds between two looks at the resources of the cluster."""


def wait_for_resources(cluster: ClusterConfig, *, concurrent_trials: int = 1) -> Mapping[str, float]:
    """Wait until all trials fit, or until `cluster.resource_timeout_s`; return the resources.

    The autoscaler keeps requested nodes, also idle ones, until the next request. An empty request
    at the end lets it remove them once they are idle.
    """
    available, deadline_s = ray.cluster_resources(), time.monotonic() + cluster.resource_timeout_s
    shortage = _describe_shortage(cluster, available, concurrent_trials)
    if not shortage or not cluster.resource_timeout_s:
        return available
    request_resources(bundles=_build_bundles(cluster, available, concurrent_trials))
    try:
        while shortage and time.monotonic() < deadline_s:
            print(
                f"waiting up to {cluster.resource_timeout_s:.0f} s for nodes: {shortage}",
                flush=True,
            )
            available = _wait_for_change(available, deadline_s=deadline_s)
            shortage = _describe_shortage(cluster, available, concurrent_trials)
    finally:
        request_resources(bundles=[])
    return available


def _describe_shortage(cluster: ClusterConfig, available: Mapping[str, float], concurrent_trials: int) -> str:
    """Describe the resources that the workers lack; empty if they fit."""
    try:
        compute_worker_resources(replace(cluster, min_workers=None), available, concurrent_trials=concurrent_trials)
    except ClusterError as error:
        return error.where
    return ""


def _build_bundles(
    cluster: ClusterConfig, available: Mapping[str, float], concurrent_trials: int
) -> list[dict[str, float]]:
    use_gpu = cluster.device == "gpu" or (cluster.device == "auto" and available.get("GPU", 0) >= 1)
    worker = {"CPU": 1.0, "GPU": 1.0} if use_gpu else {"CPU": 1.0}
    return [worker] * (cluster.num_workers * concurrent_trials) + [{"CPU": RESERVED_DATA_CPUS}]


def _wait_for_change(previous: Mapping[str, float], *, deadline_s: float) -> Mapping[str, float]:
    """Return the resources as soon as they change, or at the deadline."""
    while time.monotonic() < deadline_s:
        time.sleep(POLL_INTERVAL_S)
        current = ray.cluster_resources()
        if any(current.get(name) != previous.get(name) for name in ("CPU", "GPU")):
            return current
    return previous
