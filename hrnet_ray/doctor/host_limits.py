"""What this machine gives to a run: memory, shared memory, open files, threads."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil

from hrnet_ray.doctor.result import CheckResult

MIN_MEMORY_GB = 4  # a local Ray, one worker and the driver
OBJECT_STORE_FRACTION = 0.3  # of the memory: what Ray takes from /dev/shm by default
MIN_OPEN_FILES = 4096
RECOMMENDED_OPEN_FILES = 65536
CGROUP_DIR = Path("/sys/fs/cgroup")
BYTES_PER_GB = 1e9


def check_memory() -> CheckResult:
    """Memory that is free for a run, within the container's limit."""
    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    if limit := read_cgroup_limit(CGROUP_DIR):
        total, free = min(total, limit[0]), min(free, limit[1])
    detail = f"{free / BYTES_PER_GB:.1f} of {total / BYTES_PER_GB:.1f} GB free"
    if free / BYTES_PER_GB >= MIN_MEMORY_GB:
        return CheckResult("ok", detail)
    said = f"{detail}, a run wants {MIN_MEMORY_GB}"
    return CheckResult(
        "careful", said, "ps -eo pid,rss,args --sort -rss | head  # and end what may go"
    )


def read_cgroup_limit(cgroup_dir: Path) -> tuple[int, int] | None:
    """Limit and rest of a cgroup (version 2), in bytes; None where nothing limits."""
    try:
        limit = int((cgroup_dir / "memory.max").read_text())
        return limit, limit - int((cgroup_dir / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def check_shm(shm_dir: Path = Path("/dev/shm"), *, memory_bytes: int | None = None) -> CheckResult:
    """Where Ray keeps its objects; in a small one it uses the disk instead, which is slow."""
    if not shm_dir.is_dir():
        return CheckResult("ok", f"no {shm_dir} on this system: Ray uses files")
    have = memory_bytes or _get_total_memory()
    size, wanted = shutil.disk_usage(shm_dir).total, OBJECT_STORE_FRACTION * have
    detail = f"{shm_dir} has {size / BYTES_PER_GB:.1f} GB, Ray's object store would take {wanted / BYTES_PER_GB:.1f}"
    if size >= wanted:
        return CheckResult("ok", detail)
    gb = max(1, round(wanted / BYTES_PER_GB + 0.5))
    fix = f"sudo mount -o remount,size={gb}G {shm_dir}  # a container: docker run --shm-size={gb}g"
    return CheckResult("careful", detail, fix)


def _get_total_memory() -> int:
    total = psutil.virtual_memory().total
    limit = read_cgroup_limit(CGROUP_DIR)
    return min(total, limit[0]) if limit else total


def check_open_files() -> CheckResult:
    """Ray opens several files for each worker and each object transfer."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MIN_OPEN_FILES:
        return CheckResult("ok", f"ulimit -n is {soft:,}")
    most = (
        RECOMMENDED_OPEN_FILES
        if hard == resource.RLIM_INFINITY
        else min(hard, RECOMMENDED_OPEN_FILES)
    )
    detail = f"ulimit -n is {soft:,}, Ray wants {MIN_OPEN_FILES:,}"
    if most < MIN_OPEN_FILES:  # only root may lift the hard limit of this shell
        return CheckResult(
            "careful", detail, f"sudo prlimit --pid $$ --nofile={RECOMMENDED_OPEN_FILES}"
        )
    return CheckResult("careful", detail, f"ulimit -n {most}")


def check_omp_threads(environment: Mapping[str, str] = os.environ) -> CheckResult:
    """OpenMP's threads spin while they wait, and starve the other workers, unless told to sleep."""
    policy = environment.get("OMP_WAIT_POLICY")
    if policy is None:
        return CheckResult(
            "ok", "OMP_WAIT_POLICY is unset: a run has its threads wait briefly, then sleep"
        )
    if policy.strip().upper() == "PASSIVE":
        return CheckResult("ok", "OMP_WAIT_POLICY=PASSIVE: waiting threads sleep")
    said = f"OMP_WAIT_POLICY={policy}: waiting threads spin, several workers starve each other"
    return CheckResult("careful", said, "export OMP_WAIT_POLICY=PASSIVE")
