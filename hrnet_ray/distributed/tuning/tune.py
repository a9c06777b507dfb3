"""Many experiments that differ in what is searched for, and which one was best."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from hrnet_ray.config import ClusterConfig, ExperimentConfig, flatten_config
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.distributed.cluster.autoscaling import wait_for_resources
from hrnet_ray.distributed.cluster.head_monitor import HeadNodeMonitor
from hrnet_ray.distributed.cluster.resources import (
    TRIAL_DRIVER_CPUS,
    compute_max_concurrent_trials,
    compute_worker_resources,
    describe_cluster,
    init_ray,
)
from hrnet_ray.distributed.data.object_store import CachedSplit, load_into_object_store
from hrnet_ray.distributed.training.run_summary import print_run_header
from hrnet_ray.distributed.training.train import (
    run_preflight_checks,
    validate_init_weights,
    validate_settings,
)
from hrnet_ray.distributed.tuning.samplers import (
    SearchPoint,
    SearchSpace,
    list_grid_points,
    load_warm_start_points,
    validate_search_space,
)
from hrnet_ray.distributed.tuning.schedulers import StoppingRuleScheduler
from hrnet_ray.distributed.tuning.search_algorithm import ResumableSearcher, rebuild_stopping_rule
from hrnet_ray.distributed.tuning.search_config import CHANGEABLE_ON_RESUME, SearchConfig
from hrnet_ray.distributed.tuning.search_space import format_sampler
from hrnet_ray.distributed.tuning.study import StudyResult, StudyRunLogger, summarize_study
from hrnet_ray.distributed.tuning.trial_records import (
    TRIAL_NUMBER_KEY,
    TrialRecordCallback,
    mark_ended,
    mark_failed,
    update_trial_record,
)
from hrnet_ray.distributed.tuning.trial_runner import StudyPlan, run_trial
from hrnet_ray.errors import UsageError
from hrnet_ray.models.pretrained import LoadReport
from hrnet_ray.runs.controller import RunController
from hrnet_ray.runs.event_log import ignore_write_errors
from hrnet_ray.runs.lock import RunLock
from hrnet_ray.runs.log_capture import log_tracebacks, tee_output
from hrnet_ray.runs.progress import ProgressMonitor
from hrnet_ray.runs.run_dir import open_run_dir, record_cluster_info
from hrnet_ray.tracking import MlflowExperiment
from hrnet_ray.training.data_report import write_run_dataset_report

__all__ = ["SearchConfig", "SearchSpace", "StudyResult", "run_study", "validate_search_space"]

TRIAL_ATTEMPTS = 2  # of a trial that fails; the second goes on from its last checkpoint


def run_study(
    base_experiment: ExperimentConfig,
    space: SearchSpace,
    cluster: ClusterConfig,
    search: SearchConfig,
) -> StudyResult:
    """Train variants of `base` with settings drawn from `space`; stop the hopeless ones early.

    The same command goes on where it stopped: finished trials stay, others continue from their
    last checkpoint, failed ones are tried again. Asked for more trials, it adds them.

    Raises:
        HrnetRayError: the data, the settings or the machines do not fit.
    """
    validate_search_space(base_experiment, space)
    if search.optimize_latency and cluster.num_workers > 1:
        raise UsageError(
            "latency is measured in trials of one worker",
            f"--search.optimize-latency --cluster.num-workers {cluster.num_workers}",
            "use --cluster.num-workers 1",
        )
    points = _select_initial_points(base_experiment, space, search)
    manifest = read_manifest(base_experiment.data.root)
    start = run_preflight_checks(base_experiment, cluster, manifest)
    validate_search_space(
        base_experiment,
        space,
        check_variant=partial(_check_variant, base_experiment, cluster, manifest),
    )
    searched = {name: format_sampler(sampler) for name, sampler in space.items()}
    searched |= {
        f"search.{name}": repr(value)
        for name, value in flatten_config(search).items()
        if name not in CHANGEABLE_ON_RESUME
    }
    folder = open_run_dir(base_experiment, cluster, manifest, search_settings=searched)
    controller = RunController()
    with RunLock(folder, controller), tee_output(folder), log_tracebacks(folder):
        return _run_study_in_dir(controller, folder, base_experiment, space, cluster, search, points, manifest, start)


def _check_variant(
    base_experiment: ExperimentConfig,
    cluster: ClusterConfig,
    manifest: DatasetManifest,
    variant: ExperimentConfig,
) -> None:
    validate_settings(variant, cluster, manifest)
    if variant.model != base_experiment.model:
        validate_init_weights(variant, manifest)


def _run_study_in_dir(
    controller: RunController,
    folder: Path,
    base_experiment: ExperimentConfig,
    space: SearchSpace,
    cluster: ClusterConfig,
    search: SearchConfig,
    points: Sequence[SearchPoint],
    manifest: DatasetManifest,
    load_report: LoadReport | None,
) -> StudyResult:
    init_ray(cluster, include_dashboard=cluster.num_workers > 1)
    with ignore_write_errors(folder, "environment.json"):
        record_cluster_info(folder, describe_cluster())
    have = wait_for_resources(cluster, concurrent_trials=search.max_concurrent_trials or 1)
    trials = len(points) if search.sampler == "grid" else search.num_trials
    at_once = search.max_concurrent_trials or compute_max_concurrent_trials(cluster, have, num_trials=trials)
    share = compute_worker_resources(cluster, have, concurrent_trials=at_once)
    plan = StudyPlan(
        base_experiment=base_experiment,
        cluster=replace(cluster, tracking_uri=None),  # it may hold a password, and trials do not log
        manifest=manifest,
        folder=folder,
        worker_resources=share,
        driver_cwd=os.getcwd(),
        optimize_latency=search.optimize_latency,
    )
    board = MlflowExperiment.open_for_dataset(
        manifest.name, storage_dir=Path(cluster.storage_path), tracking_uri=cluster.tracking_uri
    )
    records = StudyRunLogger(board, plan, list(space))
    print_run_header(base_experiment, manifest, folder, share, load_report)
    print(
        f"searching {', '.join(space)}: {trials} trials of at most {base_experiment.optim.epochs} "
        f"epochs, {at_once} at once\n{search.describe_search(base_experiment.optim.epochs)}",
        flush=True,
    )
    try:
        watch = ProgressMonitor(
            records.find_started_trials,
            epochs=base_experiment.optim.epochs,
            on_epoch=records.on_epoch,
        )
        with controller:
            controller.run(partial(write_run_dataset_report, folder, base_experiment, manifest))
            with HeadNodeMonitor(cluster, share, controller), watch:
                searcher = ResumableSearcher(folder, space, search, points, epochs=base_experiment.optim.epochs)
                if searcher.has_pending_trials():
                    controller.run(
                        partial(_run_trials, plan, search, searcher, at_once),
                        training_folders=lambda: records.find_started_trials().values(),
                    )
            study = controller.run(partial(summarize_study, plan, list(space), search))
    except BaseException as error:
        records.finish_all_runs(failed_status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    records.finish_all_runs(study)
    return study


def _select_initial_points(
    base_experiment: ExperimentConfig, space: SearchSpace, search: SearchConfig
) -> list[SearchPoint]:
    """What is tried first: all of a grid, or the best of earlier studies."""
    if search.sampler == "grid":
        if search.warm_start:
            raise UsageError(
                "a grid tries everything, in no better order",
                f"--search.sampler grid --search.warm-start {' '.join(search.warm_start)}",
                "leave one of them out",
            )
        return list_grid_points(space, seed=search.seed)
    points, outside = load_warm_start_points(search.warm_start, space, base_experiment, top_k=search.warm_start_top_k)
    if search.warm_start:
        left_out = f"; {outside} lie outside the space" if outside else ""
        print(f"first the best of {', '.join(search.warm_start)}: {len(points)} settings{left_out}")
    return points


def _run_trials(plan: StudyPlan, search: SearchConfig, searcher: ResumableSearcher, max_concurrent_trials: int) -> None:
    """Run the trials, and note those that failed."""
    data = load_into_object_store(plan.manifest, plan.base_experiment.data)
    results = _build_tuner(plan, search, searcher, max_concurrent_trials, data).fit()
    for result in results:
        if result.error:
            number = _parse_trial_number(result)
            update_trial_record(plan.folder, number, partial(mark_failed, error=result.error))
            update_trial_record(plan.folder, number, mark_ended)


def _build_tuner(
    plan: StudyPlan,
    search: SearchConfig,
    searcher: ResumableSearcher,
    max_concurrent_trials: int,
    cached_splits: dict[str, CachedSplit],
) -> tune.Tuner:
    nested = plan.cluster.num_workers > 1
    needs = {"CPU": TRIAL_DRIVER_CPUS if nested else plan.worker_resources.cpus}
    if plan.worker_resources.gpus and not nested:
        needs["GPU"] = plan.worker_resources.gpus
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, plan=plan, data=cached_splits),  # one copy for all trials
        needs,
    )
    path = plan.folder / "tune"
    shutil.rmtree(path, ignore_errors=True)  # an earlier command's; see trial_records.py
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=-1,  # the searcher ends the study
            max_concurrent_trials=max_concurrent_trials,
            search_alg=searcher,
            scheduler=_build_scheduler(plan, search),
            time_budget_s=search.time_budget_s,
            trial_dirname_creator=_format_trial_dir,
            # The next trial takes over the process of one that ended, with torch in it. A nested
            # run may still be tidying up in there when its trial is stopped.
            reuse_actors=not nested,
        ),
        run_config=tune.RunConfig(
            name=path.name,
            storage_path=str(path.parent),
            failure_config=tune.FailureConfig(max_failures=TRIAL_ATTEMPTS - 1),
            callbacks=[TrialRecordCallback(plan.folder)],
            verbose=0,
        ),
    )


def _format_trial_dir(trial: Any) -> str:
    """Of Tune's own folder; what waited at a rung and goes on is another trial to it."""
    return f"{trial.config[TRIAL_NUMBER_KEY]}_{trial.trial_id}"


def _parse_trial_number(result: tune.Result) -> str:
    """Read from that folder's name: of a trial that never reported, Tune knows no settings."""
    return Path(result.path).name.partition("_")[0]


def _build_scheduler(plan: StudyPlan, search: SearchConfig) -> StoppingRuleScheduler | None:
    """Build the stopping rule and replay the scores of earlier commands' trials."""
    rule = rebuild_stopping_rule(plan.folder, search, epochs=plan.base_experiment.optim.epochs)
    if rule is None:
        return None
    return StoppingRuleScheduler(rule, plan.folder, rule_name=search.scheduler)
