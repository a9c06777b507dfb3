"""Test the error of a local Ray that does not start."""

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
