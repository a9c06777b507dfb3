"""How many processors there are for this process."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = CGROUP) -> int:
    """Processors that this process may run on, within its container's share of their time.

    A container that may use 4 of 64 processors sees all 64, and would start 64 threads.
    """
    known = hasattr(os, "sched_getaffinity")  # Linux
    seen = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, min(seen, _quota(cgroup) or seen))


def _quota(cgroup: Path) -> int | None:
    """Processors' worth of time of a container (cgroup version 2); None where nothing limits."""
    try:
        most, period = (cgroup / "cpu.max").read_text().split()
        return math.ceil(int(most) / int(period))
    except (OSError, ValueError):
        return None
