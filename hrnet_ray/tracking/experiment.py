"""The driver's side: the record of a run goes to the run's folder, and a thread syncs MLflow.

Nothing here waits for a server or fails because of one. Only the end of a run gives the thread a
few seconds, and reports what is left to sync.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hrnet_ray.errors import UsageError
from hrnet_ray.runs.event_log import read_metrics
from hrnet_ray.text import redact_secrets
from hrnet_ray.tracking.run_record import (
    ABANDONED_TAGS,
    RUNNING_STATUS,
    DatasetVersion,
    RunRecord,
    SummaryMetric,
    find_run_dirs,
    get_or_create_run_key,
    read_run_record,
    write_run_record,
)

if TYPE_CHECKING:
    from hrnet_ray.tracking.system_metrics import SystemMetricsSampler

URI_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
FLUSH_TIMEOUT_S, INTERRUPTED_FLUSH_TIMEOUT_S, DATABASE_FLUSH_TIMEOUT_S = 15.0, 2.0, 60.0
"""Seconds that the end of a run waits for MLflow: for a server, for a server after an interrupt, and
for a database file, which depends on no network."""

logger = logging.getLogger("hrnet_ray.tracking")


def default_tracking_uri(storage_dir: Path) -> str:
    """The MLflow store used where no server is named: a file in the storage folder."""
    return f"sqlite:///{storage_dir.absolute() / 'mlflow.db'}"


class MlflowExperiment:
    """One MLflow experiment: all runs on one data set, so that they can be compared."""

    def __init__(self, experiment_name: str, *, storage_dir: Path, tracking_uri: str | None) -> None:
        # mlflow costs two seconds; only the driver pays them, and its threads import nothing.
        from hrnet_ray.tracking.sync_thread import BackgroundSync

        self.experiment_name, self.storage_dir, self.tracking_uri = (
            experiment_name,
            storage_dir,
            tracking_uri,
        )
        self.background_sync: BackgroundSync = BackgroundSync(tracking_uri or default_tracking_uri(storage_dir))
        self.metrics_sampler: SystemMetricsSampler | None = None

    @classmethod
    def open_for_dataset(cls, dataset_name: str, *, storage_dir: Path, tracking_uri: str | None) -> "MlflowExperiment":
        """The experiment `hrnet/<data set>`. No server is asked: it may come back later.

        Raises:
            UsageError: this can be no address of an MLflow store.
        """
        if tracking_uri:
            validate_tracking_uri(tracking_uri)
        return cls(f"hrnet/{dataset_name}", storage_dir=storage_dir, tracking_uri=tracking_uri)

    def start_system_metrics(self, folder: Path) -> None:
        """Note how busy this machine is, in the folder of a run."""
        from hrnet_ray.tracking.system_metrics import SystemMetricsSampler

        if self.metrics_sampler is None:
            self.metrics_sampler = SystemMetricsSampler(folder)

    def flush_and_close(self, folder: Path, *, interrupted: bool) -> None:
        """Wait a little for the sync to finish, and report in one line what remains."""
        if self.metrics_sampler:
            self.metrics_sampler.stop_sampling()
        within_s = INTERRUPTED_FLUSH_TIMEOUT_S if interrupted else FLUSH_TIMEOUT_S
        if not self.tracking_uri:
            within_s = DATABASE_FLUSH_TIMEOUT_S
        if left := self.background_sync.flush_and_stop(timeout_s=within_s):
            print(_format_unsynced(left, self.background_sync.last_error, folder), flush=True)


class RunLogger:
    """A handle on one run: a training, a study, or one of its trials."""

    def __init__(self, mlflow_experiment: MlflowExperiment, folder: Path, record: RunRecord) -> None:
        self.mlflow_experiment, self.folder = mlflow_experiment, folder
        self._record = record
        self._write_record(record)

    @classmethod
    def open_or_resume(
        cls,
        mlflow_experiment: MlflowExperiment,
        folder: Path,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[DatasetVersion] = (),
        parent_run: "RunLogger | None" = None,
    ) -> "RunLogger":
        """Begin the story of a folder, or go on with it: the same folder is always the same run.

        One that was removed and made again is another. Settings and name stay those of the first
        time; tags are those of the last.
        """
        story = _try_read_record(folder) or RunRecord(
            experiment_name=mlflow_experiment.experiment_name,
            storage_relpath=os.path.relpath(mlflow_experiment.storage_dir, folder),
            run_key=get_or_create_run_key(folder),
            name=name,
            started_ms=_get_time_ms(),
            params={name: redact_secrets(str(value)) for name, value in params.items()},
            datasets=tuple(datasets),
            parent_relpath=os.path.relpath(parent_run.folder, folder) if parent_run else None,
        )
        uri = mlflow_experiment.tracking_uri
        address = redact_secrets(uri, {}) if uri else None
        run = cls(
            mlflow_experiment,
            folder,
            replace(story, tracking_uri=address, tags=_redact_tags(tags), status=RUNNING_STATUS),
        )
        if parent_run is None:
            mlflow_experiment.start_system_metrics(folder)
        mlflow_experiment.background_sync.watch_run_dir(folder)
        return run

    def log_summary(self, metrics: Mapping[str, float], *, tags: Mapping[str, str]) -> None:
        """Note what the whole run came to, and mark it."""
        known, now = self._record.summary_metrics, _get_time_ms()
        fresh = {
            name: SummaryMetric(value=value, at_ms=now)
            for name, value in metrics.items()
            if name not in known or known[name].value != value
        }
        tags = self._record.tags | _redact_tags(tags)
        self._write_record(replace(self._record, summary_metrics=known | fresh, tags=tags))

    def log_artifacts(self, folder: Path, *, relative_paths: tuple[str, ...]) -> None:
        """Copy files and folders of the run's own tree, under the same names."""
        self._write_record(replace(self._record, artifact_paths=relative_paths))

    def finish_run(self, status: str) -> None:
        """FINISHED, FAILED or KILLED. It is the last word on a study, or on a run by itself."""
        at_ms, last = self._record.ended_ms, find_last_activity_ms(self.folder)
        if self._record.parent_relpath and last:
            at_ms = last  # a study ends all its trials at once, when it ends itself
        elif at_ms is None or at_ms < last:  # else nothing came to it since it ended before
            at_ms = _get_time_ms()
        self._write_record(replace(self._record, status=status, ended_ms=at_ms))
        if self._record.parent_relpath is None:
            mark_abandoned_runs(find_run_dirs(self.folder)[1:])
            self.mlflow_experiment.flush_and_close(self.folder, interrupted=status == "KILLED")

    def _write_record(self, record: RunRecord) -> None:
        self._record = record
        try:
            write_run_record(self.folder, record)
        except OSError as error:
            logger.warning("not noted for MLflow: %s (%s)", self.folder, error.strerror or error)


