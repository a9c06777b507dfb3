"""Sync what is new of a run to a store: metrics first, large files last."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrnet_ray.runs.event_log import read_jsonl, read_metrics
from hrnet_ray.tracking.mlflow_store import MlflowStore, RunDeletedError
from hrnet_ray.tracking.run_history import (
    SYSTEM_METRICS_FILE,
    EpochImage,
    MetricPoint,
    extract_metric_points,
    find_epoch_images,
    replace_inf_with_nan,
)
from hrnet_ray.tracking.run_record import RUNNING_STATUS, RunRecord, read_run_record
from hrnet_ray.tracking.sync_state import SyncState, read_sync_state, write_sync_state

START_FILES = ("resolved_config.json", "command.txt", "environment.json")
"""Files that describe the start of a run: copied at once, not only when it ends."""
LOG_FILE = "run.log"


@dataclass(frozen=True)
class OpenRun:
    """A run folder and the store that it is synced to; `state` is what the store holds already."""

    store: MlflowStore
    folder: Path
    record: RunRecord
    state: SyncState


def _sync_epochs(run: OpenRun) -> None:
    fresh = list(_iter_unsynced_epochs(run.folder, run.state))
    points = [point for entry in fresh for point in extract_metric_points(entry, step=entry["epoch"])]
    if not points:
        return
    run.store.log_metrics(run.state.run_id, [replace_inf_with_nan(point) for point in points])
    infinite = {f"infinite.{p.name}": f"{p.value} at {p.step}" for p in points if math.isinf(p.value)}
    if infinite:
        run.store.log_params_and_tags(run.state.run_id, params={}, tags=infinite)
    run.state.epochs |= {str(entry["epoch"]): entry.get("at_ms", 0) for entry in fresh}


def _sync_system_metrics(run: OpenRun) -> None:
    lines = list(enumerate(read_jsonl(run.folder / SYSTEM_METRICS_FILE)))[run.state.system_samples :]
    points = [replace_inf_with_nan(p) for step, entry in lines for p in extract_metric_points(entry, step=step)]
    if points:
        run.store.log_metrics(run.state.run_id, points)
    run.state.system_samples += len(lines)


def _sync_summary_metrics(run: OpenRun) -> None:
    fresh = {n: f for n, f in run.record.summary_metrics.items() if run.state.summary_metrics.get(n) != f.at_ms}
    points = [MetricPoint(name, figure.value, 0, figure.at_ms) for name, figure in fresh.items()]
    if points:
        run.store.log_metrics(run.state.run_id, [replace_inf_with_nan(point) for point in points])
    run.state.summary_metrics |= {name: figure.at_ms for name, figure in fresh.items()}


def _sync_tags(run: OpenRun) -> None:
    gone = sorted(run.state.tags.keys() - run.record.tags.keys())
    fresh = {name: v for name, v in run.record.tags.items() if run.state.tags.get(name) != v}
    if fresh or gone:
        run.store.log_params_and_tags(run.state.run_id, params={}, tags=fresh, removed_tags=gone)
    run.state.tags = dict(run.record.tags)


def _sync_run_status(run: OpenRun) -> None:
    if run.state.run_status != _get_run_status(run.record):
        run.store.set_run_status(run.state.run_id, run.record)
    run.state.run_status = _get_run_status(run.record)


def _sync_images(run: OpenRun) -> None:
    times = {entry["epoch"]: entry.get("at_ms", 0) for entry in read_metrics(run.folder)}
    for image in _iter_unsynced_images(run.folder, run.state):
        if image.epoch in times:  # else its epoch is not over
            run.store.log_image(run.state.run_id, image, at_ms=times[image.epoch])
            run.state.images.append(_format_image_key(image))


def _sync_files(run: OpenRun) -> None:
    for path, name, state in _iter_unsynced_files(run.folder, run.record, run.state):
        run.store.log_artifact(run.state.run_id, path, artifact_path=str(Path(name).parent).strip("."))
        run.state.files[name] = state


@dataclass(frozen=True)
class SyncTask:
    """One kind of data. The task sends what is new and notes it in the state: a repetition sends nothing."""

    name: str
    sync: Callable[[OpenRun], None]


SYNC_TASKS = (
    SyncTask("epochs", _sync_epochs),
    SyncTask("system metrics", _sync_system_metrics),
    SyncTask("summary metrics", _sync_summary_metrics),
    SyncTask("tags", _sync_tags),
    SyncTask("run status", _sync_run_status),
    SyncTask("images", _sync_images),
    SyncTask("files", _sync_files),
)
"""In order: small data first, so that a slow server has the metrics before the large files."""


class RunSyncer:
    """Syncs run folders to one store; each call sends only what is new."""

    def __init__(self, store: MlflowStore) -> None:
        self.store = store
        self._sync_states: dict[Path, SyncState] = {}
        self._stopped = False

    def stop_syncing(self) -> None:
        """Sync and record nothing more, from any thread: another process may sync the rest."""
        self._stopped = self.store.stopped = True

    def sync_run(self, folder: Path) -> None:
        """Sync what is new, by each task in turn.

        Raises:
            ClusterError: the server refused data; what it took before stays recorded as synced.
            OSError, ValueError: the folder cannot be read.
        """
        try:
            self._sync_new_data(folder)
        except RunDeletedError:
            self._sync_new_data(folder)

    def _sync_new_data(self, folder: Path) -> None:
        record = read_run_record(folder)
        if record is None or self._stopped:
            return
        state = self._open_run(folder, record)
        for task in SYNC_TASKS:
            if self._stopped:
                return
            try:  # read again: the previous task may have waited for minutes
                task.sync(OpenRun(self.store, folder, read_run_record(folder) or record, state))
            except Exception as error:
                error.add_note(f"while syncing {task.name} of {folder}")
                self._sync_states.clear()  # the server may answer again with less than it had
                raise
            finally:
                self._save_sync_state(folder, state)

    def _open_run(self, folder: Path, record: RunRecord) -> SyncState:
        """Open the run on the server. For a new run nothing counts as synced."""
        if folder in self._sync_states:
            return self._sync_states[folder]
        parent = self._get_parent_run_id(folder, record)
        sync_state = read_sync_state(folder, self.store.redacted_uri)
        run_id, params = self.store.get_or_create_run(record, parent_run_id=parent)
        if run_id != sync_state.run_id:
            sync_state = SyncState(run_id=run_id)
        lacking = {name: value for name, value in record.params.items() if name not in params}
        self.store.log_params_and_tags(run_id, params=lacking, tags={})
        if not sync_state.datasets_logged and record.datasets:
            self.store.log_inputs(run_id, record.datasets)
            sync_state.datasets_logged = True
        self._sync_states[folder] = sync_state
        self._save_sync_state(folder, sync_state)
        return sync_state

    def _save_sync_state(self, folder: Path, sync_state: SyncState) -> None:
        if not self._stopped:
            write_sync_state(folder, self.store.redacted_uri, sync_state)

    def _get_parent_run_id(self, folder: Path, record: RunRecord) -> str | None:
        if record.parent_relpath is None:
            return None
        parent = (folder / record.parent_relpath).resolve()
        parent_record = read_run_record(parent)
        return self._open_run(parent, parent_record).run_id if parent_record else None


def count_unsynced(folder: Path, store_uri: str) -> Counter[str]:
    """Count the items of the run in `folder` that are not synced to the store yet."""
    record = read_run_record(folder)
    if record is None:
        return Counter()
    sync_state = read_sync_state(folder, store_uri)
    return +Counter(
        {
            "epochs": len(list(_iter_unsynced_epochs(folder, sync_state))),
            "images": len(list(_iter_unsynced_images(folder, sync_state))),
            "files": len(list(_iter_unsynced_files(folder, record, sync_state))),
            "run status": int(record.status != RUNNING_STATUS and sync_state.run_status != _get_run_status(record)),
        }
    )


def _iter_unsynced_epochs(folder: Path, sync_state: SyncState) -> Iterator[dict[str, Any]]:
    for entry in read_metrics(folder):
        if sync_state.epochs.get(str(entry["epoch"])) != entry.get("at_ms", 0):
            yield entry


def _iter_unsynced_images(folder: Path, sync_state: SyncState) -> Iterator[EpochImage]:
    return (image for image in find_epoch_images(folder) if _format_image_key(image) not in sync_state.images)


def _iter_unsynced_files(
    folder: Path, record: RunRecord, sync_state: SyncState
) -> Iterator[tuple[Path, str, list[int]]]:
    """List new or changed files among the artifacts of the run.

    The log grows with every line, so it is uploaded once for each end of the run.
    """
    for top in dict.fromkeys((*START_FILES, *record.artifact_paths)):
        for path in sorted([folder / top, *(folder / top).rglob("*")]):
            if path.is_file():
                name, stat = path.relative_to(folder).as_posix(), path.stat()
                state = [stat.st_size, stat.st_mtime_ns]
                if name == LOG_FILE:
                    state = _get_run_status(record)
                if (name != LOG_FILE or record.status != RUNNING_STATUS) and sync_state.files.get(name) != state:
                    yield path, name, state


def _get_run_status(record: RunRecord) -> list[Any]:
    return [record.status, record.ended_ms if record.status != RUNNING_STATUS else None]


def _format_image_key(image: EpochImage) -> str:
    return f"{image.name} {image.epoch}"
