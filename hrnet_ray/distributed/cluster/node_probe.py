"""Probe every node of a Ray cluster, as a program: `python -m ...node_probe A PLACE`.

Apart from the doctor's own process, because joining a cluster can hang, or end the process that
tries. As a program it also sends its functions along: a node need not have this package.

Prints one line of JSON: {"here": "" or why this machine cannot write in PLACE, "nodes": [...]}.
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
"""For all nodes together; the first task on a node starts a process there, which takes seconds."""
CLOCK_TIMEOUT_S = 4.0
PROBE_FILE_PREFIX = ".hrnet-doctor-"


def probe_storage(
    storage_dir: str, probe_name: str, content: str, answer_name: str
) -> dict[str, Any]:
    """On a node: read what this machine wrote in `place`, write the answer beside it."""
    import glob

    found: dict[str, Any] = {"installed_gpus": len(glob.glob("/dev/nvidia[0-9]*")), "storage_problem": ""}
    try:
        if Path(storage_dir, probe_name).read_text() != content:
            found["storage_problem"] = "reads something else than this machine wrote"
            return found
        with Path(storage_dir, answer_name).open("w") as file:
            file.write(content[::-1])
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        found["storage_problem"] = "does not see what this machine writes"
    except OSError as error:
        found["storage_problem"] = f"cannot write: {error.strerror}"
    return found


def get_node_time() -> float:
    """A node's time."""
    return time.time()


def print_node_reports(address: str, storage_dir: str) -> None:
    """Visit and print."""
    import logging

    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    alive = [node for node in ray.nodes() if node["Alive"]]
    mark = PROBE_FILE_PREFIX + uuid.uuid4().hex
    answers = {node["NodeID"]: f"{mark}-{at}" for at, node in enumerate(alive)}
    try:
        here = try_write_file(Path(storage_dir, mark), mark)
        found = probe_nodes(storage_dir, mark, answers)
        print(
            json.dumps({"here": here, "nodes": [build_node_report(node, found) for node in alive]})
        )
    finally:
        for name in (mark, *answers.values()):
            with suppress(OSError):
                Path(storage_dir, name).unlink()


def probe_nodes(
    storage_dir: str, probe_name: str, answer_names: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """What each node found, by its id, once this machine has read the node's answer."""
    import ray

    tasks = {
        id: create_node_task(id, probe_storage).remote(storage_dir, probe_name, probe_name, name)
        for id, name in answer_names.items()
    }
    done, _ = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=NODE_PROBE_TIMEOUT_S)
    found = {}
    for id, task in tasks.items():
        found[id] = (
            get_task_result(task)
            if task in done
            else {"storage_problem": f"no answer in {NODE_PROBE_TIMEOUT_S:g} s"}
        )
        if (
            not found[id]["storage_problem"]
            and try_read_file(Path(storage_dir, answer_names[id])) != probe_name[::-1]
        ):
            found[id]["storage_problem"] = "writes what this machine does not see"
        if task in done:
            found[id] |= measure_clock_offset(id)
    return found


def create_node_task(node_id: str, function: Any) -> Any:
    """The function as a task for one node; it books nothing, so that a busy node answers too."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)


def get_task_result(task: Any) -> dict[str, Any]:
    """What a task returned, or why it failed."""
    import ray

    try:
        return ray.get(task)
    except Exception as error:  # of any kind, from another machine: it is told as it is
        return {"storage_problem": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}


def try_write_file(path: Path, content: str) -> str:
    """Write a file; why it cannot be, or nothing."""
    try:
        path.write_text(content)
    except OSError as error:
        return str(error.strerror)
    return ""


def try_read_file(path: Path) -> str | None:
    """A file's text; None where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return None


def measure_clock_offset(node_id: str) -> dict[str, float]:
    """By how much a node's clock is ahead of this one, and within which bounds that is known."""
    import ray

    best = {}
    for _ in range(2):  # the first may have to wait for a process to start
        began = time.time()
        try:
            theirs: Any = ray.get(
                create_node_task(node_id, get_node_time).remote(), timeout=CLOCK_TIMEOUT_S
            )
        except Exception:  # a node that is gone meanwhile; `look` has told the rest
            return best
        ended = time.time()
        doubt = (ended - began) / 2
        if not best or doubt < best["clock_uncertainty_s"]:
            best = {"clock_offset_s": theirs - (began + ended) / 2, "clock_uncertainty_s": doubt}
    return best


def build_node_report(
    node: dict[str, Any], probe_results: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A node as the doctor wants to know it."""
    has = node["Resources"]
    return {
        "address": node["NodeManagerAddress"],
        "cpus": has.get("CPU", 0.0),
        "gpus": has.get("GPU", 0.0),
        **probe_results[node["NodeID"]],
    }


if __name__ == "__main__":
    print_node_reports(*sys.argv[1:3])
