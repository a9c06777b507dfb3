"""Many experiments that differ in what is searched for, and which one was best."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from hrnet_ray.config import Cluster, Experiment, flatten, override
from hrnet_ray.data.manifest import Manifest, read_manifest
from hrnet_ray.errors import UsageError
from hrnet_ray.runtime.hosts import TrialHost
from hrnet_ray.runtime.ingest import Stored, load
from hrnet_ray.runtime.lease import Lease
from hrnet_ray.runtime.machines import DRIVER_CPUS, connect, runs_at_once, share_of
from hrnet_ray.runtime.progress import Watch
from hrnet_ray.runtime.run_folder import made_with, open_run_folder
from hrnet_ray.runtime.stopping import stoppable
from hrnet_ray.runtime.study import Plan, Records, Study, conclude_study
from hrnet_ray.runtime.train import (
    announce,
    check,
    train_once,
)
from hrnet_ray.runtime.worker import Job, train_worker
from hrnet_ray.tracking import Board

Space = Mapping[str, Any]
"""Dotted settings to Tune's samplers: `{"optim.lr": tune.loguniform(1e-4, 3e-3)}`."""

OBJECTIVE = "objective"  # what a worker calls its main validation metric; see worker.py


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a study looks for its best trial."""

    trials: int = 24
    at_once: int | None = None
    """Trials that train at the same time; by default as many as do not starve each other."""
    grace_epochs: int = 10
    """No trial is stopped before this."""
    reduction: int = 3
    """Of the trials that reach a rung, one in so many goes on."""
    early_stopping: bool = True
    seed: int = 0
    time_budget_s: float | None = None


def sweep(base: Experiment, space: Space, cluster: Cluster, search: Search) -> Study:
    """Train variants of `base` with settings drawn from `space`; stop the hopeless ones early.

    The same command goes on where it stopped: finished trials stay, others continue from their
    last checkpoint.

    Raises:
        HrnetRayError: the data, the settings or the machines do not fit.
    """
    check_space(base, space)
    manifest = read_manifest(base.data.root)
    check(base, cluster, manifest)
    searched = {name: repr(_plain(sampler)) for name, sampler in space.items()}
    folder = open_run_folder(base, cluster, manifest, searched=searched)
    with Lease(folder):
        return _sweep_in(folder, base, space, cluster, search, manifest)


def _sweep_in(
    folder: Path,
    base: Experiment,
    space: Space,
    cluster: Cluster,
    search: Search,
    manifest: Manifest,
) -> Study:
    connect(cluster)
    have = ray.cluster_resources()
    at_once = search.at_once or runs_at_once(cluster, have, trials=search.trials)
    share = share_of(cluster, have, at_once=at_once)
    plan = Plan(base=base, cluster=cluster, manifest=manifest, folder=folder, share=share)
    board = Board.open(
        manifest.name, storage=Path(cluster.storage), tracking_uri=cluster.tracking_uri
    )
    records = Records(board, plan, list(space))
    announce(base, manifest, folder)
    print(
        f"searching {', '.join(space)}: {search.trials} trials of at most {base.optim.epochs} "
        f"epochs, {at_once} at once"
    )
    try:
        watch = Watch(records.folders, epochs=base.optim.epochs, on_epoch=records.on_epoch)
        with stoppable(), watch:
            data = load(manifest, base.data)
            results = _tuner(plan, space, search, at_once, data).fit()
        study = conclude_study(plan, list(space), results)
    except BaseException as error:
        records.finish(failed="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    records.finish(study)
    return study


def check_space(base: Experiment, space: Space) -> None:
    """Refuse a search over what is no setting.

    Raises:
        UsageError: a name is misspelt (the nearest one is given), or nothing is searched.
    """
    if not space:
        raise UsageError("nothing to search", "an empty search space", "give it a setting")
    override(base, {name: flatten(base).get(name) for name in space})


def run_trial(drawn: dict[str, Any], *, plan: Plan, data: dict[str, Stored]) -> None:
    """One Tune trial: a Ray Train run of its own, or, with one worker, in this very process."""
    label = Path(tune.get_context().get_trial_dir()).name
    experiment = override(plan.base, drawn | {"name": f"{plan.base.name}/trials/{label}"})
    folder = plan.folder / "trials" / label
    folder.mkdir(parents=True, exist_ok=True)
    settings = flatten(experiment) | {"drawn": drawn}
    (folder / "resolved.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    if plan.cluster.workers > 1:
        report = TuneReportCallback()
        train_once(
            experiment,
            plan.cluster,
            plan.share,
            plan.manifest,
            folder,
            data,
            callbacks=[report],
        )
        return
    job = Job(
        experiment=experiment,
        manifest=plan.manifest,
        data=data,
        run_folder=folder,
        threads=plan.share.threads,
        write_order=plan.cluster.write_order,
        host=TrialHost(folder, made_with(experiment, plan.manifest, workers=1)),
    )
    train_worker({"job": job})


def _tuner(
    plan: Plan, space: Space, search: Search, at_once: int, data: dict[str, Stored]
) -> tune.Tuner:
    nested = plan.cluster.workers > 1
    needs = {"CPU": DRIVER_CPUS if nested else plan.share.cpus}
    if plan.share.gpus and not nested:
        needs["GPU"] = plan.share.gpus
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, plan=plan, data=data),  # one copy for all trials
        needs,
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = plan.folder / "tune"
    if tune.Tuner.can_restore(str(path)):
        return tune.Tuner.restore(
            str(path), trainable=trainable, resume_unfinished=True, resume_errored=True
        )
    return tune.Tuner(
        trainable,
        param_space=dict(space),
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE,
            mode="max",
            num_samples=search.trials,
            max_concurrent_trials=at_once,
            search_alg=OptunaSearch(seed=search.seed),
            scheduler=_scheduler(search, plan.base.optim.epochs),
            time_budget_s=search.time_budget_s,
            trial_dirname_creator=_label,
        ),
        run_config=tune.RunConfig(
            name=path.name,
            storage_path=str(path.parent),
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )


def _label(trial: Any) -> str:
    """The number of a trial in its study, counted from 1; a restored trial keeps its own."""
    return f"{int(trial.experiment_tag.split('_')[0]):02d}"


def _scheduler(search: Search, epochs: int) -> TrialScheduler | None:
    if not search.early_stopping:
        return None
    return ASHAScheduler(
        time_attr="epochs_done",  # Tune's own count starts anew when a trial is restored
        max_t=epochs + 1,  # at `epochs` it would kill trials while they tidy up
        grace_period=min(search.grace_epochs, epochs),
        reduction_factor=search.reduction,
    )


def _plain(sampler: Any) -> Any:
    """What a sampler draws from, in words that stay the same from run to run."""
    if not hasattr(sampler, "sampler"):
        return sampler
    bounds = {k: v for k, v in vars(sampler).items() if k in ("lower", "upper", "categories")}
    return {"kind": type(sampler.get_sampler()).__name__.strip("_"), **bounds}
