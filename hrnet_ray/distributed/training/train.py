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

from hrnet_ray.config import ClusterConfig, ExperimentConfig
from hrnet_ray.data.integrity import verify_footers
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.data.sampler import MIN_ROWS_PER_WORKER
from hrnet_ray.distributed.cluster.autoscaling import wait_for_resources
from hrnet_ray.distributed.cluster.head_monitor import HeadNodeMonitor
from hrnet_ray.distributed.cluster.resources import (
    WorkerResources,
    compute_worker_resources,
    describe_cluster,
    init_ray,
)
from hrnet_ray.distributed.data.object_store import (
    CachedSplit,
    LostBlocksError,
    load_into_object_store,
)
from hrnet_ray.distributed.training.backends import (
    FailFastCallback,
    RayTrainBackend,
    hide_ray_checkpoint_snapshot,
    unwrap_user_error,
)
from hrnet_ray.distributed.training.mlflow_run import open_mlflow_run, tag_model_hashes
from hrnet_ray.distributed.training.run_summary import RunResult, print_run_header, summarize_run
from hrnet_ray.distributed.training.train_loop import train_loop_per_worker
from hrnet_ray.distributed.training.worker_config import WorkerConfig
from hrnet_ray.distributed.training.worker_failures import WorkerFailureCallback
from hrnet_ray.errors import ClusterError, HrnetRayError, UsageError
from hrnet_ray.models.pretrained import LoadReport
from hrnet_ray.pose.losses import OHKM_TOPK
from hrnet_ray.runs.event_log import ignore_write_errors, log_event
from hrnet_ray.runs.lock import RunLock
from hrnet_ray.runs.log_capture import log_tracebacks, tee_output
from hrnet_ray.runs.progress import ProgressMonitor
from hrnet_ray.runs.run_dir import (
    ARTIFACTS,
    build_checkpoint_provenance,
    open_run_dir,
    record_cluster_info,
)
from hrnet_ray.runs.signals import interrupt_on_signals, run_in_thread, save_on_interrupt
from hrnet_ray.tracking import MlflowExperiment
from hrnet_ray.training import fault_injection
from hrnet_ray.training.builders import build_model_spec, load_initial_weights
from hrnet_ray.training.checkpoint_manager import CHECKPOINTS_DIR
from hrnet_ray.training.cpu_env import CPU_TRAINING_ENV
from hrnet_ray.training.data_report import write_run_dataset_report

COLLECTIVE_TIMEOUT_S = 300
MAX_CONTROLLER_FAILURES = 3  # Ray's default asks for a missing machine for ever
ELASTIC_START_TIMEOUT_S = "20"
"""Ray counts on a lost node for so long, and only then goes on with fewer workers."""

log = logging.getLogger("hrnet_ray.train")


def train_experiment(experiment: ExperimentConfig, cluster: ClusterConfig) -> RunResult:
    """Train `experiment` to the end, or go on where the same command stopped.

    Raises:
        HrnetRayError: the data, the settings or the machines do not fit.
    """
    manifest = read_manifest(experiment.data.root)
    start = run_preflight_checks(experiment, cluster, manifest)
    folder = open_run_dir(experiment, cluster, manifest)
    with RunLock(folder), tee_output(folder):
        return _train_in_run_dir(folder, experiment, cluster, manifest, start)


def _train_in_run_dir(
    folder: Path,
    experiment: ExperimentConfig,
    cluster: ClusterConfig,
    manifest: DatasetManifest,
    load_report: LoadReport | None,
) -> RunResult:
    with log_tracebacks(folder):
        init_ray(cluster)
        with ignore_write_errors(folder, "environment.json"):
            record_cluster_info(folder, describe_cluster())
        share = compute_worker_resources(cluster, wait_for_resources(cluster))
        board = MlflowExperiment.open_for_dataset(
            manifest.name, storage_dir=Path(cluster.storage_path), tracking_uri=cluster.tracking_uri
        )
        run = open_mlflow_run(
            board, folder, experiment, manifest, kind="train", num_workers=cluster.num_workers
        )
    print_run_header(experiment, manifest, folder, share, load_report)
    try:
        with log_tracebacks(folder), interrupt_on_signals():
            write_run_dataset_report(folder, experiment, manifest)
            _train_with_monitoring(experiment, cluster, share, manifest, folder)
            outcome = summarize_run(folder, experiment)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        run.log_summary({}, tags={} if stopped else {"error": _get_first_line(error)})
        run.log_artifacts(folder, relative_paths=ARTIFACTS)
        run.finish_run("KILLED" if stopped else "FAILED")
        raise
    tag_model_hashes(run, folder)
    run.log_artifacts(folder, relative_paths=ARTIFACTS)
    run.finish_run("FINISHED")
    return outcome


