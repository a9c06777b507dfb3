"""Write the shards of `prepare` as Ray tasks, one CPU each.

If the process of a task dies (a decoder crash, a lost node), only its shard is written again. If it
dies every time, its images are tried one by one, and those that crash the decoder are skipped.
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

TASK_ATTEMPTS = 2
"""Number of attempts of a task whose process dies."""
MAX_TASKS_PER_CPU = 2
"""Number of waiting and running tasks per CPU; more would only hold labels in memory."""

ShardWriterFn = Callable[[ShardTask], ShardResult]


def init_ray_for_prepare(address: str | None) -> str:
    """Join the cluster at `address` or RAY_ADDRESS, or start Ray; return its size as text."""
    init_ray(ClusterConfig(ray_address=address))
    cpus, nodes = _count_cpus(), sum(node["Alive"] for node in ray.nodes())
    return f"{cpus} CPUs" + (f" on {nodes} machines" if nodes > 1 else " of this machine")


def write_shards_ray(
    tasks: Sequence[ShardTask], on_done: DoneCallback, *, shard_writer: ShardWriterFn = write_shard
) -> Iterator[ShardResult]:
    """Write shards on the whole cluster; yield their results in any order.

    Raises:
        ClusterError: a shard crashes its process, but none of its images does so alone.
    """
    by_file = {task.file: task for task in tasks}
    for file, result in _map_tasks(list(by_file.values()), shard_writer):
        task = by_file[file]
        result = result or _retry_without_crashing_images(task, shard_writer)
        on_done(len(task.instances))
        yield result


def _retry_without_crashing_images(task: ShardTask, shard_writer: ShardWriterFn) -> ShardResult:
    """Write a shard that crashed its process, without the images that do so alone."""
    groups = [list(group) for _, group in groupby(task.instances, lambda instance: instance.image)]
    per_image = [replace(task, file=str(n), instances=group) for n, group in enumerate(groups)]
    crashing = {
        int(file) for file, result in _map_tasks(per_image, partial(_try_in_temp_dir, shard_writer)) if not result
    }
    kept = [i for n, group in enumerate(groups) if n not in crashing for i in group]
    ((_, result),) = _map_tasks([replace(task, instances=kept)], shard_writer)
    if result is None:
        raise ClusterError(
            "writing a shard crashes its process every time",
            f"{task.file}: {len(task.instances):,} instances from {task.instances[0].image} on; "
            "no image does so alone, so memory may be short",
            "see the Ray log of that worker; use fewer CPUs, or a smaller --rows-per-shard",
        )
    skipped = [
        SkippedItem(i.image, DECODER_CRASH_REASON, f"instance {i.id}") for n in sorted(crashing) for i in groups[n]
    ]
    return replace(result, skipped=[*result.skipped, *skipped])


def _try_in_temp_dir(shard_writer: ShardWriterFn, task: ShardTask) -> ShardResult:
    """Write a shard to a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        return shard_writer(replace(task, out=open_storage_dir(folder, "--out")))


def _map_tasks(tasks: Sequence[ShardTask], shard_writer: ShardWriterFn) -> Iterator[tuple[str, ShardResult | None]]:
    """Yield file and result of each task as it ends; None if the process died at every attempt."""
    remote = ray.remote(num_cpus=1, max_retries=TASK_ATTEMPTS - 1)(_run_shard_task)
    waiting, running = iter(tasks), {}
    shared = ray.put(shard_writer)
    try:
        while True:
            while len(running) < MAX_TASKS_PER_CPU * _count_cpus() and (task := next(waiting, None)):
                running[remote.remote(shared, task)] = task.file
            if not running:
                return
            (ready,), _ = ray.wait(list(running), num_returns=1)
            file = running.pop(ready)
            yield file, _get_task_result(ready)
    finally:  # after Ctrl-C or an error
        for task_ref in running:
            ray.cancel(task_ref, force=True)


def _run_shard_task(shard_writer: ShardWriterFn, task: ShardTask) -> ShardResult:
    cv2.setNumThreads(1)  # the task has one CPU
    return shard_writer(task)


def _get_task_result(task_ref: ray.ObjectRef) -> ShardResult | None:
    try:
        return ray.get(task_ref)
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError):
        return None
    except RayTaskError as error:
        if isinstance(error.cause, HrnetRayError):  # the error itself, without a traceback
            raise error.cause from None
        raise


def _count_cpus() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
