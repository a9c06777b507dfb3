"""Test a local Ray: the niceness of its workers, and the error if it does not start."""

import subprocess
import sys

import pytest

from hrnet_ray.distributed.cluster.resources import make_start_error
from hrnet_ray.errors import ClusterError

START_WITH_A_STOPPED_RAYLET = """
import signal, threading
import psutil
from hrnet_ray.cli import run_with_error_handling
from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.resources import init_ray

def stop_raylet():
    while True:
        for process in psutil.Process().children(recursive=True):
            if process.name() == "raylet":
                process.send_signal(signal.SIGSTOP)
                return

threading.Thread(target=stop_raylet, daemon=True).start()
raise SystemExit(run_with_error_handling(lambda: init_ray(ClusterConfig())))
"""


MEASURE_NICENESS = """
import os
import ray
from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.resources import init_ray, owns_ray

@ray.remote
def get_niceness():
    return os.nice(0)

assert not owns_ray()
init_ray(ClusterConfig(ray_address="local"))
assert owns_ray()
print(os.nice(0), ray.get(get_niceness.remote()))
"""


@pytest.mark.ray
def test_workers_of_a_local_ray_have_the_niceness_of_the_command():
    done = subprocess.run([sys.executable, "-c", MEASURE_NICENESS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    command, worker = done.stdout.split()
    assert worker == command


def test_the_error_has_the_reason_and_the_load():
    error = make_start_error(Exception("The current node timed out\nduring startup."))

    assert isinstance(error, ClusterError)
    assert error.what == "Ray did not start on this machine"
    assert error.where.startswith("The current node timed out during startup. | load average ")
    assert make_start_error(KeyError()).where.startswith("KeyError | load average ")


@pytest.mark.chaos
def test_a_timeout_of_the_start_is_three_lines_and_exit_code_4():
    done = subprocess.run([sys.executable, "-c", START_WITH_A_STOPPED_RAYLET], capture_output=True, text=True)

    assert done.returncode == 4, done.stderr
    what, where, fix = done.stderr.splitlines()
    assert what == "error: Ray did not start on this machine"
    assert "timed out during startup" in where
    assert fix.startswith("  fix: stop other programs")
