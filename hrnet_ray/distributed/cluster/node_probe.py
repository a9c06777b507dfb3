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

LOOK_S = 12.0
"""For all nodes together; the first task on a node starts a process there, which takes seconds."""
CLOCK_S = 4.0
PREFIX = ".hrnet-doctor-"


def look(place: str, mark: str, said: str, answer: str) -> dict[str, Any]:
    """On a node: read what this machine wrote in `place`, write the answer beside it."""
    import glob

    found: dict[str, Any] = {"devices": len(glob.glob("/dev/nvidia[0-9]*")), "trouble": ""}
    try:
        if Path(place, mark).read_text() != said:
            found["trouble"] = "reads something else than this machine wrote"
            return found
        with Path(place, answer).open("w") as file:
            file.write(said[::-1])
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        found["trouble"] = "does not see what this machine writes"
    except OSError as error:
        found["trouble"] = f"cannot write: {error.strerror}"
    return found


def clock() -> float:
    """A node's time."""
    return time.time()


def main(address: str, place: str) -> None:
    """Visit and print."""
    import logging

    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    alive = [node for node in ray.nodes() if node["Alive"]]
    mark = PREFIX + uuid.uuid4().hex
    answers = {node["NodeID"]: f"{mark}-{at}" for at, node in enumerate(alive)}
    try:
        here = write(Path(place, mark), mark)
        found = visit(place, mark, answers)
        print(json.dumps({"here": here, "nodes": [told(node, found) for node in alive]}))
    finally:
        for name in (mark, *answers.values()):
            with suppress(OSError):
                Path(place, name).unlink()


def visit(place: str, mark: str, answers: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What each node found, by its id, once this machine has read the node's answer."""
    import ray

    tasks = {id: on(id, look).remote(place, mark, mark, name) for id, name in answers.items()}
    done, _ = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=LOOK_S)
    found = {}
    for id, task in tasks.items():
        found[id] = result(task) if task in done else {"trouble": f"no answer in {LOOK_S:g} s"}
        if not found[id]["trouble"] and read(Path(place, answers[id])) != mark[::-1]:
            found[id]["trouble"] = "writes what this machine does not see"
        if task in done:
            found[id] |= ahead(id)
    return found


def on(id: str, function: Any) -> Any:
    """The function as a task for one node; it books nothing, so that a busy node answers too."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pinned = NodeAffinitySchedulingStrategy(id, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)


def result(task: Any) -> dict[str, Any]:
    """What a task returned, or why it failed."""
    import ray

    try:
        return ray.get(task)
    except Exception as error:  # of any kind, from another machine: it is told as it is
        return {"trouble": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}


def write(path: Path, said: str) -> str:
    """Write a file; why it cannot be, or nothing."""
    try:
        path.write_text(said)
    except OSError as error:
        return str(error.strerror)
    return ""


def read(path: Path) -> str | None:
    """A file's text; None where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return None


def ahead(id: str) -> dict[str, float]:
    """By how much a node's clock is ahead of this one, and within which bounds that is known."""
    import ray

    best = {}
    for _ in range(2):  # the first may have to wait for a process to start
        began = time.time()
        try:
            theirs: Any = ray.get(on(id, clock).remote(), timeout=CLOCK_S)
        except Exception:  # a node that is gone meanwhile; `look` has told the rest
            return best
        ended = time.time()
        doubt = (ended - began) / 2
        if not best or doubt < best["doubt_s"]:
            best = {"ahead_s": theirs - (began + ended) / 2, "doubt_s": doubt}
    return best


def told(node: dict[str, Any], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A node as the doctor wants to know it."""
    has = node["Resources"]
    return {
        "address": node["NodeManagerAddress"],
        "cpus": has.get("CPU", 0.0),
        "gpus": has.get("GPU", 0.0),
        **found[node["NodeID"]],
    }


if __name__ == "__main__":
    main(*sys.argv[1:3])
