"""Training of one experiment on the cluster, from its dataset to its model folder."""

import os
from collections.abc import Sequence
from functools import partial
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
    owns_ray,
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
from hrnet_ray.distributed.training.run_summary import (
    RunResult,
    print_constant_score_note,
    print_run_header,
    summarize_run,
)
from hrnet_ray.distributed.training.train_loop import train_loop_per_worker
from hrnet_ray.distributed.training.worker_config import WorkerConfig
from hrnet_ray.distributed.training.worker_failures import WorkerFailureCallback
from hrnet_ray.errors import ClusterError, HrnetRayError, UsageError
from hrnet_ray.models.pretrained import LoadReport
from hrnet_ray.pose.losses import OHKM_TOPK
from hrnet_ray.runs.controller import RunController
from hrnet_ray.runs.event_log import ignore_write_errors, log_event, read_metrics
from hrnet_ray.runs.lock import RunLock
from hrnet_ray.runs.log_capture import log_tracebacks, tee_output
from hrnet_ray.runs.progress import ProgressMonitor
from hrnet_ray.runs.run_dir import (
    ARTIFACTS,
    build_checkpoint_provenance,
    open_run_dir,
    record_cluster_info,
)
from hrnet_ray.tracking import MlflowExperiment
from hrnet_ray.training import fault_injection
from hrnet_ray.training.builders import build_model_spec, load_initial_weights
from hrnet_ray.training.checkpoint_manager import CHECKPOINTS_DIR
from hrnet_ray.training.cpu_env import CPU_TRAINING_ENV
from hrnet_ray.training.data_report import write_run_dataset_report

COLLECTIVE_TIMEOUT_S = 300
"""Seconds after which a collective operation without all ranks fails."""
MAX_CONTROLLER_FAILURES = 3
"""Failures of Ray Train's controller; by Ray's default it waits for a missing node forever."""
ELASTIC_START_TIMEOUT_S = "20"
"""Seconds that Ray waits for a lost node before it restarts with fewer workers."""


def train_experiment(experiment: ExperimentConfig, cluster: ClusterConfig) -> RunResult:
    """Train an experiment to the end; the same call resumes an interrupted run.

    Raises:
        HrnetRayError: the dataset, the settings or the cluster do not fit.
    """
    manifest = read_manifest(experiment.data.root)
    load_report = run_preflight_checks(experiment, cluster, manifest)
    folder = open_run_dir(experiment, cluster, manifest)
    controller = RunController()
    with RunLock(folder, controller), tee_output(folder):
        return _train_in_run_dir(controller, folder, experiment, cluster, manifest, load_report)


