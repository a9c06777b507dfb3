"""What this machine gives to a run: memory, shared memory, open files, threads."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil

from hrnet_ray.doctor.result import Finding

LEAST_MEMORY_GB = 4  # a local Ray, one worker and the driver
OBJECT_STORE_SHARE = 0.3  # of the memory: what Ray takes from /dev/shm by default
LEAST_FILES = 4096
WANTED_FILES = 65536
CGROUP = Path("/sys/fs/cgroup")
GB = 1e9


def memory() -> Finding:
    """Memory that is free for a run, within the container's limit."""
    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    if limit := container_limit(CGROUP):
        total, free = min(total, limit[0]), min(free, limit[1])
    detail = f"{free / GB:.1f} of {total / GB:.1f} GB free"
    if free / GB >= LEAST_MEMORY_GB:
        return Finding("ok", detail)
    said = f"{detail}, a run wants {LEAST_MEMORY_GB}"
    return Finding("careful", said, "ps -eo pid,rss,args --sort -rss | head  # and end what may go")


def container_limit(folder: Path) -> tuple[int, int] | None:
    """Limit and rest of a cgroup (version 2), in bytes; None where nothing limits."""
    try:
        limit = int((folder / "memory.max").read_text())
        return limit, limit - int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def shared_memory(place: Path = Path("/dev/shm"), *, memory_bytes: int | None = None) -> Finding:
    """Where Ray keeps its objects; in a small one it uses the disk instead, which is slow."""
    if not place.is_dir():
        return Finding("ok", f"no {place} on this system: Ray uses files")
    have = memory_bytes or _all_memory()
    size, wanted = shutil.disk_usage(place).total, OBJECT_STORE_SHARE * have
    detail = f"{place} has {size / GB:.1f} GB, Ray's object store would take {wanted / GB:.1f}"
    if size >= wanted:
        return Finding("ok", detail)
    gb = max(1, round(wanted / GB + 0.5))
    fix = f"sudo mount -o remount,size={gb}G {place}  # a container: docker run --shm-size={gb}g"
    return Finding("careful", detail, fix)


def _all_memory() -> int:
    total = psutil.virtual_memory().total
    limit = container_limit(CGROUP)
    return min(total, limit[0]) if limit else total


def open_files() -> Finding:
    """Ray opens several files for each worker and each object transfer."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= LEAST_FILES:
        return Finding("ok", f"ulimit -n is {soft:,}")
    most = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    detail = f"ulimit -n is {soft:,}, Ray wants {LEAST_FILES:,}"
    if most < LEAST_FILES:  # only root may lift the hard limit of this shell
        return Finding("careful", detail, f"sudo prlimit --pid $$ --nofile={WANTED_FILES}")
    return Finding("careful", detail, f"ulimit -n {most}")


def threads(environment: Mapping[str, str] = os.environ) -> Finding:
    """OpenMP's threads spin while they wait, and starve the other workers, unless told to sleep."""
    policy = environment.get("OMP_WAIT_POLICY")
    if policy is None:
        return Finding(
            "ok", "OMP_WAIT_POLICY is unset: a run has its threads wait briefly, then sleep"
        )
    if policy.strip().upper() == "PASSIVE":
        return Finding("ok", "OMP_WAIT_POLICY=PASSIVE: waiting threads sleep")
    said = f"OMP_WAIT_POLICY={policy}: waiting threads spin, several workers starve each other"
    return Finding("careful", said, "export OMP_WAIT_POLICY=PASSIVE")