def _train_with_monitoring(
    experiment: ExperimentConfig,
    cluster: ClusterConfig,
    worker_resources: WorkerResources,
    manifest: DatasetManifest,
    folder: Path,
) -> None:
    """Train, tell how it goes, and save before the end when told to stop."""
    vigil = HeadNodeMonitor(cluster, worker_resources)
    with vigil, ProgressMonitor(lambda: {"": folder}, epochs=experiment.optim.epochs):
        data = load_into_object_store(manifest, experiment.data)
        with save_on_interrupt(lambda: [folder], skip_if=vigil.is_lost):
            run_ray_train(
                experiment,
                cluster,
                worker_resources,
                manifest,
                folder,
                data,
                driver_cwd=os.getcwd(),
            )


def run_preflight_checks(
    experiment: ExperimentConfig, cluster: ClusterConfig, manifest: DatasetManifest
) -> LoadReport | None:
    """Find in a second what would fail after minutes; say how far the weights to start from fit.

    Raises:
        HrnetRayError: splits are missing or damaged, weights do not fit, a worker has no rows.
    """
    for split in ("train", "val"):
        manifest.get_shard_uris(split)
    verify_footers(manifest)
    validate_settings(experiment, cluster, manifest)
    return validate_init_weights(experiment, manifest)


def validate_settings(
    experiment: ExperimentConfig, cluster: ClusterConfig, manifest: DatasetManifest
) -> None:
    """Find settings that the data or the workers cannot have.

    Raises:
        UsageError: a worker has no rows, there are too few keypoints, or there is no upper body.
    """
    least = MIN_ROWS_PER_WORKER * cluster.num_workers
    if experiment.optim.batch_size < least:
        raise UsageError(
            f"{cluster.num_workers} workers cannot share {experiment.optim.batch_size} crops: each "
            f"needs {MIN_ROWS_PER_WORKER}",
            f"--optim.batch-size {experiment.optim.batch_size}",
            f"give {least} or more, or use fewer --cluster.num_workers",
        )
    if manifest.splits["train"].rows < least:
        raise UsageError(
            f"{manifest.splits['train'].rows} training rows are too few",
            f"--cluster.num_workers {cluster.num_workers}",
            f"use fewer workers (each needs {MIN_ROWS_PER_WORKER} rows), or more data",
        )
    if experiment.optim.loss == "ohkm" and len(manifest.skeleton) < OHKM_TOPK:
        raise UsageError(
            f"{len(manifest.skeleton)} keypoints are too few to mine the {OHKM_TOPK} hardest",
            "--optim.loss ohkm",
            "use mse",
        )
    if experiment.augment.half_body_prob and not manifest.skeleton.upper_body:
        raise UsageError(
            f"skeleton {manifest.skeleton.name!r} does not say what its upper body is",
            f"--augment.half-body-prob {experiment.augment.half_body_prob:g}",
            "use 0, or prepare with a --skeleton in YAML that has `upper_body`",
        )


def validate_init_weights(
    experiment: ExperimentConfig, manifest: DatasetManifest
) -> LoadReport | None:
    """Raises DataError where the weights to start from do not fit the net."""
    if not experiment.model.pretrained:
        return None
    return load_initial_weights(
        build_model_spec(experiment, manifest, {}).build_model(), experiment
    )


