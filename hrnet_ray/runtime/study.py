"""A study: its trials on disk and in MLflow, and which one was best."""

import csv
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from hrnet_ray.config import Cluster, Experiment, override
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.errors import DivergedError
from hrnet_ray.inference import plots
from hrnet_ray.runtime.machines import Share
from hrnet_ray.runtime.run_folder import ARTIFACTS, write_summary
from hrnet_ray.runtime.tracked import open_run
from hrnet_ray.runtime.train import conclude
from hrnet_ray.tracking import Board, Run

Trial = dict[str, Any]
"""folder, what was drawn, score, best_epoch, epochs, error: a line of trials.csv."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every trial is told. Plain values: it travels to other machines."""

    base: Experiment
    cluster: Cluster
    manifest: Manifest
    folder: Path
    share: Share


@dataclass(frozen=True)
class Study:
    """What a search came to. `trials` are best first."""

    folder: Path
    main: str
    trials: list[Trial]

    @property
    def best(self) -> Trial:
        return self.trials[0]


class Records:
    """The study and its trials in MLflow: a parent run and its children, told by the driver."""

    def __init__(self, board: Board, plan: Plan, searched: list[str]) -> None:
        self.board, self.plan, self.searched = board, plan, searched
        self.parent = open_run(
            board,
            plan.folder,
            plan.base,
            plan.manifest,
            kind="study",
            workers=plan.cluster.workers,
        )
        self.children: dict[Path, Run] = {}

    def folders(self) -> dict[str, Path]:
        """The trials that have begun, by the name to print."""
        begun = sorted((self.plan.folder / "trials").glob("*/resolved.json"))
        return {f"{self._name(path.parent)}  ": path.parent for path in begun}

    def on_epoch(self, folder: Path, entry: dict[str, Any]) -> None:
        """See that a trial with its first epoch has its run; MLflow is told by a thread."""
        self._child(folder)

    def finish(self, study: Study | None = None, *, failed: str = "FAILED") -> None:
        """Give every run its honest end; without a study, all of them ended as `failed`."""
        trials = {trial["folder"]: trial for trial in study.trials} if study else {}
        for folder, run in self.children.items():
            run.log_folder(folder, only=ARTIFACTS)
            run.finish(self._ending(run, trials[folder.name]) if study else failed)
        if study:
            best = study.best
            drawn = {name: best[name] for name in self.searched if _is_number(best[name])}
            self.parent.log_summary(
                {f"best.{study.main}": best["score"]}
                | {f"best.{name}": float(value) for name, value in drawn.items()},
                tags={"best.trial": best["folder"]},
            )
            self.parent.log_folder(self.plan.folder, only=(*ARTIFACTS, "trials.csv"))
        self.parent.finish("FINISHED" if study else failed)

    def _ending(self, run: Run, trial: Trial) -> str:
        if trial["error"]:
            run.log_summary({}, tags={"error": trial["error"]})
            return "FAILED"
        if trial["epochs"] < self.plan.base.optim.epochs:
            run.log_summary({}, tags={"asha.stopped_at": str(trial["epochs"])})
        return "FINISHED"

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
                workers=self.plan.cluster.workers,
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


def conclude_study(plan: Plan, searched: list[str], results: tune.ResultGrid) -> Study:
    """Read what the trials recorded; write trials.csv, summary.json, the plot and the best model.

    Raises:
        DivergedError: no trial ended with a score.
    """
    failed = {Path(r.path).name: _last_line(r.error) for r in results if r.error and r.path}
    begun = sorted((plan.folder / "trials").glob("*/resolved.json"))
    trials = [_trial(plan, path.parent, searched, failed) for path in begun]
    scored = [trial for trial in trials if math.isfinite(trial["score"])]
    if not scored:
        causes = [trial["error"] for trial in trials] + list(failed.values())
        raise DivergedError(
            "no trial ended with a score",
            f"{plan.folder}: {(causes or ['no trial was started'])[0][:200]}",
            "try one setting with `hrnet-ray train`, then narrow the search space",
        )
    trials.sort(key=lambda trial: -trial["score"] if math.isfinite(trial["score"]) else math.inf)
    study = Study(plan.folder, scored[0]["metric"], trials)
    _write(plan, study, searched)
    return study


def _trial(plan: Plan, folder: Path, searched: list[str], failed: dict[str, str]) -> Trial:
    """One line of trials.csv; a trial that failed stands there too, with its reason."""
    drawn = json.loads((folder / "resolved.json").read_text(encoding="utf-8"))["drawn"]
    trial = {"folder": folder.name, **{name: drawn[name] for name in searched}}
    error = failed.get(folder.name, "")
    try:
        outcome = conclude(folder, override(plan.base, drawn))
    except DivergedError as no_score:
        nothing = {"metric": "", "score": math.nan, "best_epoch": -1, "epochs": 0}
        return trial | nothing | {"error": error or no_score.what}
    return trial | {
        "metric": outcome.main,
        "score": outcome.best,
        "best_epoch": outcome.best_epoch,
        "epochs": outcome.epochs,
        "error": error,
    }


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:200]


def _write(plan: Plan, study: Study, searched: list[str]) -> None:
    folder, best = plan.folder, study.best
    with (folder / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(best))
        table.writeheader()
        table.writerows(study.trials)
    if {"optim.lr", "heatmap.sigma"} <= set(searched):
        scored = [trial for trial in study.trials if math.isfinite(trial["score"])]
        plots.lr_against_sigma(folder / "plots" / "lr_sigma.png", scored, of=study.main)
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


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
