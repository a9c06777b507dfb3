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

from hrnet_ray.config import ClusterConfig
from hrnet_ray.data.annotations import SkippedItem
from hrnet_ray.data.images.codec import cv2
from hrnet_ray.data.shards import (
    DECODER_CRASH_REASON,
    DoneCallback,
    ShardResult,
    ShardTask,
    write_shard,
)
from hrnet_ray.data.storage import open_storage_dir
from hrnet_ray.distributed.cluster.resources import init_ray
from hrnet_ray.errors import ClusterError, HrnetRayError

TASK_ATTEMPTS = 2  # of a task whose process dies
MAX_TASKS_PER_CPU = 2  # tasks per CPU that wait or run: more would only hold labels in memory

ShardWriterFn = Callable[[ShardTask], ShardResult]


def init_ray_for_prepare(address: str | None) -> str:
    """Join the cluster at `address` (or RAY_ADDRESS), or start Ray here; says where and how big."""
    init_ray(ClusterConfig(ray_address=address))
    cpus, nodes = _count_cpus(), sum(node["Alive"] for node in ray.nodes())
    return f"{cpus} CPUs" + (f" on {nodes} machines" if nodes > 1 else " of this machine")


def write_shards_ray(
    tasks: Sequence[ShardTask], on_done: DoneCallback, *, shard_writer: ShardWriterFn = write_shard
) -> Iterator[ShardResult]:
    """Make shards all over the cluster; their reports come in any order.

    Raises:
        ClusterError: a shard kills its process, and no picture of it does so alone.
    """
    by_file = {task.file: task for task in tasks}
    for file, made in _map_tasks(list(by_file.values()), shard_writer):
        task = by_file[file]
        report = made or _retry_without_crashing_images(task, shard_writer)
        on_done(len(task.instances))
        yield report


def _retry_without_crashing_images(task: ShardTask, shard_writer: ShardWriterFn) -> ShardResult:
    """Make a shard that killed its process without the pictures that do so alone."""
    groups = [list(group) for _, group in groupby(task.instances, lambda found: found.image)]
    alone = [replace(task, file=str(at), instances=group) for at, group in enumerate(groups)]
    fatal = {
        int(file)
        for file, made in _map_tasks(alone, partial(_try_in_temp_dir, shard_writer))
        if not made
    }
    kept = [i for at, group in enumerate(groups) if at not in fatal for i in group]
    ((_, report),) = _map_tasks([replace(task, instances=kept)], shard_writer)
    if report is None:
        raise ClusterError(
            "a shard whose making kills its process, again and again",
            f"{task.file}: {len(task.instances):,} instances from {task.instances[0].image} on; "
            "no picture does so alone, so memory may be short",
            "see Ray's log of that worker; try fewer CPUs, or a smaller --rows-per-shard",
        )
    crashed = [
        SkippedItem(i.image, DECODER_CRASH_REASON, f"instance {i.id}")
        for at in sorted(fatal)
        for i in groups[at]
    ]
    return replace(report, skipped=[*report.skipped, *crashed])


def _try_in_temp_dir(shard_writer: ShardWriterFn, task: ShardTask) -> ShardResult:
    """Make a shard as ever, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return shard_writer(replace(task, out=open_storage_dir(folder, "--out")))


def _map_tasks(
    tasks: Sequence[ShardTask], shard_writer: ShardWriterFn
) -> Iterator[tuple[str, ShardResult | None]]:
    """Each task's file with its report, as they come; None where the process died each time."""
    remote = ray.remote(num_cpus=1, max_retries=TASK_ATTEMPTS - 1)(_run_shard_task)
    waiting, running = iter(tasks), {}
    shared = ray.put(shard_writer)
    try:
        while True:
            while len(running) < MAX_TASKS_PER_CPU * _count_cpus() and (
                task := next(waiting, None)
            ):
                running[remote.remote(shared, task)] = task.file
            if not running:
                return
            (ready,), _ = ray.wait(list(running), num_returns=1)
            file = running.pop(ready)
            yield file, _get_task_result(ready)
    finally:  # Ctrl-C, or an error: nobody waits for these
        for left in running:
            ray.cancel(left, force=True)


def _run_shard_task(shard_writer: ShardWriterFn, task: ShardTask) -> ShardResult:
    cv2.setNumThreads(1)  # one CPU is what the task asked for; more threads only wait for it
    return shard_writer(task)


def _get_task_result(task_ref: ray.ObjectRef) -> ShardResult | None:
    try:
        return ray.get(task_ref)
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError):
        return None
    except RayTaskError as error:
        if isinstance(error.cause, HrnetRayError):  # as it was, without a traceback
            raise error.cause from None
        raise


def _count_cpus() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