def run_ray_train(
    experiment: ExperimentConfig,
    cluster: ClusterConfig,
    worker_resources: WorkerResources,
    manifest: DatasetManifest,
    folder: Path,
    cached_splits: dict[str, CachedSplit],
    *,
    driver_cwd: str,
    callbacks: Sequence[UserCallback] = (),
) -> None:
    """Run the workers under Ray Train; lost ones are replaced, from the last checkpoint.

    Rows that were lost with a node, and that Ray cannot make again, are read again into `data`.
    """
    decoded = cached_splits["train"].decoded
    for left in reversed(range(cluster.max_failures + 1)):
        job = WorkerConfig(
            experiment=experiment,
            manifest=manifest,
            cached_splits=cached_splits,
            run_folder=folder,
            threads=worker_resources.threads,
            log_sample_order=cluster.log_sample_order,
            backend=RayTrainBackend(
                folder,
                build_checkpoint_provenance(experiment, manifest, num_workers=cluster.num_workers),
                num_workers=cluster.num_workers,
            ),
            max_workers=cluster.num_workers,
            driver_cwd=driver_cwd,
        )
        trainer = _build_trainer(job, cluster, worker_resources, folder, callbacks)
        try:
            return _run_trainer(trainer, folder)
        except LostBlocksError as lost:
            if not left:
                raise
            log_event(folder, "lost_rows", f"{lost.what}: reading the data again")
        del job, trainer  # they hold the rows that are still there
        cached_splits.clear()
        cached_splits.update(load_into_object_store(manifest, experiment.data, decoded=decoded))


class TorchTrainerWithoutDatasets(TorchTrainer):
    """Ray's, without the process that deals out data sets: it is given none.

    Every start of the workers waits 2 s for it on two cores. Should Ray rename what is left out
    here, it is merely there again (tests/distributed/training/test_train.py tells).
    """

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()
        return [one for one in made if type(one).__name__ != "DatasetsCallback"]


def _build_trainer(
    worker_config: WorkerConfig,
    cluster: ClusterConfig,
    worker_resources: WorkerResources,
    folder: Path,
    callbacks: Sequence[UserCallback],
) -> TorchTrainer:
    elastic = cluster.effective_min_workers < cluster.num_workers
    if elastic:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", ELASTIC_START_TIMEOUT_S)
    resources: dict[str, float] = {"CPU": worker_resources.cpus}
    if worker_resources.gpus:
        resources["GPU"] = worker_resources.gpus
    return TorchTrainerWithoutDatasets(
        train_loop_per_worker,
        train_loop_config={"job": worker_config},
        scaling_config=ScalingConfig(
            num_workers=(cluster.effective_min_workers, cluster.num_workers)
            if elastic
            else cluster.num_workers,
            use_gpu=bool(worker_resources.gpus),
            resources_per_worker=resources,
            # Shares of a CPU would all go to one node, beside others that have nothing to do.
            placement_strategy="PACK" if worker_resources.gpus else "SPREAD",
        ),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        run_config=RunConfig(
            name=CHECKPOINTS_DIR,
            storage_path=str(folder),
            callbacks=[
                FailFastCallback(),
                WorkerFailureCallback(folder, max_failures=cluster.max_failures),
                *callbacks,
            ],
            failure_config=FailureConfig(
                max_failures=cluster.max_failures,
                # Of an elastic run each lost node costs a try; who waits for ever, Vigil ends.
                controller_failure_limit=-1 if elastic else MAX_CONTROLLER_FAILURES,
            ),
            worker_runtime_env={
                "env_vars": {
                    "OMP_NUM_THREADS": str(worker_resources.threads),
                    **CPU_TRAINING_ENV,
                    **fault_injection.get_fault_env_vars(),
                }
            },
        ),
    )


def _run_trainer(trainer: TorchTrainer, folder: Path) -> None:
    hide_ray_checkpoint_snapshot(folder)
    try:
        run_in_thread(trainer.fit)
    except (TrainingFailedError, RayError) as error:
        raise _convert_train_error(error, folder) from error


def _get_first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _convert_train_error(error: Exception, folder: Path) -> HrnetRayError:
    """The worker's own words where it had some; Ray's otherwise."""
    failures = getattr(error, "worker_failures", None) or {}
    causes = [*failures.values(), getattr(error, "controller_failure", None) or error]
    for cause in causes:
        if ours := unwrap_user_error(cause):
            return ours
    last = str(causes[0]).strip().splitlines()[-1:]
    return ClusterError(
        "the training failed",
        f"{folder}: {' '.join(last)[:300]}",
        "the whole story is in run.log there; the same command goes on from the last checkpoint",
    )
