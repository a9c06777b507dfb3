"""A study: its trials on disk and in MLflow, and which one was best."""

import csv
import json
import math
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hrnet_ray.config import Experiment, flatten, override
from hrnet_ray.distributed.training.mlflow_run import open_run, vouch_for_model
from hrnet_ray.distributed.training.run_summary import conclude
from hrnet_ray.distributed.tuning.latency import LATENCY
from hrnet_ray.distributed.tuning.search_config import Search
from hrnet_ray.distributed.tuning.trial_records import (
    TrialNote,
    read_note,
    read_notes,
    trials_folder,
)
from hrnet_ray.distributed.tuning.trial_runner import Plan
from hrnet_ray.errors import DivergedError
from hrnet_ray.reports.study import study_report
from hrnet_ray.runs.event_log import read_epochs, tolerated
from hrnet_ray.runs.run_dir import ARTIFACTS, write_summary
from hrnet_ray.tracking import Board, Run

Trial = dict[str, Any]
"""A line of trials.csv: folder, what was drawn, metric, score, best_epoch, epochs, error,
stopped_by, started_at, seconds, latency_ms; on_front where a study searched for quick models."""


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
        """Give every run its honest end; without a study, whatever had not ended is `failed`."""
        trials = {trial["folder"]: trial for trial in study.trials} if study else {}
        for name in trials:  # also those that ended in an earlier command
            self._child(trials_folder(self.plan.folder) / name)
        cut = {
            trials_folder(self.plan.folder) / note.number: "FAILED" if note.error else "FINISHED"
            for note in read_notes(self.plan.folder).values()
            if note.state == "done"
        }
        for folder, run in self.children.items():
            vouch_for_model(run, folder)
            run.log_folder(folder, only=ARTIFACTS)
            run.finish(self._ending(run, trials[folder.name]) if study else cut.get(folder, failed))
        if study:
            best = study.best
            drawn = {name: best[name] for name in self.searched if _is_number(best[name])}
            self.parent.log_summary(
                {f"best.{study.main}": best["score"]}
                | {f"best.{name}": float(value) for name, value in drawn.items()},
                tags={"best.trial": best["folder"]},
            )
            vouch_for_model(self.parent, self.plan.folder)
            self.parent.log_folder(
                self.plan.folder, only=(*ARTIFACTS, "trials.csv", study_report.REPORT)
            )
        self.parent.finish("FINISHED" if study else failed)

    def _ending(self, run: Run, trial: Trial) -> str:
        if trial["error"]:
            run.log_summary({}, tags={"error": trial["error"]})
            return "FAILED"
        if trial["stopped_by"]:
            stopped_at = {f"{trial['stopped_by']}.stopped_at": str(trial["epochs"])}
            run.log_summary({}, tags=stopped_at | {"stopped_by": trial["stopped_by"]})
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
                tags={"ray.trial_id": read_note(folder).ray_trial},
            )
        return self.children[folder]

    def _name(self, folder: Path) -> str:
        drawn = json.loads((folder / "resolved.json").read_text(encoding="utf-8"))["drawn"]
        return f"#{folder.name} " + " ".join(
            f"{name.rsplit('.', 1)[-1]}={_short(value)}" for name, value in drawn.items()
        )


def conclude_study(plan: Plan, searched: list[str], search: Search) -> Study:
    """Read what the trials recorded; write trials.csv, summary.json, the report and the best model.

    Raises:
        DivergedError: no trial ended with a score.
    """
    trials = [
        _trial(plan, note, searched)
        for note in read_notes(plan.folder).values()
        if (trials_folder(plan.folder) / note.number / "resolved.json").is_file()  # it was begun
    ]
    scored = [trial for trial in trials if math.isfinite(trial["score"])]
    if not scored:
        causes = [trial["error"] for trial in trials]
        raise DivergedError(
            "no trial ended with a score",
            f"{plan.folder}: {(causes or ['no trial was started'])[0][:200]}",
            "try one setting with `hrnet-ray train`, then narrow the search space",
        )
    if search.against_latency:
        mark_front(trials)
    trials.sort(key=lambda trial: -trial["score"] if math.isfinite(trial["score"]) else math.inf)
    study = Study(plan.folder, trials[0]["metric"], trials)
    _write(plan, study, searched)
    return study


def mark_front(trials: list[Trial]) -> None:
    """Mark the trials that no other one beats in both score and latency (the Pareto front)."""
    for trial in trials:
        own = trial["score"], -(trial["latency_ms"] or math.inf)
        others = [(t["score"], -(t["latency_ms"] or math.inf)) for t in trials if t is not trial]
        beaten = any(a >= own[0] and b >= own[1] and (a, b) != own for a, b in others)
        trial["on_front"] = math.isfinite(sum(own)) and not beaten


def _trial(plan: Plan, note: TrialNote, searched: list[str]) -> Trial:
    """One line of trials.csv; a trial that failed stands there too, with its reason."""
    folder = trials_folder(plan.folder) / note.number
    epochs = read_epochs(folder)
    drawn = {name: note.drawn[name] for name in searched}
    trial = {"folder": note.number, **drawn, "metric": "", "score": math.nan, "best_epoch": -1}
    trial |= {"epochs": len(epochs), "error": note.error}
    try:
        outcome = conclude(folder, override(plan.base, drawn))
        trial |= {"metric": outcome.main, "best_epoch": outcome.best_epoch}
        if not note.diverged:  # what it was worth before says nothing of its settings
            trial["score"] = outcome.best
    except DivergedError as no_score:
        trial["error"] = note.error or no_score.what
    stopped_by = note.stopped_by or ("time_budget" if note.state == "running" else "")
    whole = trial["error"] or len(epochs) == plan.base.optim.epochs
    return trial | {
        "stopped_by": "" if whole else stopped_by,
        "started_at": datetime.fromtimestamp(note.began_at, UTC).isoformat(timespec="seconds"),
        "seconds": round(note.seconds, 1),
        "latency_ms": epochs[-1].get(LATENCY) if epochs else None,
    }


def _write(plan: Plan, study: Study, searched: list[str]) -> None:
    folder, best = plan.folder, study.best
    with (folder / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(best))
        table.writeheader()
        table.writerows(study.trials)
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
    with tolerated(folder, study_report.REPORT):
        study_report.write(folder, defaults=flatten(Experiment()))


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
