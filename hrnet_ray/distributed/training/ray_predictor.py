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

from hrnet_ray.config import Cluster
from hrnet_ray.data.images.codec import cv2
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.data.shards import Progress
from hrnet_ray.distributed.cluster.autoscaling import resources
from hrnet_ray.distributed.cluster.resources import Share, connect, share_of
from hrnet_ray.errors import ClusterError, HrnetRayError
from hrnet_ray.evaluation.ground_truth import Labelled
from hrnet_ray.evaluation.model_evaluation import Candidate
from hrnet_ray.evaluation.predict_split import Found, Part, find
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.metrics.detections import Boxes

PARTS = 8  # for each worker: a slow one takes fewer of them
RESTARTS = 2  # of a worker that dies


class Sharing:
    """Finds a candidate's poses with `cluster.workers` workers (a `Finder`).

    Raises:
        ClusterError: the machines are not there.
    """

    def __init__(self, cluster: Cluster, *, threads: int | None = None) -> None:
        connect(cluster)
        self.workers = cluster.workers
        self.share = share_of(cluster, resources(cluster))
        if threads:
            self.share = replace(self.share, threads=threads)

    def __call__(
        self,
        candidate: Candidate,
        manifest: Manifest,
        split: str,
        labelled: Labelled,
        boxes: Boxes | None,
        progress: Progress,
    ) -> Found:
        """Look at the split, part by part, and join what was found.

        Raises:
            DataError: a shard is damaged.
            ClusterError: workers die again and again.
        """
        # With given boxes every part reads all rows, to know which picture serves which box.
        parts = self.workers * (1 if boxes else PARTS)
        candidate = replace(candidate, model=candidate.model.cpu())
        told = ray.put((candidate, manifest, split, labelled, boxes))
        actors = [_actor(self.share).remote([told], self.share) for _ in range(self.workers)]
        found: dict[int, Found] = {}
        total = len(labelled) if boxes is None else len(boxes.score)
        try:
            for part, seen in _shared(actors, [Part(at, parts) for at in range(parts)]):
                found[part.index] = seen
                done = sum(len(one.predictions.ids) + len(one.unread) for one in found.values())
                progress(total if len(found) == parts else min(done, total - 1), total)
        finally:
            for actor in actors:
                ray.kill(actor)
        return Found.joined([found[at] for at in range(parts)])


class Worker:
    """Holds the model, and looks at parts."""

    def __init__(self, told: list[ray.ObjectRef], share: Share) -> None:
        # In a list, a reference stays one: Ray warns of restarts that would need it resolved.
        candidate, self.manifest, self.split, self.labelled, self.boxes = ray.get(told[0])
        torch.set_num_threads(min(share.threads, cpu_count()))
        cv2.setNumThreads(1)  # decoding has its own threads
        device = "cuda" if share.gpus else "cpu"
        self.predictor = Predictor(candidate.model, candidate.spec, device=device)

    def find(self, part: Part) -> Found:
        """What the model finds in a part."""
        return find(
            self.predictor, self.manifest, self.split, self.labelled, boxes=self.boxes, part=part
        )


def _actor(share: Share) -> Any:
    options = {"num_cpus": share.cpus, "num_gpus": share.gpus}
    return ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, **options)(Worker)


def _shared(actors: list, parts: list[Part]) -> Iterator[tuple[Part, Found]]:
    """Parts with what was found, as they come; who is done takes the next one."""
    waiting, running = iter(parts), {}
    for actor in actors:
        if part := next(waiting, None):
            running[actor.find.remote(part)] = (actor, part)
    while running:
        (ready,), _ = ray.wait(list(running), num_returns=1)
        actor, part = running.pop(ready)
        yield part, _result_of(ready)
        if more := next(waiting, None):
            running[actor.find.remote(more)] = (actor, more)


def _result_of(ready: ray.ObjectRef) -> Found:
    try:
        return ray.get(ready)
    except RayActorError as error:
        raise ClusterError(
            "a worker that dies again and again",
            f"evaluation: {' '.join(str(error).split())[:160]}",
            "see Ray's log of that worker; memory may be short: use fewer --workers",
        ) from error
    except RayTaskError as error:
        if isinstance(error.cause, HrnetRayError):  # as it was, without a traceback
            raise error.cause from None
        raise
