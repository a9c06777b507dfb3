"""Ray on this machine: whether it can be imported, and whether it starts."""

import time

from hrnet_ray.doctor.result import CouldNotLook, Finding, last_line, python

IMPORT_S = 30.0
START_S = 60.0
LIMIT_S = IMPORT_S + START_S + 1
START = """
import ray
from hrnet_ray.config import Cluster
from hrnet_ray.distributed.cluster.resources import connect
connect(Cluster(address="local"))
cpus = ray.cluster_resources().get("CPU", 0)
ray.shutdown()
print(f"{cpus:g}")
"""


def ray_here(*, start: bool) -> Finding:
    """Import Ray in a process of its own; with `start`, start it as a run does, and stop it."""
    done = python("-c", "import ray; print(ray.__version__)", limit_s=IMPORT_S)
    if done.returncode:
        fix = "pip install --force-reinstall -c constraints.txt 'ray[default,train,tune]'"
        return Finding("wrong", f"import ray: {last_line(done.stderr)}", fix)
    version = last_line(done.stdout)
    if not start:
        return Finding("ok", f"{version} imports (--start-ray also starts it)")
    began = time.monotonic()
    fix = "df -h /tmp /dev/shm && tail -n 5 /tmp/ray/session_latest/logs/*.err"
    try:
        done = python("-c", START, limit_s=START_S)  # Ray's processes end with the one killed here
    except CouldNotLook as error:
        return Finding(
            "careful", f"{version} imports; could not look whether it starts: {error}", fix
        )
    if done.returncode:
        return Finding("wrong", f"{version} does not start: {last_line(done.stderr)}", fix)
    cpus, took = last_line(done.stdout), time.monotonic() - began
    return Finding("ok", f"{version} starts here with {cpus} CPUs, and ends, in {took:.0f} s")
