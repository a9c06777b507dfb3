"""One experiment on the cluster, from its data to its model folder."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer

from hrnet_ray.config import Cluster, Experiment
from hrnet_ray.data.integrity import check_shards
from hrnet_ray.data.manifest import Manifest, read_manifest
from hrnet_ray.data.sampler import LEAST_ROWS
from hrnet_ray.distributed.cluster.autoscaling import resources
from hrnet_ray.distributed.cluster.head_monitor import Vigil
from hrnet_ray.distributed.cluster.resources import Share, connect, described, share_of
from hrnet_ray.distributed.data.object_store import LostRows, Stored, load
from hrnet_ray.distributed.training.backends import (
    GiveUp,
    TrainHost,
    set_snapshot_aside,
    users_error,
)
from hrnet_ray.distributed.training.mlflow_run import open_run, vouch_for_model
from hrnet_ray.distributed.training.run_summary import Outcome, announce, conclude
from hrnet_ray.distributed.training.train_loop import train_worker
from hrnet_ray.distributed.training.worker_config import Job
from hrnet_ray.distributed.training.worker_failures import Losses
from hrnet_ray.errors import ClusterError, HrnetRayError, UsageError
from hrnet_ray.models.pretrained import WeightsReport
from hrnet_ray.pose.losses import HARDEST
from hrnet_ray.runs.event_log import append_fault, tolerated
from hrnet_ray.runs.lock import Lease
from hrnet_ray.runs.log_capture import logged, storied
from hrnet_ray.runs.progress import Watch
from hrnet_ray.runs.run_dir import ARTIFACTS, made_with, note_machines, open_run_folder
from hrnet_ray.runs.signals import apart, saving, stoppable
from hrnet_ray.tracking import Board
from hrnet_ray.training import fault_injection
from hrnet_ray.training.builders import spec_of, start_from
from hrnet_ray.training.checkpoint_manager import FOLDER
from hrnet_ray.training.cpu_env import FOR_TRAINING
from hrnet_ray.training.data_report import look_at_data

COLLECTIVE_TIMEOUT_S = 300
CONTROLLER_TRIES = 3  # Ray's default asks for a missing machine for ever
ELASTIC_START_S = "20"
"""Ray counts on a lost node for so long, and only then goes on with fewer workers."""

log = logging.getLogger("hrnet_ray.train")


def fit(experiment: Experiment, cluster: Cluster) -> Outcome:
    """Train `experiment` to the end, or go on where the same command stopped.

    Raises:
        HrnetRayError: the data, the settings or the machines do not fit.
    """
    manifest = read_manifest(experiment.data.root)
    start = check(experiment, cluster, manifest)
    folder = open_run_folder(experiment, cluster, manifest)
    with Lease(folder), logged(folder):
        return _fit_in(folder, experiment, cluster, manifest, start)


def _fit_in(
    folder: Path,
    experiment: Experiment,
    cluster: Cluster,
    manifest: Manifest,
    start: WeightsReport | None,
) -> Outcome:
    with storied(folder):
        connect(cluster)
        with tolerated(folder, "environment.json"):
            note_machines(folder, described())
        share = share_of(cluster, resources(cluster))
        board = Board.open(
            manifest.name, storage=Path(cluster.storage), tracking_uri=cluster.tracking_uri
        )
        run = open_run(board, folder, experiment, manifest, kind="train", workers=cluster.workers)
    announce(experiment, manifest, folder, share, start)
    try:
        with storied(folder), stoppable():
            look_at_data(folder, experiment, manifest)
            _train_watched(experiment, cluster, share, manifest, folder)
            outcome = conclude(folder, experiment)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        run.log_summary({}, tags={} if stopped else {"error": _first_line(error)})
        run.log_folder(folder, only=ARTIFACTS)
        run.finish("KILLED" if stopped else "FAILED")
        raise
    vouch_for_model(run, folder)
    run.log_folder(folder, only=ARTIFACTS)
    run.finish("FINISHED")
    return outcome


def _train_watched(
    experiment: Experiment, cluster: Cluster, share: Share, manifest: Manifest, folder: Path
) -> None:
    """Train, tell how it goes, and save before the end when told to stop."""
    vigil = Vigil(cluster, share)
    with vigil, Watch(lambda: {"": folder}, epochs=experiment.optim.epochs):
        data = load(manifest, experiment.data)
        with saving(lambda: [folder], unless=vigil.lost):
            train_once(experiment, cluster, share, manifest, folder, data, started_in=os.getcwd())


def check(experiment: Experiment, cluster: Cluster, manifest: Manifest) -> WeightsReport | None:
    """Find in a second what would fail after minutes; say how far the weights to start from fit.

    Raises:
        HrnetRayError: splits are missing or damaged, weights do not fit, a worker has no rows.
    """
    for split in ("train", "val"):
        manifest.files(split)
    check_shards(manifest)
    check_settings(experiment, cluster, manifest)
    return check_weights(experiment, manifest)


def check_settings(experiment: Experiment, cluster: Cluster, manifest: Manifest) -> None:
    """Find settings that the data or the workers cannot have.

    Raises:
        UsageError: a worker has no rows, there are too few keypoints, or there is no upper body.
    """
    least = LEAST_ROWS * cluster.workers
    if experiment.optim.batch_size < least:
        raise UsageError(
            f"{cluster.workers} workers cannot share {experiment.optim.batch_size} crops: each "
            f"needs {LEAST_ROWS}",
            f"--optim.batch-size {experiment.optim.batch_size}",
            f"give {least} or more, or use fewer --cluster.workers",
        )
    if manifest.splits["train"].rows < least:
        raise UsageError(
            f"{manifest.splits['train'].rows} training rows are too few",
            f"--cluster.workers {cluster.workers}",
            f"use fewer workers (each needs {LEAST_ROWS} rows), or more data",
        )
    if experiment.optim.loss == "ohkm" and len(manifest.skeleton) < HARDEST:
        raise UsageError(
            f"{len(manifest.skeleton)} keypoints are too few to mine the {HARDEST} hardest",
            "--optim.loss ohkm",
            "use mse",
        )
    if experiment.augment.half_body_share and not manifest.skeleton.upper_body:
        raise UsageError(
            f"skeleton {manifest.skeleton.name!r} does not say what its upper body is",
            f"--augment.half-body-share {experiment.augment.half_body_share:g}",
            "use 0, or prepare with a --skeleton in YAML that has `upper_body`",
        )


def check_weights(experiment: Experiment, manifest: Manifest) -> WeightsReport | None:
    """Raises DataError where the weights to start from do not fit the net."""
    if not experiment.model.init:
        return None
    return start_from(spec_of(experiment, manifest, {}).build(), experiment)


def train_once(
    experiment: Experiment,
    cluster: Cluster,
    share: Share,
    manifest: Manifest,
    folder: Path,
    data: dict[str, Stored],
    *,
    started_in: str,
    callbacks: Sequence[UserCallback] = (),
) -> None:
    """Run the workers under Ray Train; lost ones are replaced, from the last checkpoint.

    Rows that were lost with a node, and that Ray cannot make again, are read again into `data`.
    """
    decoded = data["train"].decoded
    for left in reversed(range(cluster.max_failures + 1)):
        job = Job(
            experiment=experiment,
            manifest=manifest,
            data=data,
            run_folder=folder,
            threads=share.threads,
            write_order=cluster.write_order,
            host=TrainHost(
                folder,
                made_with(experiment, manifest, workers=cluster.workers),
                workers=cluster.workers,
            ),
            most_workers=cluster.workers,
            started_in=started_in,
        )
        trainer = _trainer(job, cluster, share, folder, callbacks)
        try:
            return _run(trainer, folder)
        except LostRows as lost:
            if not left:
                raise
            append_fault(folder, "lost_rows", f"{lost.what}: reading the data again")
        del job, trainer  # they hold the rows that are still there
        data.clear()
        data.update(load(manifest, experiment.data, decoded=decoded))


class Trainer(TorchTrainer):
    """Ray's, without the process that deals out data sets: it is given none.

    Every start of the workers waits 2 s for it on two cores. Should Ray rename what is left out
    here, it is merely there again (tests/distributed/training/test_train.py tells).
    """

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()
        return [one for one in made if type(one).__name__ != "DatasetsCallback"]


def _trainer(
    job: Job, cluster: Cluster, share: Share, folder: Path, callbacks: Sequence[UserCallback]
) -> TorchTrainer:
    elastic = cluster.fewest < cluster.workers
    if elastic:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", ELASTIC_START_S)
    resources: dict[str, float] = {"CPU": share.cpus}
    if share.gpus:
        resources["GPU"] = share.gpus
    return Trainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=(cluster.fewest, cluster.workers) if elastic else cluster.workers,
            use_gpu=bool(share.gpus),
            resources_per_worker=resources,
            # Shares of a CPU would all go to one node, beside others that have nothing to do.
            placement_strategy="PACK" if share.gpus else "SPREAD",
        ),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        run_config=RunConfig(
            name=FOLDER,
            storage_path=str(folder),
            callbacks=[GiveUp(), Losses(folder, survives=cluster.max_failures), *callbacks],
            failure_config=FailureConfig(
                max_failures=cluster.max_failures,
                # Of an elastic run each lost node costs a try; who waits for ever, Vigil ends.
                controller_failure_limit=-1 if elastic else CONTROLLER_TRIES,
            ),
            worker_runtime_env={
                "env_vars": {
                    "OMP_NUM_THREADS": str(share.threads),
                    **FOR_TRAINING,
                    **fault_injection.environment(),
                }
            },
        ),
    )


def _run(trainer: TorchTrainer, folder: Path) -> None:
    set_snapshot_aside(folder)
    try:
        apart(trainer.fit)
    except (TrainingFailedError, RayError) as error:
        raise _explained(error, folder) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _explained(error: Exception, folder: Path) -> HrnetRayError:
    """The worker's own words where it had some; Ray's otherwise."""
    failures = getattr(error, "worker_failures", None) or {}
    causes = [*failures.values(), getattr(error, "controller_failure", None) or error]
    for cause in causes:
        if ours := users_error(cause):
            return ours
    last = str(causes[0]).strip().splitlines()[-1:]
    return ClusterError(
        "the training failed",
        f"{folder}: {' '.join(last)[:300]}",
        "the whole story is in log.txt there; the same command goes on from the last checkpoint",
    )
