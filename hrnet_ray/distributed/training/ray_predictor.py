"""An evaluation's rows shared among workers of a Ray cluster: the same poses as in one process.

Each worker is an actor with the model, and takes part after part. Batches are those of the whole,
so that with the same number of threads it does not matter to a single bit who looks at what;
another number of threads moves the heights of heatmaps by float noise.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ray
import torch
from joblib import cpu_count
from ray.exceptions import RayActorError, RayTaskError

from hrnet_ray.config import ClusterConfig
from hrnet_ray.data.images.codec import cv2
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.data.shards import ProgressCallback
from hrnet_ray.distributed.cluster.autoscaling import wait_for_resources
from hrnet_ray.distributed.cluster.resources import (
    WorkerResources,
    compute_worker_resources,
    init_ray,
)
from hrnet_ray.errors import ClusterError, HrnetRayError
from hrnet_ray.evaluation.ground_truth import GroundTruth
from hrnet_ray.evaluation.model_evaluation import EvalModel
from hrnet_ray.evaluation.predict_split import PartialPredictions, WorkPartition, predict_partition
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.metrics.detections import DetectedBoxes

PARTITIONS_PER_WORKER = 8  # for each worker: a slow one takes fewer of them
MAX_ACTOR_RESTARTS = 2  # of a worker that dies


class RayPredictor:
    """Finds a candidate's poses with `cluster.num_workers` workers (a `Finder`).

    Raises:
        ClusterError: the machines are not there.
    """

    def __init__(self, cluster: ClusterConfig, *, threads: int | None = None) -> None:
        init_ray(cluster)
        self.num_workers = cluster.num_workers
        self.worker_resources = compute_worker_resources(cluster, wait_for_resources(cluster))
        if threads:
            self.worker_resources = replace(self.worker_resources, threads=threads)

    def __call__(
        self,
        eval_model: EvalModel,
        manifest: DatasetManifest,
        split: str,
        ground_truth: GroundTruth,
        detections: DetectedBoxes | None,
        progress: ProgressCallback,
    ) -> PartialPredictions:
        """Look at the split, part by part, and join what was found.

        Raises:
            DataError: a shard is damaged.
            ClusterError: workers die again and again.
        """
        # With given boxes every part reads all rows, to know which picture serves which box.
        parts = self.num_workers * (1 if detections else PARTITIONS_PER_WORKER)
        eval_model = replace(eval_model, model=eval_model.model.cpu())
        told = ray.put((eval_model, manifest, split, ground_truth, detections))
        actors = [
            _make_actor_class(self.worker_resources).remote([told], self.worker_resources)
            for _ in range(self.num_workers)
        ]
        found: dict[int, PartialPredictions] = {}
        total = len(ground_truth) if detections is None else len(detections.score)
        try:
            for part, seen in _dispatch_partitions(
                actors, [WorkPartition(at, parts) for at in range(parts)]
            ):
                found[part.index] = seen
                done = sum(len(one.predictions.ids) + len(one.unread_ids) for one in found.values())
                progress(total if len(found) == parts else min(done, total - 1), total)
        finally:
            for actor in actors:
                ray.kill(actor)
        return PartialPredictions.concat_parts([found[at] for at in range(parts)])


class PredictionActor:
    """Holds the model, and looks at parts."""

    def __init__(
        self, payload_refs: list[ray.ObjectRef], worker_resources: WorkerResources
    ) -> None:
        # In a list, a reference stays one: Ray warns of restarts that would need it resolved.
        candidate, self.manifest, self.split, self.ground_truth, self.detections = ray.get(
            payload_refs[0]
        )
        torch.set_num_threads(min(worker_resources.threads, cpu_count()))
        cv2.setNumThreads(1)  # decoding has its own threads
        device = "cuda" if worker_resources.gpus else "cpu"
        self.predictor = Predictor(candidate.model, candidate.spec, device=device)

    def predict_part(self, partition: WorkPartition) -> PartialPredictions:
        """What the model finds in a part."""
        return predict_partition(
            self.predictor,
            self.manifest,
            self.split,
            self.ground_truth,
            detections=self.detections,
            partition=partition,
        )


def _make_actor_class(worker_resources: WorkerResources) -> Any:
    options = {"num_cpus": worker_resources.cpus, "num_gpus": worker_resources.gpus}
    return ray.remote(
        max_restarts=MAX_ACTOR_RESTARTS, max_task_retries=MAX_ACTOR_RESTARTS, **options
    )(PredictionActor)


def _dispatch_partitions(
    actors: list, partitions: list[WorkPartition]
) -> Iterator[tuple[WorkPartition, PartialPredictions]]:
    """Parts with what was found, as they come; who is done takes the next one."""
    waiting, running = iter(partitions), {}
    for actor in actors:
        if part := next(waiting, None):
            running[actor.find.remote(part)] = (actor, part)
    while running:
        (ready,), _ = ray.wait(list(running), num_returns=1)
        actor, part = running.pop(ready)
        yield part, _get_task_result(ready)
        if more := next(waiting, None):
            running[actor.find.remote(more)] = (actor, more)


def _get_task_result(task_ref: ray.ObjectRef) -> PartialPredictions:
    try:
        return ray.get(task_ref)
    except RayActorError as error:
        raise ClusterError(
            "a worker that dies again and again",
            f"evaluation: {' '.join(str(error).split())[:160]}",
            "see Ray's log of that worker; memory may be short: use fewer --num-workers",
        ) from error
    except RayTaskError as error:
        if isinstance(error.cause, HrnetRayError):  # as it was, without a traceback
            raise error.cause from None
        raise