def _train_in_run_dir(
    controller: RunController,
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
        worker_resources = compute_worker_resources(cluster, wait_for_resources(cluster))
        mlflow_experiment = MlflowExperiment.open_for_dataset(
            manifest.name, storage_dir=Path(cluster.storage_path), tracking_uri=cluster.tracking_uri
        )
        run = open_mlflow_run(
            mlflow_experiment,
            folder,
            experiment,
            manifest,
            kind="train",
            num_workers=cluster.num_workers,
        )
    print_run_header(experiment, manifest, folder, worker_resources, load_report)
    try:
        with log_tracebacks(folder), controller:
            controller.run(partial(write_run_dataset_report, folder, experiment, manifest))
            _train_with_monitoring(controller, experiment, cluster, worker_resources, manifest, folder)
            result = controller.run(partial(summarize_run, folder, experiment))
            print_constant_score_note(read_metrics(folder), result.primary_metric)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        run.log_summary({}, tags={} if interrupted else {"error": _get_first_line(error)})
        run.log_artifacts(folder, relative_paths=ARTIFACTS)
        run.finish_run("KILLED" if interrupted else "FAILED")
        raise
    tag_model_hashes(run, folder)
    run.log_artifacts(folder, relative_paths=ARTIFACTS)
    run.finish_run("FINISHED")
    return result


def _train_with_monitoring(
    controller: RunController,
    experiment: ExperimentConfig,
    cluster: ClusterConfig,
    worker_resources: WorkerResources,
    manifest: DatasetManifest,
    folder: Path,
) -> None:
    """Train with progress output and a head-node monitor; save before an interrupt ends it."""
    head_monitor = HeadNodeMonitor(cluster, worker_resources, controller)
    with head_monitor, ProgressMonitor(lambda: {"": folder}, epochs=experiment.optim.epochs):
        cached_splits = controller.run(partial(load_into_object_store, manifest, experiment.data))
        train = partial(run_ray_train, experiment, cluster, worker_resources, manifest, folder, cached_splits)
        controller.run(partial(train, driver_cwd=os.getcwd()), training_folders=lambda: [folder])


def run_preflight_checks(
    experiment: ExperimentConfig, cluster: ClusterConfig, manifest: DatasetManifest
) -> LoadReport | None:
    """Check dataset, settings and initial weights within a second; returns how the weights fit.

    Raises:
        HrnetRayError: a split is missing or corrupt, weights do not fit, a worker has no rows.
    """
    for split in ("train", "val"):
        manifest.get_shard_uris(split)
    verify_footers(manifest)
    validate_settings(experiment, cluster, manifest)
    return validate_init_weights(experiment, manifest)


def validate_settings(experiment: ExperimentConfig, cluster: ClusterConfig, manifest: DatasetManifest) -> None:
    """Check the settings against the dataset and the number of workers.

    Raises:
        UsageError: a worker has no rows, or the skeleton has too few keypoints or no upper body.
    """
    min_rows = MIN_ROWS_PER_WORKER * cluster.num_workers
    if experiment.optim.batch_size < min_rows:
        raise UsageError(
            f"--optim.batch-size must be at least {min_rows}, got {experiment.optim.batch_size}",
            f"{cluster.num_workers} workers of at least {MIN_ROWS_PER_WORKER} crops each",
            "raise it, or use fewer --cluster.num-workers",
        )
    if manifest.splits["train"].rows < min_rows:
        raise UsageError(
            f"the train split must have at least {min_rows} rows, got {manifest.splits['train'].rows}",
            f"{cluster.num_workers} workers of at least {MIN_ROWS_PER_WORKER} rows each",
            "use fewer --cluster.num-workers, or more data",
        )
    if experiment.optim.loss == "ohkm" and len(manifest.skeleton) < OHKM_TOPK:
        raise UsageError(
            f"--optim.loss ohkm needs at least {OHKM_TOPK} keypoints, got {len(manifest.skeleton)}",
            f"skeleton {manifest.skeleton.name!r}",
            "use --optim.loss mse",
        )
    if experiment.augment.half_body_prob and not manifest.skeleton.upper_body:
        raise UsageError(
            "--augment.half-body-prob must be 0 for a skeleton without `upper_body`, "
            f"got {experiment.augment.half_body_prob:g}",
            f"skeleton {manifest.skeleton.name!r}",
            "use 0, or prepare with a --skeleton in YAML that has `upper_body`",
        )


def validate_init_weights(experiment: ExperimentConfig, manifest: DatasetManifest) -> LoadReport | None:
    """Load the initial weights into a model on trial; None if there are none.

    Raises:
        DataError: the weights do not fit the model.
    """
    if not experiment.model.pretrained:
        return None
    return load_initial_weights(build_model_spec(experiment, manifest, {}).build_model(), experiment)


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
    """Run the workers under Ray Train, which replaces lost ones from the last checkpoint.

    If a node was lost with rows that Ray cannot reconstruct, they are loaded again into
    `cached_splits`.
    """
    decoded = cached_splits["train"].decoded
    for retries_left in reversed(range(cluster.max_failures + 1)):
        worker_config = WorkerConfig(
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
        trainer = _build_trainer(worker_config, cluster, worker_resources, folder, callbacks)
        try:
            return _run_trainer(trainer, folder)
        except LostBlocksError as lost:
            if not retries_left:
                raise
            log_event(folder, "lost_rows", f"{lost.what}: loading the dataset again")
        del worker_config, trainer  # they hold references to the remaining rows
        cached_splits.clear()
        cached_splits.update(load_into_object_store(manifest, experiment.data, decoded=decoded))


class LightTorchTrainer(TorchTrainer):
    """Ray's TorchTrainer without helper processes that a run has no use for.

    DatasetsCallback distributes Ray datasets; each start of the workers would wait 2 s for it on two
    cores. PlacementGroupCleanerCallback frees the workers' resources after the death of the driver;
    if the driver started Ray, Ray ends with it. If Ray renames a callback, the process is back and
    tests/distributed/training/test_train.py fails.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if owns_ray() else set())
        return [c for c in super()._create_default_callbacks() if type(c).__name__ not in unused]


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
    return LightTorchTrainer(
        train_loop_per_worker,
        train_loop_config={"job": worker_config},
        scaling_config=ScalingConfig(
            num_workers=(cluster.effective_min_workers, cluster.num_workers) if elastic else cluster.num_workers,
            use_gpu=bool(worker_resources.gpus),
            resources_per_worker=resources,
            # PACK would put all CPU workers on one node, and leave others idle.
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
                # In an elastic run each lost node counts as a failure; HeadNodeMonitor ends a
                # run that waits forever.
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
        trainer.fit()
    except (TrainingFailedError, RayError) as error:
        raise _convert_train_error(error, folder) from error


def _get_first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _convert_train_error(error: Exception, folder: Path) -> HrnetRayError:
    """Convert Ray's error into the worker's HrnetRayError, or into a ClusterError."""
    failures = getattr(error, "worker_failures", None) or {}
    causes = [*failures.values(), getattr(error, "controller_failure", None) or error]
    for cause in causes:
        if user_error := unwrap_user_error(cause):
            return user_error
    last_line = str(causes[0]).strip().splitlines()[-1:]
    return ClusterError(
        "training failed",
        f"{folder}: {' '.join(last_line)[:300]}",
        "see the traceback in run.log; the same command resumes from the last checkpoint",
    )
