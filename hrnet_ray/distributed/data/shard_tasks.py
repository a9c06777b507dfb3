"""The shards of `prepare` as tasks of a Ray cluster, one CPU each.

A task that dies with its process (a decoder that crashes, a node that goes) costs its own shard,
which is made again. Where it dies each time, its pictures are tried one by one, and those that
take the process with them are left out by name.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from hrnet_ray.config import Cluster
from hrnet_ray.data.annotations import Skipped
from hrnet_ray.data.images.codec import cv2
from hrnet_ray.data.shards import CRASHES, ShardReport, ShardTask, Tell, write_shard
from hrnet_ray.data.storage import open_folder
from hrnet_ray.distributed.cluster.resources import connect
from hrnet_ray.errors import ClusterError, HrnetRayError

TRIES = 2  # of a task whose process dies
AHEAD = 2  # tasks per CPU that wait or run: more would only hold labels in memory

Work = Callable[[ShardTask], ShardReport]


def connect_to(address: str | None) -> str:
    """Join the cluster at `address` (or RAY_ADDRESS), or start Ray here; says where and how big."""
    connect(Cluster(address=address))
    cpus, nodes = _cpus(), sum(node["Alive"] for node in ray.nodes())
    return f"{cpus} CPUs" + (f" on {nodes} machines" if nodes > 1 else " of this machine")


def make_on_ray(
    tasks: Sequence[ShardTask], tell: Tell, *, work: Work = write_shard
) -> Iterator[ShardReport]:
    """Make shards all over the cluster; their reports come in any order.

    Raises:
        ClusterError: a shard kills its process, and no picture of it does so alone.
    """
    by_file = {task.file: task for task in tasks}
    for file, made in _mapped(list(by_file.values()), work):
        task = by_file[file]
        report = made or _without_crashes(task, work)
        tell(len(task.instances))
        yield report


def _without_crashes(task: ShardTask, work: Work) -> ShardReport:
    """Make a shard that killed its process without the pictures that do so alone."""
    groups = [list(group) for _, group in groupby(task.instances, lambda found: found.image)]
    alone = [replace(task, file=str(at), instances=group) for at, group in enumerate(groups)]
    fatal = {int(file) for file, made in _mapped(alone, partial(_in_vain, work)) if not made}
    kept = [i for at, group in enumerate(groups) if at not in fatal for i in group]
    ((_, report),) = _mapped([replace(task, instances=kept)], work)
    if report is None:
        raise ClusterError(
            "a shard whose making kills its process, again and again",
            f"{task.file}: {len(task.instances):,} instances from {task.instances[0].image} on; "
            "no picture does so alone, so memory may be short",
            "see Ray's log of that worker; try fewer CPUs, or a smaller --shard-rows",
        )
    crashed = [
        Skipped(i.image, CRASHES, f"instance {i.id}") for at in sorted(fatal) for i in groups[at]
    ]
    return replace(report, skipped=[*report.skipped, *crashed])


def _in_vain(work: Work, task: ShardTask) -> ShardReport:
    """Make a shard as ever, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return work(replace(task, out=open_folder(folder, "--out")))


def _mapped(tasks: Sequence[ShardTask], work: Work) -> Iterator[tuple[str, ShardReport | None]]:
    """Each task's file with its report, as they come; None where the process died each time."""
    remote = ray.remote(num_cpus=1, max_retries=TRIES - 1)(_run)
    waiting, running = iter(tasks), {}
    shared = ray.put(work)
    try:
        while True:
            while len(running) < AHEAD * _cpus() and (task := next(waiting, None)):
                running[remote.remote(shared, task)] = task.file
            if not running:
                return
            (ready,), _ = ray.wait(list(running), num_returns=1)
            file = running.pop(ready)
            yield file, _report_of(ready)
    finally:  # Ctrl-C, or an error: nobody waits for these
        for left in running:
            ray.cancel(left, force=True)


def _run(work: Work, task: ShardTask) -> ShardReport:
    cv2.setNumThreads(1)  # one CPU is what the task asked for; more threads only wait for it
    return work(task)


def _report_of(ready: ray.ObjectRef) -> ShardReport | None:
    try:
        return ray.get(ready)
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError):
        return None
    except RayTaskError as error:
        if isinstance(error.cause, HrnetRayError):  # as it was, without a traceback
            raise error.cause from None
        raise


def _cpus() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
