"""Predictions for an evaluation on several Ray workers: the same poses as in one process.

Each worker is an actor that holds the model and processes one partition after another. Batches do
not depend on the number of workers, so with the same number of threads the result is equal to the
bit. Another number of threads changes heatmap values by float rounding.
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

PARTITIONS_PER_WORKER = 8
"""Partitions per worker: a slow worker processes fewer of them."""
MAX_ACTOR_RESTARTS = 2
"""Restarts of a worker that dies, and retries of its partition."""


class RayPredictor:
    """Predicts a split with `cluster.num_workers` workers (a `SplitPredictor`).

    Raises:
        ClusterError: the cluster has too few resources.
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
        """Predict the split by partitions, and concatenate the results.

        Raises:
            DataError: a shard is corrupt.
            ClusterError: a worker died repeatedly.
        """
        # With given boxes every partition reads all rows, to match images and boxes.
        num_parts = self.num_workers * (1 if detections else PARTITIONS_PER_WORKER)
        eval_model = replace(eval_model, model=eval_model.model.cpu())
        payload = ray.put((eval_model, manifest, split, ground_truth, detections))
        actors = [
            _make_actor_class(self.worker_resources).remote([payload], self.worker_resources)
            for _ in range(self.num_workers)
        ]
        results: dict[int, PartialPredictions] = {}
        total = len(ground_truth) if detections is None else len(detections.score)
        try:
            partitions = [WorkPartition(index, num_parts) for index in range(num_parts)]
            for partition, result in _dispatch_partitions(actors, partitions):
                results[partition.index] = result
                done = sum(len(r.predictions.ids) + len(r.unread_ids) for r in results.values())
                progress(total if len(results) == num_parts else min(done, total - 1), total)
        finally:
            for actor in actors:
                ray.kill(actor)
        return PartialPredictions.concat_parts([results[index] for index in range(num_parts)])


class PredictionActor:
    """A Ray actor that holds the model and predicts partitions."""

    def __init__(self, payload_refs: list[ray.ObjectRef], worker_resources: WorkerResources) -> None:
        # In a list the reference stays unresolved: Ray warns of actor restarts otherwise.
        eval_model, self.manifest, self.split, self.ground_truth, self.detections = ray.get(payload_refs[0])
        torch.set_num_threads(min(worker_resources.threads, cpu_count()))
        cv2.setNumThreads(1)  # decoding uses threads of its own
        device = "cuda" if worker_resources.gpus else "cpu"
        self.predictor = Predictor(eval_model.model, eval_model.spec, device=device)

    def predict_part(self, partition: WorkPartition) -> PartialPredictions:
        """Predict one partition."""
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
    return ray.remote(max_restarts=MAX_ACTOR_RESTARTS, max_task_retries=MAX_ACTOR_RESTARTS, **options)(PredictionActor)


def _dispatch_partitions(
    actors: list, partitions: list[WorkPartition]
) -> Iterator[tuple[WorkPartition, PartialPredictions]]:
    """Yield partitions with their results as they finish; each idle actor gets the next one."""
    waiting, running = iter(partitions), {}
    for actor in actors:
        if partition := next(waiting, None):
            running[actor.predict_part.remote(partition)] = (actor, partition)
    while running:
        (ready,), _ = ray.wait(list(running), num_returns=1)
        actor, partition = running.pop(ready)
        yield partition, _get_task_result(ready)
        if following := next(waiting, None):
            running[actor.predict_part.remote(following)] = (actor, following)


def _get_task_result(task_ref: ray.ObjectRef) -> PartialPredictions:
    try:
        return ray.get(task_ref)
    except RayActorError as error:
        raise ClusterError(
            "an evaluation worker died repeatedly",
            " ".join(str(error).split())[:160],
            "see Ray's log of that worker; if memory is short, use fewer --num-workers",
        ) from error
    except RayTaskError as error:
        if isinstance(error.cause, HrnetRayError):  # without Ray's traceback
            raise error.cause from None
        raise
