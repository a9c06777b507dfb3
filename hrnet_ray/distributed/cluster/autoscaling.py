"""Asks a cluster that can grow for the machines of a run, and waits until they are there."""

import time
from collections.abc import Mapping
from dataclasses import replace

import ray
from ray.autoscaler.sdk import request_resources

from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.resources import RESERVED_DATA_CPUS, compute_worker_resources
from hrnet_ray.errors import ClusterError

POLL_INTERVAL_S = 1.0


def wait_for_resources(
    cluster: ClusterConfig, *, concurrent_trials: int = 1
) -> Mapping[str, float]:
    """What the cluster has, when `at_once` runs fit or when `cluster.resource_timeout_s` is over.

    Ray's autoscaler keeps what it is asked for until it is asked for something else, and would pay
    for idle machines for ever: so it is asked for nothing in the end, and they stay while they
    work.
    """
    have, asked = ray.cluster_resources(), time.monotonic()
    lack = _describe_shortage(cluster, have, concurrent_trials)
    if not lack or not cluster.resource_timeout_s:
        return have
    request_resources(bundles=_build_bundles(cluster, have, concurrent_trials))
    try:
        while lack and time.monotonic() - asked < cluster.resource_timeout_s:
            print(
                f"waiting for machines, for up to {cluster.resource_timeout_s:.0f} s: {lack}",
                flush=True,
            )
            have = _wait_for_change(have, deadline_s=asked + cluster.resource_timeout_s)
            lack = _describe_shortage(cluster, have, concurrent_trials)
    finally:
        request_resources(bundles=[])
    return have


def _describe_shortage(
    cluster: ClusterConfig, available: Mapping[str, float], concurrent_trials: int
) -> str:
    """What keeps all workers from starting, in words; nothing when they can."""
    try:
        compute_worker_resources(
            replace(cluster, min_workers=None), available, concurrent_trials=concurrent_trials
        )
    except ClusterError as error:
        return error.where
    return ""


def _build_bundles(
    cluster: ClusterConfig, available: Mapping[str, float], concurrent_trials: int
) -> list[dict[str, float]]:
    gpu = cluster.device == "gpu" or (cluster.device == "auto" and available.get("GPU", 0) >= 1)
    worker = {"CPU": 1.0, "GPU": 1.0} if gpu else {"CPU": 1.0}
    return [worker] * (cluster.num_workers * concurrent_trials) + [{"CPU": RESERVED_DATA_CPUS}]


def _wait_for_change(previous: Mapping[str, float], *, deadline_s: float) -> Mapping[str, float]:
    """What there is when it is not what there was, or when the time is over."""
    while time.monotonic() < deadline_s:
        time.sleep(POLL_INTERVAL_S)
        now = ray.cluster_resources()
        if any(now.get(name) != previous.get(name) for name in ("CPU", "GPU")):
            return now
    return previous
