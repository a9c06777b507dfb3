"""What a process is told before it starts is heeded."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hrnet_ray.training.cpu_env import HUGE_PAGES_ENV, MALLOC_RETAIN_ENV, OPENMP_WAIT_ENV

STEPS = """
import resource, threading

def step():
    kept = [bytearray(40 << 20) for _ in range(2)]  # 20,480 pages
    for part in kept:
        part[::4096] = part[::4096]

def steps():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=steps)  # a worker trains in one that is not the first
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's allocator")
def test_what_a_step_frees_serves_the_next_step():
    by_default, kept = _page_faults({}), _page_faults(MALLOC_RETAIN_ENV)

    assert by_default > 10_000
    assert kept < by_default / 20


def _page_faults(settings: dict[str, str]) -> int:
    environment = {key: value for key, value in os.environ.items() if key not in MALLOC_RETAIN_ENV}
    found = subprocess.run(
        [sys.executable, "-c", STEPS],
        env=environment | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HELD = """
kept = [bytearray(40 << 20) for _ in range(2)]
for part in kept:
    part[::4096] = part[::4096]
told = open("/proc/self/smaps_rollup").read()
print(told.split("AnonHugePages:")[1].split()[0])
"""


@pytest.mark.skipif(
    not (HUGE.is_file() and "[madvise]" in HUGE.read_text()), reason="huge pages are not asked for"
)
@pytest.mark.skipif(
    tuple(map(int, (platform.libc_ver()[1] or "0").split("."))) < (2, 35), reason="an older glibc"
)
def test_memory_comes_in_huge_pages_where_they_are_asked_for():
    settings = MALLOC_RETAIN_ENV | HUGE_PAGES_ENV
    found = subprocess.run(
        [sys.executable, "-c", HELD],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(found.stdout) > 60 * 1024  # kB, of 80 MB


@pytest.mark.skipif(platform.system() != "Linux", reason="settings of GNU's OpenMP")
def test_torchs_threads_heed_how_long_to_spin():
    found = subprocess.run(
        [sys.executable, "-c", "import torch; torch.ones(9)"],
        env=os.environ | OPENMP_WAIT_ENV | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "OMP_WAIT_POLICY = 'PASSIVE'" in found.stderr
    assert "GOMP_SPINCOUNT = '10000'" in found.stderr
