"""Asks a cluster that can grow for the machines of a run, and waits until they are there."""

import time
from collections.abc import Mapping
from dataclasses import replace

import ray
from ray.autoscaler.sdk import request_resources

from hrnet_ray.config import Cluster
from hrnet_ray.distributed.cluster.resources import DATA_CPUS, share_of
from hrnet_ray.errors import ClusterError

LOOK_S = 1.0


def resources(cluster: Cluster, *, at_once: int = 1) -> Mapping[str, float]:
    """What the cluster has, when `at_once` runs fit or when `cluster.wait_s` is over.

    Ray's autoscaler keeps what it is asked for until it is asked for something else, and would pay
    for idle machines for ever: so it is asked for nothing in the end, and they stay while they
    work.
    """
    have, asked = ray.cluster_resources(), time.monotonic()
    lack = _lack(cluster, have, at_once)
    if not lack or not cluster.wait_s:
        return have
    request_resources(bundles=_bundles(cluster, have, at_once))
    try:
        while lack and time.monotonic() - asked < cluster.wait_s:
            print(f"waiting for machines, for up to {cluster.wait_s:.0f} s: {lack}", flush=True)
            have = _changed(have, until=asked + cluster.wait_s)
            lack = _lack(cluster, have, at_once)
    finally:
        request_resources(bundles=[])
    return have


def _lack(cluster: Cluster, have: Mapping[str, float], at_once: int) -> str:
    """What keeps all workers from starting, in words; nothing when they can."""
    try:
        share_of(replace(cluster, min_workers=None), have, at_once=at_once)
    except ClusterError as error:
        return error.where
    return ""


def _bundles(cluster: Cluster, have: Mapping[str, float], at_once: int) -> list[dict[str, float]]:
    gpu = cluster.device == "gpu" or (cluster.device == "auto" and have.get("GPU", 0) >= 1)
    worker = {"CPU": 1.0, "GPU": 1.0} if gpu else {"CPU": 1.0}
    return [worker] * (cluster.workers * at_once) + [{"CPU": DATA_CPUS}]


def _changed(before: Mapping[str, float], *, until: float) -> Mapping[str, float]:
    """What there is when it is not what there was, or when the time is over."""
    while time.monotonic() < until:
        time.sleep(LOOK_S)
        now = ray.cluster_resources()
        if any(now.get(name) != before.get(name) for name in ("CPU", "GPU")):
            return now
    return before
