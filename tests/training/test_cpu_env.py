"""The environment variables take effect in a new process."""

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
    blocks = [bytearray(40 << 20) for _ in range(2)]  # 20,480 pages
    for part in blocks:
        part[::4096] = part[::4096]

def steps():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=steps)  # a worker trains in a secondary thread
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's allocator")
def test_a_step_reuses_the_memory_that_the_previous_step_freed():
    by_default, retained = _count_page_faults({}), _count_page_faults(MALLOC_RETAIN_ENV)

    assert by_default > 10_000
    assert retained < by_default / 20


def _count_page_faults(settings: dict[str, str]) -> int:
    environment = {key: value for key, value in os.environ.items() if key not in MALLOC_RETAIN_ENV}
    result = subprocess.run(
        [sys.executable, "-c", STEPS],
        env=environment | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ALLOCATION = """
blocks = [bytearray(40 << 20) for _ in range(2)]
for part in blocks:
    part[::4096] = part[::4096]
rollup = open("/proc/self/smaps_rollup").read()
print(rollup.split("AnonHugePages:")[1].split()[0])
"""


@pytest.mark.skipif(not (HUGE.is_file() and "[madvise]" in HUGE.read_text()), reason="huge pages need madvise mode")
@pytest.mark.skipif(tuple(map(int, (platform.libc_ver()[1] or "0").split("."))) < (2, 35), reason="needs glibc 2.35")
def test_memory_is_allocated_in_huge_pages():
    settings = MALLOC_RETAIN_ENV | HUGE_PAGES_ENV
    result = subprocess.run(
        [sys.executable, "-c", ALLOCATION],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(result.stdout) > 60 * 1024  # kB, of 80 MB


@pytest.mark.skipif(platform.system() != "Linux", reason="settings of GNU's OpenMP")
def test_threads_of_torch_use_the_wait_policy():
    result = subprocess.run(
        [sys.executable, "-c", "import torch; torch.ones(9)"],
        env=os.environ | OPENMP_WAIT_ENV | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "OMP_WAIT_POLICY = 'PASSIVE'" in result.stderr
    assert "GOMP_SPINCOUNT = '10000'" in result.stderr
