"""Check that Ray can be imported and started on this machine."""

import time

from hrnet_ray.doctor.result import CheckResult, CheckSkipped, get_last_line, run_python

IMPORT_TIMEOUT_S = 30.0
"""Seconds to import Ray, on a slow disk."""
START_TIMEOUT_S = 60.0
"""Seconds to start and stop Ray."""
TOTAL_TIMEOUT_S = IMPORT_TIMEOUT_S + START_TIMEOUT_S + 1
"""Seconds for the whole check."""
START_SCRIPT = """
import sys
import ray
from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.resources import init_ray
from hrnet_ray.errors import ClusterError
try:
    init_ray(ClusterConfig(ray_address="local"))
except ClusterError as error:
    sys.exit(error.where)
cpus = ray.cluster_resources().get("CPU", 0)
ray.shutdown()
print(f"{cpus:g}")
"""


def check_local_ray(*, start: bool) -> CheckResult:
    """Import Ray in a separate process; with `start`, also start it as a run does, and stop it."""
    done = run_python("-c", "import ray; print(ray.__version__)", timeout_s=IMPORT_TIMEOUT_S)
    if done.returncode:
        fix = "pip install --force-reinstall -c constraints.txt 'ray[default,train,tune]'"
        return CheckResult("wrong", f"import ray: {get_last_line(done.stderr)}", fix)
    version = get_last_line(done.stdout)
    if not start:
        return CheckResult("ok", f"{version} can be imported (--start-ray also starts it)")
    start_s = time.monotonic()
    fix = "df -h /tmp /dev/shm && tail -n 5 /tmp/ray/session_latest/logs/*.err"
    try:
        # After a timeout, the processes of Ray end with the killed one.
        done = run_python("-c", START_SCRIPT, timeout_s=START_TIMEOUT_S)
    except CheckSkipped as error:
        return CheckResult("careful", f"{version} can be imported; start not checked: {error}", fix)
    if done.returncode:
        return CheckResult("wrong", f"{version} does not start: {get_last_line(done.stderr)}", fix)
    cpus, duration_s = get_last_line(done.stdout), time.monotonic() - start_s
    return CheckResult("ok", f"{version} starts with {cpus} CPUs and stops, in {duration_s:.0f} s")
