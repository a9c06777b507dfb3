"""A study: its trials on disk and in MLflow, and which one was best."""

import csv
import json
import math
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hrnet_ray.config import ExperimentConfig, flatten_config, with_overrides
from hrnet_ray.distributed.training.mlflow_run import open_mlflow_run, tag_model_hashes
from hrnet_ray.distributed.training.run_summary import summarize_run
from hrnet_ray.distributed.tuning.latency import LATENCY_METRIC
from hrnet_ray.distributed.tuning.search_config import SearchConfig
from hrnet_ray.distributed.tuning.trial_records import (
    TrialRecord,
    get_trials_dir,
    read_trial_record,
    read_trial_records,
)
from hrnet_ray.distributed.tuning.trial_runner import StudyPlan
from hrnet_ray.errors import TrainingDivergedError
from hrnet_ray.reports.study import study_report
from hrnet_ray.runs.event_log import ignore_write_errors, read_metrics
from hrnet_ray.runs.run_dir import ARTIFACTS, write_summary
from hrnet_ray.tracking import MlflowExperiment, RunLogger

TrialRow = dict[str, Any]
"""A line of trials.csv: folder, sampled settings, metric, score, epe_px, best_epoch, epochs, error,
stopped_by, started_at, seconds, latency_ms; pareto_optimal where a study searched for quick models."""


@dataclass(frozen=True)
class StudyResult:
    """What a search came to. `trials` are best first."""

    folder: Path
    primary_metric: str
    trials: list[TrialRow]

    @property
    def best_trial(self) -> TrialRow:
        return self.trials[0]


class StudyRunLogger:
    """The study and its trials in MLflow: a parent run and its child runs, logged by the driver."""

    def __init__(self, mlflow_experiment: MlflowExperiment, plan: StudyPlan, searched_settings: list[str]) -> None:
        self.mlflow_experiment, self.plan, self.searched_settings = (
            mlflow_experiment,
            plan,
            searched_settings,
        )
        self.parent_run = open_mlflow_run(
            mlflow_experiment,
            plan.folder,
            plan.base_experiment,
            plan.manifest,
            kind="study",
            num_workers=plan.cluster.num_workers,
        )
        self.trial_runs: dict[Path, RunLogger] = {}

    def find_started_trials(self) -> dict[str, Path]:
        """The trials that have begun, by the name to print."""
        begun = sorted((self.plan.folder / "trials").glob("*/resolved_config.json"))
        return {f"{self._format_run_name(path.parent)}  ": path.parent for path in begun}

    def on_epoch(self, folder: Path, entry: dict[str, Any]) -> None:
        """Open the run of a trial at its first epoch; a thread syncs it to MLflow."""
        self._get_trial_run(folder)

    def finish_all_runs(self, result: StudyResult | None = None, *, failed_status: str = "FAILED") -> None:
        """End every run; without a study, runs that had not ended get the status `failed`."""
        trials = {trial["folder"]: trial for trial in result.trials} if result else {}
        for name in trials:  # also those that ended in an earlier command
            self._get_trial_run(get_trials_dir(self.plan.folder) / name)
        cut = {
            get_trials_dir(self.plan.folder) / note.number: "FAILED" if note.error else "FINISHED"
            for note in read_trial_records(self.plan.folder).values()
            if note.state == "done"
        }
        for folder, run in self.trial_runs.items():
            tag_model_hashes(run, folder)
            run.log_artifacts(folder, relative_paths=ARTIFACTS)
            run.finish_run(
                self._log_trial_status(run, trials[folder.name]) if result else cut.get(folder, failed_status)
            )
        if result:
            best = result.best_trial
            drawn = {name: best[name] for name in self.searched_settings if _is_number(best[name])}
            self.parent_run.log_summary(
                {f"best.{result.primary_metric}": best["score"]}
                | {f"best.{name}": float(value) for name, value in drawn.items()},
                tags={"best.trial": best["folder"]},
            )
            tag_model_hashes(self.parent_run, self.plan.folder)
            self.parent_run.log_artifacts(
                self.plan.folder,
                relative_paths=(*ARTIFACTS, "trials.csv", study_report.REPORT_FILENAME),
            )
        self.parent_run.finish_run("FINISHED" if result else failed_status)

    def _log_trial_status(self, run: RunLogger, trial: TrialRow) -> str:
        if trial["error"]:
            run.log_summary({}, tags={"error": trial["error"]})
            return "FAILED"
        if trial["stopped_by"]:
            stopped_at = {f"{trial['stopped_by']}.stopped_at": str(trial["epochs"])}
            run.log_summary({}, tags=stopped_at | {"stopped_by": trial["stopped_by"]})
        return "FINISHED"

    def _get_trial_run(self, folder: Path) -> RunLogger:
        if folder not in self.trial_runs:
            settings = json.loads((folder / "resolved_config.json").read_text(encoding="utf-8"))
            settings.pop("sampled_params")
            self.trial_runs[folder] = open_mlflow_run(
                self.mlflow_experiment,
                folder,
                self.plan.base_experiment,
                self.plan.manifest,
                kind="trial",
                num_workers=self.plan.cluster.num_workers,
                name=self._format_run_name(folder),
                parent=self.parent_run,
                params=settings,
                tags={"ray.trial_id": read_trial_record(folder).ray_trial_id},
            )
        return self.trial_runs[folder]

    def _format_run_name(self, folder: Path) -> str:
        drawn = json.loads((folder / "resolved_config.json").read_text(encoding="utf-8"))["sampled_params"]
        return f"#{folder.name} " + " ".join(
            f"{name.rsplit('.', 1)[-1]}={_format_short(value)}" for name, value in drawn.items()
        )


