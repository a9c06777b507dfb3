"""A process that is told to keep its memory does not ask for it again."""

import os
import platform
import subprocess
import sys

import pytest

from hrnet_ray.learning.memory import KEEP_MEMORY

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
    by_default, kept = _page_faults({}), _page_faults(KEEP_MEMORY)

    assert by_default > 10_000
    assert kept < by_default / 20


def _page_faults(settings: dict[str, str]) -> int:
    environment = {key: value for key, value in os.environ.items() if key not in KEEP_MEMORY}
    found = subprocess.run(
        [sys.executable, "-c", STEPS],
        env=environment | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)