def mark_abandoned_runs(folders: Sequence[Path]) -> None:
    """Mark runs as ended whose command is gone and could not record how they ended."""
    for folder in folders:
        story = _try_read_record(folder)
        if story and story.status == RUNNING_STATUS:
            at_ms = find_last_activity_ms(folder) or story.started_ms
            tags = story.tags | ABANDONED_TAGS
            write_run_record(folder, replace(story, status="KILLED", ended_ms=at_ms, tags=tags))


def find_last_activity_ms(folder: Path) -> int:
    """When the last epoch of a run, or of any trial of a study, was recorded; 0 if none was."""
    times = [e.get("at_ms", 0) for run in find_run_dirs(folder) for e in read_metrics(run)]
    return max(times, default=0)


def validate_tracking_uri(uri: str) -> None:
    """Refuse what can be no MLflow store.

    Raises:
        UsageError: it names no server and no database.
    """
    parts = urlsplit(uri)
    known = parts.scheme.split("+")[0] in URI_SCHEMES and (parts.netloc or parts.path)
    if not known and uri != "databricks":
        raise UsageError(
            "no address of an MLflow server or database",
            f"--cluster.tracking-uri {redact_secrets(uri)}",
            "give http://HOST:PORT or sqlite:///FILE, or leave it out: then it is a file in the storage folder",
        )


def _try_read_record(folder: Path) -> RunRecord | None:
    """Read the record; an unreadable one is written anew, and leads to the same MLflow run."""
    try:
        return read_run_record(folder)
    except (OSError, ValueError):
        return None


def _redact_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: redact_secrets(value) for name, value in tags.items()}


def _format_unsynced(unsynced: Counter[str], reason: str, folder: Path) -> str:
    counts = ", ".join(f"{count} {what}" for what, count in unsynced.items())
    command = f"hrnet-ray mlflow-sync {os.path.relpath(folder)}"
    why = reason or "it is slow"
    return f"MLflow sync incomplete: {counts} ({why}). To finish: {command}"


def _get_time_ms() -> int:
    return int(time.time() * 1000)
