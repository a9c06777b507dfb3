"""Many experiments that differ in what is searched for, and which one was best."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from hrnet_ray.config import Cluster, Experiment, flatten
from hrnet_ray.data.manifest import Manifest, read_manifest
from hrnet_ray.distributed.cluster.autoscaling import resources
from hrnet_ray.distributed.cluster.head_monitor import Vigil
from hrnet_ray.distributed.cluster.resources import (
    DRIVER_CPUS,
    connect,
    described,
    runs_at_once,
    share_of,
)
from hrnet_ray.distributed.data.object_store import Stored, load
from hrnet_ray.distributed.training.run_summary import announce
from hrnet_ray.distributed.training.train import check, check_settings, check_weights
from hrnet_ray.distributed.tuning.samplers import Point, Space, check_space, grid, warm_points
from hrnet_ray.distributed.tuning.schedulers import EarlyStopping
from hrnet_ray.distributed.tuning.search_algorithm import StudySearcher, filled_rule
from hrnet_ray.distributed.tuning.search_config import WITHOUT_MEANING, Search
from hrnet_ray.distributed.tuning.search_space import in_words
from hrnet_ray.distributed.tuning.study import Records, Study, conclude_study
from hrnet_ray.distributed.tuning.trial_records import NUMBER, Diary, amend, ended, failed
from hrnet_ray.distributed.tuning.trial_runner import Plan, run_trial
from hrnet_ray.errors import UsageError
from hrnet_ray.models.pretrained import WeightsReport
from hrnet_ray.runs.event_log import tolerated
from hrnet_ray.runs.lock import Lease
from hrnet_ray.runs.log_capture import logged, storied
from hrnet_ray.runs.progress import Watch
from hrnet_ray.runs.run_dir import note_machines, open_run_folder
from hrnet_ray.runs.signals import apart, saving, stoppable
from hrnet_ray.tracking import Board
from hrnet_ray.training.data_report import look_at_data

__all__ = ["Search", "Space", "Study", "check_space", "sweep"]

TRIES = 2  # of a trial that fails; the second goes on from its last checkpoint


def sweep(base: Experiment, space: Space, cluster: Cluster, search: Search) -> Study:
    """Train variants of `base` with settings drawn from `space`; stop the hopeless ones early.

    The same command goes on where it stopped: finished trials stay, others continue from their
    last checkpoint, failed ones are tried again. Asked for more trials, it adds them.

    Raises:
        HrnetRayError: the data, the settings or the machines do not fit.
    """
    check_space(base, space)
    if search.against_latency and cluster.workers > 1:
        raise UsageError(
            "latency is measured in trials of one worker",
            f"--search.against-latency --cluster.workers {cluster.workers}",
            "use --cluster.workers 1",
        )
    points = _points(base, space, search)
    manifest = read_manifest(base.data.root)
    start = check(base, cluster, manifest)
    check_space(base, space, fits=partial(_check_variant, base, cluster, manifest))
    searched = {name: in_words(sampler) for name, sampler in space.items()}
    searched |= {
        f"search.{name}": repr(value)
        for name, value in flatten(search).items()
        if name not in WITHOUT_MEANING
    }
    folder = open_run_folder(base, cluster, manifest, searched=searched)
    with Lease(folder), logged(folder), storied(folder):
        return _sweep_in(folder, base, space, cluster, search, points, manifest, start)


def _check_variant(base: Experiment, cluster: Cluster, manifest: Manifest, one: Experiment) -> None:
    check_settings(one, cluster, manifest)
    if one.model != base.model:
        check_weights(one, manifest)


def _sweep_in(
    folder: Path,
    base: Experiment,
    space: Space,
    cluster: Cluster,
    search: Search,
    points: Sequence[Point],
    manifest: Manifest,
    start: WeightsReport | None,
) -> Study:
    connect(cluster)
    with tolerated(folder, "environment.json"):
        note_machines(folder, described())
    have = resources(cluster, at_once=search.at_once or 1)
    trials = len(points) if search.sampler == "grid" else search.trials
    at_once = search.at_once or runs_at_once(cluster, have, trials=trials)
    share = share_of(cluster, have, at_once=at_once)
    plan = Plan(
        base=base,
        cluster=replace(cluster, tracking_uri=None),  # may hold a password; trials tell nobody
        manifest=manifest,
        folder=folder,
        share=share,
        started_in=os.getcwd(),
        against_latency=search.against_latency,
    )
    board = Board.open(
        manifest.name, storage=Path(cluster.storage), tracking_uri=cluster.tracking_uri
    )
    records = Records(board, plan, list(space))
    announce(base, manifest, folder, share, start)
    print(
        f"searching {', '.join(space)}: {trials} trials of at most {base.optim.epochs} "
        f"epochs, {at_once} at once\n{search.sentence(base.optim.epochs)}",
        flush=True,
    )
    try:
        with stoppable():
            look_at_data(folder, base, manifest)
        watch = Watch(records.folders, epochs=base.optim.epochs, on_epoch=records.on_epoch)
        vigil = Vigil(cluster, share)
        with stoppable(), vigil, watch:
            searcher = StudySearcher(folder, space, search, points, epochs=base.optim.epochs)
            if searcher.has_more():
                with saving(lambda: records.folders().values(), unless=vigil.lost):
                    _train(plan, search, searcher, at_once)
        study = conclude_study(plan, list(space), search)
    except BaseException as error:
        records.finish(failed="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    records.finish(study)
    return study


def _points(base: Experiment, space: Space, search: Search) -> list[Point]:
    """What is tried first: all of a grid, or the best of earlier studies."""
    if search.sampler == "grid":
        if search.warm_start:
            raise UsageError(
                "a grid tries everything, in no better order",
                f"--search.sampler grid --search.warm-start {' '.join(search.warm_start)}",
                "leave one of them out",
            )
        return grid(space, seed=search.seed)
    points, outside = warm_points(search.warm_start, space, base, most=search.warm_points)
    if search.warm_start:
        left_out = f"; {outside} lie outside the space" if outside else ""
        print(f"first the best of {', '.join(search.warm_start)}: {len(points)} settings{left_out}")
    return points


def _train(plan: Plan, search: Search, searcher: StudySearcher, at_once: int) -> None:
    """Run the trials, and note those that failed."""
    data = load(plan.manifest, plan.base.data)
    results = apart(_tuner(plan, search, searcher, at_once, data).fit)
    for result in results:
        if result.error:
            number = _number_of(result)
            amend(plan.folder, number, partial(failed, error=result.error))
            amend(plan.folder, number, ended)


def _tuner(
    plan: Plan,
    search: Search,
    searcher: StudySearcher,
    at_once: int,
    data: dict[str, Stored],
) -> tune.Tuner:
    nested = plan.cluster.workers > 1
    needs = {"CPU": DRIVER_CPUS if nested else plan.share.cpus}
    if plan.share.gpus and not nested:
        needs["GPU"] = plan.share.gpus
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, plan=plan, data=data),  # one copy for all trials
        needs,
    )
    path = plan.folder / "tune"
    shutil.rmtree(path, ignore_errors=True)  # an earlier command's; trial_notes.py says why
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=-1,  # the searcher says when it is over
            max_concurrent_trials=at_once,
            search_alg=searcher,
            scheduler=_scheduler(plan, search),
            time_budget_s=search.time_budget_s,
            trial_dirname_creator=_label,
            # The next trial takes over the process of one that ended, with torch in it. A nested
            # run may still be tidying up in there when its trial is stopped.
            reuse_actors=not nested,
        ),
        run_config=tune.RunConfig(
            name=path.name,
            storage_path=str(path.parent),
            failure_config=tune.FailureConfig(max_failures=TRIES - 1),
            callbacks=[Diary(plan.folder)],
            verbose=0,
        ),
    )


def _label(trial: Any) -> str:
    """Of Tune's own folder; what waited at a rung and goes on is another trial to it."""
    return f"{trial.config[NUMBER]}_{trial.trial_id}"


def _number_of(result: tune.Result) -> str:
    """Read from that folder's name: of a trial that never reported, Tune knows no settings."""
    return Path(result.path).name.partition("_")[0]


def _scheduler(plan: Plan, search: Search) -> EarlyStopping | None:
    """The rule of early stopping, told what earlier commands' trials came to."""
    rule = filled_rule(plan.folder, search, epochs=plan.base.optim.epochs)
    if rule is None:
        return None
    return EarlyStopping(rule, plan.folder, name=search.scheduler)
