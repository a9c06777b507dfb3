"""Checks of memory, shared memory, open files and OpenMP threads."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil

from hrnet_ray.doctor.result import CheckResult

MIN_MEMORY_GB = 4
"""GB of memory for a local Ray, one worker and the driver."""
OBJECT_STORE_FRACTION = 0.3
"""Fraction of the memory that Ray uses for its object store in /dev/shm by default."""
MIN_OPEN_FILES = 4096
"""Open files that Ray recommends."""
RECOMMENDED_OPEN_FILES = 65536
CGROUP_DIR = Path("/sys/fs/cgroup")
BYTES_PER_GB = 1e9


def check_memory() -> CheckResult:
    """Check the free memory, within the limit of the container."""
    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    if limit := read_cgroup_limit(CGROUP_DIR):
        total, free = min(total, limit[0]), min(free, limit[1])
    detail = f"{free / BYTES_PER_GB:.1f} of {total / BYTES_PER_GB:.1f} GB free"
    if free / BYTES_PER_GB >= MIN_MEMORY_GB:
        return CheckResult("ok", detail)
    fix = "ps -eo pid,rss,args --sort -rss | head  # then end processes that you don't need"
    return CheckResult("careful", f"{detail}, a run needs {MIN_MEMORY_GB}", fix)


def read_cgroup_limit(cgroup_dir: Path) -> tuple[int, int] | None:
    """Return limit and free memory of a cgroup (version 2), in bytes; None without a limit."""
    try:
        limit = int((cgroup_dir / "memory.max").read_text())
        return limit, limit - int((cgroup_dir / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def check_shm(shm_dir: Path = Path("/dev/shm"), *, memory_bytes: int | None = None) -> CheckResult:
    """Check the size of shared memory: if it is small, Ray uses the slower disk."""
    if not shm_dir.is_dir():
        return CheckResult("ok", f"no {shm_dir} on this system: Ray uses files")
    size = shutil.disk_usage(shm_dir).total
    needed = OBJECT_STORE_FRACTION * (memory_bytes or _get_total_memory())
    detail = f"{shm_dir} has {size / BYTES_PER_GB:.1f} GB, the object store of Ray needs {needed / BYTES_PER_GB:.1f}"
    if size >= needed:
        return CheckResult("ok", detail)
    gb = max(1, round(needed / BYTES_PER_GB + 0.5))
    fix = f"sudo mount -o remount,size={gb}G {shm_dir}  # a container: docker run --shm-size={gb}g"
    return CheckResult("careful", detail, fix)


def _get_total_memory() -> int:
    total = psutil.virtual_memory().total
    limit = read_cgroup_limit(CGROUP_DIR)
    return min(total, limit[0]) if limit else total


def check_open_files() -> CheckResult:
    """Check the limit of open files: Ray opens several per worker and per transfer."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MIN_OPEN_FILES:
        return CheckResult("ok", f"ulimit -n is {soft:,}")
    limit = RECOMMENDED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, RECOMMENDED_OPEN_FILES)
    detail = f"ulimit -n is {soft:,}, Ray needs {MIN_OPEN_FILES:,}"
    if limit < MIN_OPEN_FILES:  # only root may raise the hard limit
        return CheckResult("careful", detail, f"sudo prlimit --pid $$ --nofile={RECOMMENDED_OPEN_FILES}")
    return CheckResult("careful", detail, f"ulimit -n {limit}")


def check_omp_threads(environment: Mapping[str, str] = os.environ) -> CheckResult:
    """Check OMP_WAIT_POLICY: threads that spin while they wait slow down other workers."""
    policy = environment.get("OMP_WAIT_POLICY")
    if policy is None:
        return CheckResult("ok", "OMP_WAIT_POLICY is not set: a run lets threads wait briefly, then sleep")
    if policy.strip().upper() == "PASSIVE":
        return CheckResult("ok", "OMP_WAIT_POLICY=PASSIVE: waiting threads sleep")
    detail = f"OMP_WAIT_POLICY={policy}: waiting threads spin and slow down other workers"
    return CheckResult("careful", detail, "export OMP_WAIT_POLICY=PASSIVE")
