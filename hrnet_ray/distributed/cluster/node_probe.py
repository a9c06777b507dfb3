"""Probe every node of a Ray cluster, as a program with two arguments: ADDRESS and DIR.

It is a process of its own, because joining a cluster can hang or kill the process. As the main
module it also ships its functions with the tasks, so the nodes don't need this package.

Prints one line of JSON: {"here": "" or why this machine can't write to DIR, "nodes": [...]}.
"""

import json
import os
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

NODE_PROBE_TIMEOUT_S = 12.0
"""Seconds for all nodes together; the first task on a node also starts a process."""
CLOCK_TIMEOUT_S = 4.0
"""Seconds for one clock measurement."""
PROBE_FILE_PREFIX = ".hrnet-doctor-"


def probe_storage(storage_dir: str, probe_name: str, content: str, answer_name: str) -> dict[str, Any]:
    """Run on a node: read the probe file of this machine, and write an answer beside it."""
    import glob

    report: dict[str, Any] = {
        "installed_gpus": len(glob.glob("/dev/nvidia[0-9]*")),
        "storage_problem": "",
    }
    try:
        if Path(storage_dir, probe_name).read_text() != content:
            report["storage_problem"] = "reads other content than this machine wrote"
            return report
        with Path(storage_dir, answer_name).open("w") as file:
            file.write(content[::-1])
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        report["storage_problem"] = "does not see the files of this machine"
    except OSError as error:
        report["storage_problem"] = f"cannot write: {error.strerror}"
    return report


def get_node_time() -> float:
    """Run on a node: return its time, in seconds since 1970."""
    return time.time()


def print_node_reports(address: str, storage_dir: str) -> None:
    """Join the cluster, probe all nodes, and print the reports as JSON."""
    import logging

    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    alive = [node for node in ray.nodes() if node["Alive"]]
    probe_name = PROBE_FILE_PREFIX + uuid.uuid4().hex
    answer_names = {node["NodeID"]: f"{probe_name}-{n}" for n, node in enumerate(alive)}
    try:
        local_error = try_write_file(Path(storage_dir, probe_name), probe_name)
        results = probe_nodes(storage_dir, probe_name, answer_names)
        reports = [build_node_report(node, results) for node in alive]
        print(json.dumps({"here": local_error, "nodes": reports}))
    finally:
        for name in (probe_name, *answer_names.values()):
            with suppress(OSError):
                Path(storage_dir, name).unlink()


def probe_nodes(storage_dir: str, probe_name: str, answer_names: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Probe all nodes, read their answers on this machine, and return the results by node id."""
    import ray

    tasks = {
        id: create_node_task(id, probe_storage).remote(storage_dir, probe_name, probe_name, name)
        for id, name in answer_names.items()
    }
    done, _ = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=NODE_PROBE_TIMEOUT_S)
    results = {}
    for id, task in tasks.items():
        if task not in done:
            results[id] = {"storage_problem": f"no answer in {NODE_PROBE_TIMEOUT_S:g} s"}
            continue
        result = get_task_result(task)
        answer = try_read_file(Path(storage_dir, answer_names[id]))
        if not result["storage_problem"] and answer != probe_name[::-1]:
            result["storage_problem"] = "writes files that this machine does not see"
        results[id] = result | measure_clock_offset(id)
    return results


def create_node_task(node_id: str, function: Any) -> Any:
    """Pin a function to one node as a task without CPUs, so that a busy node answers too."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)


def get_task_result(task: Any) -> dict[str, Any]:
    """Return the result of a task, or its error as a storage problem."""
    import ray

    try:
        return ray.get(task)
    except Exception as error:  # any error of another machine is reported
        return {"storage_problem": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}


def try_write_file(path: Path, content: str) -> str:
    """Write a file; return the error message, empty on success."""
    try:
        path.write_text(content)
    except OSError as error:
        return str(error.strerror)
    return ""


def try_read_file(path: Path) -> str | None:
    """Read a text file; None if that fails."""
    try:
        return path.read_text()
    except OSError:
        return None


def measure_clock_offset(node_id: str) -> dict[str, float]:
    """Measure by how many seconds the clock of a node is ahead, and the uncertainty of that."""
    import ray

    best = {}
    for _ in range(2):  # the first one may include the start of a process
        start_s = time.time()
        try:
            node_s: Any = ray.get(create_node_task(node_id, get_node_time).remote(), timeout=CLOCK_TIMEOUT_S)
        except Exception:  # the node is lost; its other results are known
            return best
        end_s = time.time()
        uncertainty_s = (end_s - start_s) / 2
        if not best or uncertainty_s < best["clock_uncertainty_s"]:
            best = {
                "clock_offset_s": node_s - (start_s + end_s) / 2,
                "clock_uncertainty_s": uncertainty_s,
            }
    return best


def build_node_report(node: dict[str, Any], probe_results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build the fields of `doctor.ray_cluster.NodeReport`."""
    resources = node["Resources"]
    return {
        "address": node["NodeManagerAddress"],
        "cpus": resources.get("CPU", 0.0),
        "gpus": resources.get("GPU", 0.0),
        **probe_results[node["NodeID"]],
    }


if __name__ == "__main__":
    print_node_reports(*sys.argv[1:3])
