"""The Ray cluster: whether it answers, what it has, whether its nodes share storage and time."""

import json
import os
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import ClusterConfig
from hrnet_ray.doctor.result import CheckResult, CheckSkipped, get_last_line, run_python

CONNECT_TIMEOUT_S = 3.0
PROBE_TIMEOUT_S = 40.0
"""To join, to start a process on each node, to ask it; all of that takes 5-10 s."""
MAX_CLOCK_SKEW_S = 5.0
COPY_TOKEN_FIX = "export RAY_AUTH_MODE=token && scp {host}:.ray/auth_token ~/.ray/auth_token"

START_CLUSTER_FIX = "RAY_UP_enable_autoscaler_v2=0 ray up -y --no-config-cache cluster/local.yaml"


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """One node, as a task on it found it."""

    address: str
    cpus: float
    gpus: float
    installed_gpus: int = 0
    """GPUs that are in the machine, whether or not Ray knows them."""
    storage_problem: str = ""
    """Why it does not share the storage."""
    clock_offset_s: float | None = None
    """Of this machine's clock, give or take `doubt_s`."""
    clock_uncertainty_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ClusterProbe:
    """What one visit to a cluster brought."""

    address: str
    storage_dir: Path
    """Where the nodes wrote."""
    nodes: tuple[NodeReport, ...] = ()
    connection_error: str = ""
    """Why there is no cluster."""
    port_open: bool = True
    """Whether anything answers there at all; a Ray with another token does, and then refuses."""
    local_storage_error: str = ""
    """Why this machine cannot write in the storage."""


def resolve_ray_address(cluster: ClusterConfig) -> str | None:
    """The running cluster that a run would join; None where it starts Ray here."""
    address = cluster.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    return None if address == "local" else address


def probe_cluster(
    address: str, storage_dir: Path, *, timeout_s: float = PROBE_TIMEOUT_S
) -> ClusterProbe:
    """Join the cluster in a process of its own, and have every node write in `place`."""
    if closed := _find_connection_error(address):
        return ClusterProbe(
            address=address, storage_dir=storage_dir, connection_error=closed, port_open=False
        )
    try:
        done = run_python(
            "-m",
            "hrnet_ray.distributed.cluster.node_probe",
            address,
            str(storage_dir),
            timeout_s=timeout_s,
        )
    except CheckSkipped:
        return ClusterProbe(
            address=address,
            storage_dir=storage_dir,
            connection_error=f"no answer in {timeout_s:g} s",
        )
    if done.returncode:
        failed = get_last_line(done.stderr) or f"joining it ends with {done.returncode}"
        return ClusterProbe(address=address, storage_dir=storage_dir, connection_error=failed)
    answer = json.loads(done.stdout.splitlines()[-1])
    nodes = tuple(NodeReport(**node) for node in answer["nodes"])
    return ClusterProbe(
        address=address, storage_dir=storage_dir, nodes=nodes, local_storage_error=answer["here"]
    )


def _find_connection_error(address: str) -> str:
    """Why nothing listens at HOST:PORT or ray://HOST:PORT; a second spares Ray's half minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return ""
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def check_reachable(probe: ClusterProbe | None, cluster: ClusterConfig) -> CheckResult:
    """Whether the cluster answers, and has what the run asks for."""
    if probe is None:
        return CheckResult(
            "ok", "none named (--cluster.ray_address, RAY_ADDRESS): a run starts Ray here"
        )
    if probe.connection_error:
        return CheckResult(
            "wrong",
            f"{probe.address}: {probe.connection_error}",
            _suggest_connection_fix(probe, cluster),
        )
    cpus, gpus = (sum(getattr(node, kind) for node in probe.nodes) for kind in ("cpus", "gpus"))
    said = (
        f"{probe.address}: {_format_node_count(probe.nodes)} with {cpus:g} CPUs and {gpus:g} GPUs"
    )
    for node in probe.nodes:
        if node.installed_gpus > node.gpus:
            # Not `ray stop` first: it would end every Ray of that account, not this node alone.
            fix = f"ray start --address={probe.address} --num-gpus={node.installed_gpus}"
            said = f"{said}; {node.address} has {node.installed_gpus} GPUs, Ray knows {node.gpus:g}"
            again = f"ssh {node.address} {shlex.quote(fix)}"
            return CheckResult("careful", said, f"end Ray's node there, then: {again}")
    if cluster.device == "gpu" and gpus < cluster.num_workers:
        said = f"{said}, {cluster.num_workers:g} GPUs are wanted"
        return CheckResult("wrong", said, "hrnet-ray train --cluster.device cpu")
    return CheckResult("ok", said)


def _format_node_count(nodes: Sequence[NodeReport]) -> str:
    return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"


def _suggest_connection_fix(probe: ClusterProbe, cluster: ClusterConfig) -> str:
    if probe.port_open:
        host = probe.address.removeprefix("ray://").rpartition(":")[0]
        return COPY_TOKEN_FIX.format(host=shlex.quote(host)) + " && chmod 600 ~/.ray/auth_token"
    if cluster.ray_address is None:
        return "unset RAY_ADDRESS  # then a run starts Ray on this machine"
    return START_CLUSTER_FIX


def check_shared_storage(probe: ClusterProbe | None) -> CheckResult:
    """Whether what a node writes in the storage is there for all."""
    if probe is None:
        return CheckResult("ok", "no cluster: one machine writes and reads")
    if not probe.nodes:
        raise CheckSkipped("the cluster does not answer")
    place = shlex.quote(str(probe.storage_dir))
    if probe.local_storage_error:
        said = f"this machine cannot write in {probe.storage_dir}: {probe.local_storage_error}"
        return CheckResult("wrong", said, f"sudo mount -a && findmnt -T {place}")
    if bad := [node for node in probe.nodes if node.storage_problem]:
        said = "; ".join(f"{node.address} {node.storage_problem}" for node in bad[:3])
        said += f" and {len(bad) - 3} more nodes" if len(bad) > 3 else ""
        remount = shlex.quote(f"sudo mount -a; findmnt -T {place}")
        return CheckResult(
            "wrong", f"{probe.storage_dir}: {said}", f"ssh {bad[0].address} {remount}"
        )
    return CheckResult(
        "ok", f"{_format_node_count(probe.nodes)} wrote in {probe.storage_dir}, and were read here"
    )


def check_clock_skew(probe: ClusterProbe | None) -> CheckResult:
    """Whether the nodes and this machine agree on the time."""
    if probe is None:
        return CheckResult("ok", "no cluster: one clock")
    known = {node: node.clock_offset_s for node in probe.nodes if node.clock_offset_s is not None}
    if not known:
        raise CheckSkipped("no node told its time")
    times = [0.0, *known.values()]  # this machine's own is the first
    skew, doubt = max(times) - min(times), max(node.clock_uncertainty_s for node in known)
    if skew - 2 * doubt < MAX_CLOCK_SKEW_S:
        return CheckResult("ok", f"{skew:.1f} s apart at most (known to {doubt:.1f} s)")
    middle = sorted(times)[len(times) // 2]
    worst = max(known, key=lambda node: abs(known[node] - middle))
    if abs(middle) >= abs(known[worst] - middle):
        said, where = "this machine is", ""
    else:
        said, where = f"{worst.address} is", f"ssh {worst.address} "
    fix = f"{where}sudo timedatectl set-ntp true"
    return CheckResult("wrong", f"{skew:.1f} s apart; {said} farthest from the others", fix)