def summarize_study(plan: StudyPlan, searched_settings: list[str], search: SearchConfig) -> StudyResult:
    """Read what the trials recorded; write trials.csv, summary.json, the report and the best model.

    Raises:
        DivergedError: no trial ended with a score.
    """
    trials = [
        _build_trial_row(plan, note, searched_settings)
        for note in read_trial_records(plan.folder).values()
        if (get_trials_dir(plan.folder) / note.number / "resolved_config.json").is_file()  # it was begun
    ]
    scored = [trial for trial in trials if math.isfinite(trial["score"])]
    if not scored:
        causes = [trial["error"] for trial in trials]
        raise TrainingDivergedError(
            "no trial ended with a score",
            f"{plan.folder}: {(causes or ['no trial was started'])[0][:200]}",
            "try one setting with `hrnet-ray train`, then narrow the search space",
        )
    if search.optimize_latency:
        mark_pareto_front(trials)
    trials.sort(key=_make_sort_key)
    study = StudyResult(plan.folder, trials[0]["metric"], trials)
    _write_study_files(plan, study, searched_settings)
    return study


def _make_sort_key(trial: TrialRow) -> tuple[float, float]:
    """The best score first; of equal scores, the lowest end-point error; then trials without a score."""
    if not math.isfinite(trial["score"]):
        return math.inf, math.inf
    return -trial["score"], trial["epe_px"] if math.isfinite(trial["epe_px"]) else math.inf


def mark_pareto_front(trials: list[TrialRow]) -> None:
    """Mark the trials that no other one beats in both score and latency (the Pareto front)."""
    for trial in trials:
        own = trial["score"], -(trial["latency_ms"] or math.inf)
        others = [(t["score"], -(t["latency_ms"] or math.inf)) for t in trials if t is not trial]
        beaten = any(a >= own[0] and b >= own[1] and (a, b) != own for a, b in others)
        trial["pareto_optimal"] = math.isfinite(sum(own)) and not beaten


def _build_trial_row(plan: StudyPlan, record: TrialRecord, searched_settings: list[str]) -> TrialRow:
    """One line of trials.csv; a trial that failed stands there too, with its reason."""
    folder = get_trials_dir(plan.folder) / record.number
    epochs = read_metrics(folder)
    drawn = {name: record.sampled_params[name] for name in searched_settings}
    trial = {"folder": record.number, **drawn, "metric": "", "score": math.nan, "epe_px": math.nan, "best_epoch": 0}
    trial |= {"epochs": len(epochs), "error": record.error}
    try:
        outcome = summarize_run(folder, with_overrides(plan.base_experiment, drawn))
        trial |= {"metric": outcome.primary_metric, "best_epoch": outcome.best_epoch}
        if not record.diverged:  # its score before the divergence is no measure of its settings
            trial["score"], trial["epe_px"] = outcome.best_score, outcome.best_epe_px
    except TrainingDivergedError as no_score:
        trial["error"] = record.error or no_score.what
    stopped_by = record.stopped_by or ("time_budget" if record.state == "running" else "")
    whole = trial["error"] or len(epochs) == plan.base_experiment.optim.epochs
    return trial | {
        "stopped_by": "" if whole else stopped_by,
        "started_at": datetime.fromtimestamp(record.first_started_s, UTC).isoformat(timespec="seconds"),
        "seconds": round(record.duration_s, 1),
        "latency_ms": epochs[-1].get(LATENCY_METRIC) if epochs else None,
    }


def _write_study_files(plan: StudyPlan, result: StudyResult, searched_settings: list[str]) -> None:
    folder, best = plan.folder, result.best_trial
    with (folder / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(best))
        table.writeheader()
        table.writerows(result.trials)
    for name in ("model", "predictions"):
        shutil.copytree(folder / "trials" / best["folder"] / name, folder / name, dirs_exist_ok=True)
    summary = {
        "name": plan.base_experiment.name,
        "metric": result.primary_metric,
        "best": best["score"],
        "best_trial": best["folder"],
        **{name: best[name] for name in searched_settings},
        "trials": result.trials,
    }
    write_summary(folder, summary)
    with ignore_write_errors(folder, study_report.REPORT_FILENAME):
        study_report.write_study_report(folder, defaults=flatten_config(ExperimentConfig()))


def _format_short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
