"""Checks of the Ray cluster: connection, resources, shared storage, and clocks."""

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
"""Seconds for a TCP connection to the head node."""
PROBE_TIMEOUT_S = 40.0
"""Seconds to join and to probe every node, which usually takes 5-10 s."""
MAX_CLOCK_SKEW_S = 5.0
"""Largest accepted difference between two clocks, in seconds."""
COPY_TOKEN_FIX = "export RAY_AUTH_MODE=token && scp {host}:.ray/auth_token ~/.ray/auth_token"

START_CLUSTER_FIX = "RAY_UP_enable_autoscaler_v2=0 ray up -y --no-config-cache cluster/local.yaml"


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """Report of one node, from a task on it."""

    address: str
    cpus: float
    gpus: float
    installed_gpus: int = 0
    """GPUs of the machine, including those unknown to Ray."""
    storage_problem: str = ""
    """Reason why the storage is not shared; empty if it is."""
    clock_offset_s: float | None = None
    """Seconds by which its clock is ahead of this machine, +- `clock_uncertainty_s`."""
    clock_uncertainty_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ClusterProbe:
    """Result of probing a cluster."""

    address: str
    storage_dir: Path
    """Folder in which the nodes wrote."""
    nodes: tuple[NodeReport, ...] = ()
    connection_error: str = ""
    """Reason why the cluster can't be joined; empty if it can."""
    port_open: bool = True
    """Whether the port accepts connections, as a cluster with another token does."""
    local_storage_error: str = ""
    """Reason why this machine can't write to the storage; empty if it can."""


def resolve_ray_address(cluster: ClusterConfig) -> str | None:
    """Return the address of the cluster that a run would join; None for a local Ray."""
    address = cluster.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    return None if address == "local" else address


def probe_cluster(address: str, storage_dir: Path, *, timeout_s: float = PROBE_TIMEOUT_S) -> ClusterProbe:
    """Join the cluster in a separate process, and let every node write to `storage_dir`."""
    if connection_error := _find_connection_error(address):
        return ClusterProbe(
            address=address,
            storage_dir=storage_dir,
            connection_error=connection_error,
            port_open=False,
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
        message = get_last_line(done.stderr) or f"the probe exits with code {done.returncode}"
        return ClusterProbe(address=address, storage_dir=storage_dir, connection_error=message)
    answer = json.loads(done.stdout.splitlines()[-1])
    nodes = tuple(NodeReport(**node) for node in answer["nodes"])
    return ClusterProbe(address=address, storage_dir=storage_dir, nodes=nodes, local_storage_error=answer["here"])


def _find_connection_error(address: str) -> str:
    """Test HOST:PORT or ray://HOST:PORT and return the error: Ray itself takes 30 s to fail."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return ""
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def check_reachable(probe: ClusterProbe | None, cluster: ClusterConfig) -> CheckResult:
    """Check that the cluster answers and has the GPUs of the run."""
    if probe is None:
        return CheckResult("ok", "no address given (--cluster.ray-address, RAY_ADDRESS): a run starts Ray locally")
    if probe.connection_error:
        return CheckResult(
            "wrong",
            f"{probe.address}: {probe.connection_error}",
            _suggest_connection_fix(probe, cluster),
        )
    cpus, gpus = (sum(getattr(node, kind) for node in probe.nodes) for kind in ("cpus", "gpus"))
    detail = f"{probe.address}: {_format_node_count(probe.nodes)} with {cpus:g} CPUs and {gpus:g} GPUs"
    for node in probe.nodes:
        if node.installed_gpus > node.gpus:
            # Without `ray stop`, which would stop every Ray node of that account.
            fix = f"ray start --address={probe.address} --num-gpus={node.installed_gpus}"
            detail = f"{detail}; {node.address} has {node.installed_gpus} GPUs, Ray uses {node.gpus:g}"
            command = f"ssh {node.address} {shlex.quote(fix)}"
            return CheckResult("careful", detail, f"stop the Ray node there, then: {command}")
    if cluster.device == "gpu" and gpus < cluster.num_workers:
        detail = f"{detail}, the run needs {cluster.num_workers:g} GPUs"
        return CheckResult("wrong", detail, "hrnet-ray train --cluster.device cpu")
    return CheckResult("ok", detail)


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
    """Check that this machine reads what each node writes to the storage."""
    if probe is None:
        return CheckResult("ok", "no cluster: one machine")
    if not probe.nodes:
        raise CheckSkipped("the cluster does not answer")
    quoted = shlex.quote(str(probe.storage_dir))
    if probe.local_storage_error:
        detail = f"this machine cannot write to {probe.storage_dir}: {probe.local_storage_error}"
        return CheckResult("wrong", detail, f"sudo mount -a && findmnt -T {quoted}")
    if failed := [node for node in probe.nodes if node.storage_problem]:
        detail = "; ".join(f"{node.address} {node.storage_problem}" for node in failed[:3])
        detail += f" and {len(failed) - 3} more nodes" if len(failed) > 3 else ""
        remount = shlex.quote(f"sudo mount -a; findmnt -T {quoted}")
        return CheckResult("wrong", f"{probe.storage_dir}: {detail}", f"ssh {failed[0].address} {remount}")
    return CheckResult("ok", f"{probe.storage_dir} is shared by {_format_node_count(probe.nodes)} and this machine")


def check_clock_skew(probe: ClusterProbe | None) -> CheckResult:
    """Check that the clocks of the nodes and of this machine agree."""
    if probe is None:
        return CheckResult("ok", "no cluster: one clock")
    known = {node: node.clock_offset_s for node in probe.nodes if node.clock_offset_s is not None}
    if not known:
        raise CheckSkipped("no node reported its time")
    offsets = [0.0, *known.values()]  # this machine first
    skew, uncertainty = max(offsets) - min(offsets), max(node.clock_uncertainty_s for node in known)
    if skew - 2 * uncertainty < MAX_CLOCK_SKEW_S:
        return CheckResult("ok", f"at most {skew:.1f} s apart (+- {uncertainty:.1f} s)")
    median = sorted(offsets)[len(offsets) // 2]
    worst = max(known, key=lambda node: abs(known[node] - median))
    if abs(median) >= abs(known[worst] - median):
        machine, prefix = "this machine", ""
    else:
        machine, prefix = worst.address, f"ssh {worst.address} "
    fix = f"{prefix}sudo timedatectl set-ntp true"
    return CheckResult("wrong", f"{skew:.1f} s apart; {machine} differs most from the others", fix)
