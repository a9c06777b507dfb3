"""Ray on this machine: whether it can be imported, and whether it starts."""

import time

from hrnet_ray.doctor.result import CheckResult, CheckSkipped, get_last_line, run_python

IMPORT_TIMEOUT_S = 30.0
START_TIMEOUT_S = 60.0
TOTAL_TIMEOUT_S = IMPORT_TIMEOUT_S + START_TIMEOUT_S + 1
START_SCRIPT = """
import ray
from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.resources import init_ray
init_ray(ClusterConfig(ray_address="local"))
cpus = ray.cluster_resources().get("CPU", 0)
ray.shutdown()
print(f"{cpus:g}")
"""


def check_local_ray(*, start: bool) -> CheckResult:
    """Import Ray in a process of its own; with `start`, start it as a run does, and stop it."""
    done = run_python("-c", "import ray; print(ray.__version__)", timeout_s=IMPORT_TIMEOUT_S)
    if done.returncode:
        fix = "pip install --force-reinstall -c constraints.txt 'ray[default,train,tune]'"
        return CheckResult("wrong", f"import ray: {get_last_line(done.stderr)}", fix)
    version = get_last_line(done.stdout)
    if not start:
        return CheckResult("ok", f"{version} imports (--start-ray also starts it)")
    began = time.monotonic()
    fix = "df -h /tmp /dev/shm && tail -n 5 /tmp/ray/session_latest/logs/*.err"
    try:
        done = run_python(
            "-c", START_SCRIPT, timeout_s=START_TIMEOUT_S
        )  # Ray's processes end with the one killed here
    except CheckSkipped as error:
        return CheckResult(
            "careful", f"{version} imports; could not look whether it starts: {error}", fix
        )
    if done.returncode:
        return CheckResult("wrong", f"{version} does not start: {get_last_line(done.stderr)}", fix)
    cpus, took = get_last_line(done.stdout), time.monotonic() - began
    return CheckResult("ok", f"{version} starts here with {cpus} CPUs, and ends, in {took:.0f} s")
