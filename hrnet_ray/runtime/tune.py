"""Many experiments that differ in what is searched for, and which one was best."""

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.data import Dataset
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from hrnet_ray.config import Cluster, Experiment, flatten, override
from hrnet_ray.data.shards import Manifest, read_manifest
from hrnet_ray.errors import DivergedError, UsageError
from hrnet_ray.inference import plots
from hrnet_ray.runtime.hosts import TrialHost
from hrnet_ray.runtime.ingest import datasets
from hrnet_ray.runtime.machines import DRIVER_CPUS, Share, connect, runs_at_once, share_of
from hrnet_ray.runtime.progress import Watch
from hrnet_ray.runtime.run_folder import ARTIFACTS, open_run_folder, write_summary
from hrnet_ray.runtime.train import (
    announce,
    check,
    conclude,
    open_run,
    track_epoch,
    train_once,
)
from hrnet_ray.runtime.worker import Job, train_worker
from hrnet_ray.tracking import Board, Run

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


@dataclass(frozen=True)
class Study:
    """What a search came to. `trials` are best first."""

    folder: Path
    main: str
    trials: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any]:
        return self.trials[0]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every trial is told. Plain values: it travels to other machines."""

    base: Experiment
    cluster: Cluster
    manifest: Manifest
    folder: Path
    share: Share


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
        with Watch(records.folders, epochs=base.optim.epochs, on_epoch=records.on_epoch):
            data = datasets(manifest, base.data)
            results = _tuner(plan, space, search, at_once, data).fit()
        study = _conclude(plan, list(space), results)
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


def run_trial(drawn: dict[str, Any], *, plan: Plan, data: dict[str, Dataset]) -> None:
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
        run_folder=folder,
        threads=plan.share.threads,
        host=TrialHost(folder, data),
    )
    train_worker({"job": job})


def _tuner(
    plan: Plan, space: Space, search: Search, at_once: int, data: dict[str, Dataset]
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


class Records:
    """The study and its trials in MLflow: a parent run and its children, told by the driver."""

    def __init__(self, board: Board, plan: Plan, searched: list[str]) -> None:
        self.board, self.plan, self.searched = board, plan, searched
        self.parent = open_run(board, plan.folder, plan.base, plan.manifest, kind="study")
        self.children: dict[Path, Run] = {}

    def folders(self) -> dict[str, Path]:
        """The trials that have begun, by the name to print."""
        begun = sorted((self.plan.folder / "trials").glob("*/resolved.json"))
        return {f"{self._name(path.parent)}  ": path.parent for path in begun}

    def on_epoch(self, folder: Path, entry: dict[str, Any]) -> None:
        """Copy an epoch of a trial into its run."""
        track_epoch(self._child(folder), folder, entry)

    def finish(self, study: Study | None = None, *, failed: str = "FAILED") -> None:
        """Give every run its honest end."""
        for folder, run in self.children.items():
            entry = (
                next((t for t in study.trials if t["folder"] == folder.name), None)
                if study
                else None
            )
            if entry and entry["epochs"] < self.plan.base.optim.epochs and not entry["error"]:
                run.log_summary({}, tags={"asha.stopped_at": str(entry["epochs"])})
            run.log_folder(folder, only=ARTIFACTS)
            run.finish("FAILED" if entry and entry["error"] else "FINISHED" if study else failed)
        if study:
            best = study.best
            self.parent.log_summary(
                {f"best.{study.main}": best["score"]}
                | {
                    f"best.{name}": float(best[name])
                    for name in self.searched
                    if _number(best[name])
                },
                tags={"best.trial": best["folder"]},
            )
            self.parent.log_folder(self.plan.folder, only=(*ARTIFACTS, "trials.csv"))
        self.parent.finish("FINISHED" if study else failed)

    def _child(self, folder: Path) -> Run:
        if folder not in self.children:
            settings = json.loads((folder / "resolved.json").read_text(encoding="utf-8"))
            settings.pop("drawn")
            self.children[folder] = open_run(
                self.board,
                folder,
                self.plan.base,
                self.plan.manifest,
                kind="trial",
                name=self._name(folder),
                parent=self.parent,
                params=settings,
            )
        return self.children[folder]

    def _name(self, folder: Path) -> str:
        drawn = json.loads((folder / "resolved.json").read_text(encoding="utf-8"))["drawn"]
        return f"#{folder.name} " + " ".join(
            f"{name.rsplit('.', 1)[-1]}={_short(value)}" for name, value in drawn.items()
        )


def _conclude(plan: Plan, searched: list[str], results: tune.ResultGrid) -> Study:
    trials, errors, main = [], [], ""
    for path in sorted((plan.folder / "trials").glob("*/resolved.json")):
        folder = path.parent
        drawn = json.loads(path.read_text(encoding="utf-8"))["drawn"]
        try:
            outcome = conclude(folder, override(plan.base, drawn))
        except DivergedError as error:
            errors.append(str(error))
            continue
        main = outcome.main
        trials.append(
            {
                "folder": folder.name,
                **{name: drawn[name] for name in searched},
                "score": outcome.best,
                "best_epoch": outcome.best_epoch,
                "epochs": outcome.epochs,
                "error": "",
            }
        )
    if not trials:
        causes = [str(result.error).strip().splitlines()[-1] for result in results if result.error]
        raise DivergedError(
            "no trial ended with a score",
            f"{plan.folder}: {(causes or errors or ['no trial was started'])[0][:200]}",
            "try one setting with `hrnet-ray train`, then narrow the search space",
        )
    trials.sort(key=lambda trial: -trial["score"])
    study = Study(plan.folder, main, trials)
    _write(plan, study, searched)
    return study


def _write(plan: Plan, study: Study, searched: list[str]) -> None:
    folder, best = plan.folder, study.best
    with (folder / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(best))
        table.writeheader()
        table.writerows(study.trials)
    if {"optim.lr", "heatmap.sigma"} <= set(searched):
        plots.lr_against_sigma(folder / "plots" / "lr_sigma.png", study.trials, of=study.main)
    for name in ("model", "predictions"):
        shutil.copytree(
            folder / "trials" / best["folder"] / name, folder / name, dirs_exist_ok=True
        )
    summary = {
        "name": plan.base.name,
        "metric": study.main,
        "best": best["score"],
        "best_trial": best["folder"],
        **{name: best[name] for name in searched},
        "trials": study.trials,
    }
    write_summary(folder, summary)


def _plain(sampler: Any) -> Any:
    """What a sampler draws from, in words that stay the same from run to run."""
    if not hasattr(sampler, "sampler"):
        return sampler
    bounds = {k: v for k, v in vars(sampler).items() if k in ("lower", "upper", "categories")}
    return {"kind": type(sampler.get_sampler()).__name__.strip("_"), **bounds}


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
