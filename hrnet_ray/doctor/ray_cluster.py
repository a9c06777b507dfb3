"""The Ray cluster: whether it answers, what it has, whether its nodes share storage and time."""

import json
import os
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import Cluster
from hrnet_ray.doctor.result import CouldNotLook, Finding, last_line, python

CONNECT_S = 3.0
VISIT_S = 40.0
"""To join, to start a process on each node, to ask it; all of that takes 5-10 s."""
MOST_SKEW_S = 5.0
TOKEN_FIX = "export RAY_AUTH_MODE=token && scp {host}:.ray/auth_token ~/.ray/auth_token"

UP_FIX = "RAY_UP_enable_autoscaler_v2=0 ray up -y --no-config-cache cluster/local.yaml"


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node, as a task on it found it."""

    address: str
    cpus: float
    gpus: float
    devices: int = 0
    """GPUs that are in the machine, whether or not Ray knows them."""
    trouble: str = ""
    """Why it does not share the storage."""
    ahead_s: float | None = None
    """Of this machine's clock, give or take `doubt_s`."""
    doubt_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What one visit to a cluster brought."""

    address: str
    place: Path
    """Where the nodes wrote."""
    nodes: tuple[Node, ...] = ()
    failed: str = ""
    """Why there is no cluster."""
    listens: bool = True
    """Whether anything answers there at all; a Ray with another token does, and then refuses."""
    here: str = ""
    """Why this machine cannot write in the storage."""


def address_of(cluster: Cluster) -> str | None:
    """The running cluster that a run would join; None where it starts Ray here."""
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    return None if address == "local" else address


def visit(address: str, place: Path, *, limit_s: float = VISIT_S) -> Visit:
    """Join the cluster in a process of its own, and have every node write in `place`."""
    if closed := _closed(address):
        return Visit(address=address, place=place, failed=closed, listens=False)
    try:
        done = python("-m", f"{__package__}.nodes", address, str(place), limit_s=limit_s)
    except CouldNotLook:
        return Visit(address=address, place=place, failed=f"no answer in {limit_s:g} s")
    if done.returncode:
        failed = last_line(done.stderr) or f"joining it ends with {done.returncode}"
        return Visit(address=address, place=place, failed=failed)
    answer = json.loads(done.stdout.splitlines()[-1])
    nodes = tuple(Node(**node) for node in answer["nodes"])
    return Visit(address=address, place=place, nodes=nodes, here=answer["here"])


def _closed(address: str) -> str:
    """Why nothing listens at HOST:PORT or ray://HOST:PORT; a second spares Ray's half minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return ""
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def reached(found: Visit | None, cluster: Cluster) -> Finding:
    """Whether the cluster answers, and has what the run asks for."""
    if found is None:
        return Finding("ok", "none named (--cluster.address, RAY_ADDRESS): a run starts Ray here")
    if found.failed:
        return Finding("wrong", f"{found.address}: {found.failed}", _way_in(found, cluster))
    cpus, gpus = (sum(getattr(node, kind) for node in found.nodes) for kind in ("cpus", "gpus"))
    said = f"{found.address}: {_count(found.nodes)} with {cpus:g} CPUs and {gpus:g} GPUs"
    for node in found.nodes:
        if node.devices > node.gpus:
            # Not `ray stop` first: it would end every Ray of that account, not this node alone.
            fix = f"ray start --address={found.address} --num-gpus={node.devices}"
            said = f"{said}; {node.address} has {node.devices} GPUs, Ray knows {node.gpus:g}"
            again = f"ssh {node.address} {shlex.quote(fix)}"
            return Finding("careful", said, f"end Ray's node there, then: {again}")
    if cluster.device == "gpu" and gpus < cluster.workers:
        said = f"{said}, {cluster.workers:g} GPUs are wanted"
        return Finding("wrong", said, "hrnet-ray train --cluster.device cpu")
    return Finding("ok", said)


def _count(nodes: Sequence[Node]) -> str:
    return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"


def _way_in(found: Visit, cluster: Cluster) -> str:
    if found.listens:
        host = found.address.removeprefix("ray://").rpartition(":")[0]
        return TOKEN_FIX.format(host=shlex.quote(host)) + " && chmod 600 ~/.ray/auth_token"
    if cluster.address is None:
        return "unset RAY_ADDRESS  # then a run starts Ray on this machine"
    return UP_FIX


def shared_storage(found: Visit | None) -> Finding:
    """Whether what a node writes in the storage is there for all."""
    if found is None:
        return Finding("ok", "no cluster: one machine writes and reads")
    if not found.nodes:
        raise CouldNotLook("the cluster does not answer")
    place = shlex.quote(str(found.place))
    if found.here:
        said = f"this machine cannot write in {found.place}: {found.here}"
        return Finding("wrong", said, f"sudo mount -a && findmnt -T {place}")
    if bad := [node for node in found.nodes if node.trouble]:
        said = "; ".join(f"{node.address} {node.trouble}" for node in bad[:3])
        said += f" and {len(bad) - 3} more nodes" if len(bad) > 3 else ""
        remount = shlex.quote(f"sudo mount -a; findmnt -T {place}")
        return Finding("wrong", f"{found.place}: {said}", f"ssh {bad[0].address} {remount}")
    return Finding("ok", f"{_count(found.nodes)} wrote in {found.place}, and were read here")


def clocks(found: Visit | None) -> Finding:
    """Whether the nodes and this machine agree on the time."""
    if found is None:
        return Finding("ok", "no cluster: one clock")
    known = {node: node.ahead_s for node in found.nodes if node.ahead_s is not None}
    if not known:
        raise CouldNotLook("no node told its time")
    times = [0.0, *known.values()]  # this machine's own is the first
    skew, doubt = max(times) - min(times), max(node.doubt_s for node in known)
    if skew - 2 * doubt < MOST_SKEW_S:
        return Finding("ok", f"{skew:.1f} s apart at most (known to {doubt:.1f} s)")
    middle = sorted(times)[len(times) // 2]
    worst = max(known, key=lambda node: abs(known[node] - middle))
    if abs(middle) >= abs(known[worst] - middle):
        said, where = "this machine is", ""
    else:
        said, where = f"{worst.address} is", f"ssh {worst.address} "
    fix = f"{where}sudo timedatectl set-ntp true"
    return Finding("wrong", f"{skew:.1f} s apart; {said} farthest from the others", fix)
