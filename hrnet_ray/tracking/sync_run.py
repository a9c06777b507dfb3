"""Sync what is new of a run to a store: metrics first, large files last."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
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
"""What a run was started with: copied at once, not only when it ends."""


class RunSyncer:
    """Syncs run folders to one store; each call sends only what is new."""

    def __init__(self, store: MlflowStore) -> None:
        self.store = store
        self._sync_states: dict[Path, SyncState] = {}
        self._stopped = False

    def stop_syncing(self) -> None:
        """Sync and record nothing more, from any thread: another process may have taken over."""
        self._stopped = self.store.stopped = True

    def sync_run(self, folder: Path) -> None:
        """Sync what is new.

        Raises:
            ClusterError: the server did not take it; what it took before that is noted.
            OSError, ValueError: the folder cannot be read.
        """
        try:
            self._sync_new_data(folder)
        except RunDeletedError:
            self._sync_new_data(folder)

    def _sync_new_data(self, folder: Path) -> None:
        story = read_run_record(folder)
        if story is None or self._stopped:
            return
        sync_state = self._open_run(folder, story)
        steps: list[Callable[[Path, RunRecord, SyncState], None]] = [
            self._sync_epochs,
            self._sync_system_metrics,
            self._sync_summary_metrics,
            self._sync_tags,
            self._sync_run_status,
            self._sync_images,
            self._sync_files,
        ]
        for step in steps:
            if self._stopped:
                return
            try:
                # A server that hung for minutes gets the present state, not an old one.
                step(folder, read_run_record(folder) or story, sync_state)
            except Exception:
                self._sync_states.clear()  # who knows what is there when it answers again
                raise
            finally:
                self._save_sync_state(folder, sync_state)

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
        above = (folder / record.parent_relpath).resolve()
        theirs = read_run_record(above)
        return self._open_run(above, theirs).run_id if theirs else None

    def _sync_epochs(self, folder: Path, record: RunRecord, sync_state: SyncState) -> None:
        fresh = list(_iter_unsynced_epochs(folder, sync_state))
        points = [point for entry in fresh for point in extract_metric_points(entry, step=entry["epoch"])]
        if not points:
            return
        self.store.log_metrics(sync_state.run_id, [replace_inf_with_nan(point) for point in points])
        infinite = {f"infinite.{p.name}": f"{p.value} at {p.step}" for p in points if _is_infinite(p)}
        if infinite:
            self.store.log_params_and_tags(sync_state.run_id, params={}, tags=infinite)
        sync_state.epochs |= {str(entry["epoch"]): entry.get("at_ms", 0) for entry in fresh}

    def _sync_system_metrics(self, folder: Path, record: RunRecord, sync_state: SyncState) -> None:
        lines = list(enumerate(read_jsonl(folder / SYSTEM_METRICS_FILE)))[sync_state.system_samples :]
        points = [replace_inf_with_nan(p) for step, entry in lines for p in extract_metric_points(entry, step=step)]
        if points:
            self.store.log_metrics(sync_state.run_id, points)
        sync_state.system_samples += len(lines)

    def _sync_summary_metrics(self, folder: Path, record: RunRecord, sync_state: SyncState) -> None:
        fresh = {n: f for n, f in record.summary_metrics.items() if sync_state.summary_metrics.get(n) != f.at_ms}
        points = [MetricPoint(name, figure.value, 0, figure.at_ms) for name, figure in fresh.items()]
        if points:
            self.store.log_metrics(sync_state.run_id, [replace_inf_with_nan(point) for point in points])
        sync_state.summary_metrics |= {name: figure.at_ms for name, figure in fresh.items()}

    def _sync_tags(self, folder: Path, record: RunRecord, sync_state: SyncState) -> None:
        gone = sorted(sync_state.tags.keys() - record.tags.keys())
        fresh = {name: v for name, v in record.tags.items() if sync_state.tags.get(name) != v}
        if fresh or gone:
            self.store.log_params_and_tags(sync_state.run_id, params={}, tags=fresh, removed_tags=gone)
        sync_state.tags = dict(record.tags)

    def _sync_run_status(self, folder: Path, record: RunRecord, sync_state: SyncState) -> None:
        if sync_state.run_status != _get_run_status(record):
            self.store.set_run_status(sync_state.run_id, record)
        sync_state.run_status = _get_run_status(record)

    def _sync_images(self, folder: Path, record: RunRecord, sync_state: SyncState) -> None:
        times = {entry["epoch"]: entry.get("at_ms", 0) for entry in read_metrics(folder)}
        for picture in _iter_unsynced_images(folder, sync_state):
            if picture.epoch in times:  # else its epoch is not over
                self.store.log_image(sync_state.run_id, picture, at_ms=times[picture.epoch])
                sync_state.images.append(_format_image_key(picture))

    def _sync_files(self, folder: Path, record: RunRecord, sync_state: SyncState) -> None:
        for path, name, state in _iter_unsynced_files(folder, record, sync_state):
            self.store.log_artifact(sync_state.run_id, path, artifact_path=str(Path(name).parent).strip("."))
            sync_state.files[name] = state


LOG_FILE = "run.log"


def count_unsynced(folder: Path, store_uri: str) -> Counter[str]:
    """Count the items of the run in `folder` that are not synced to the store yet."""
    story = read_run_record(folder)
    if story is None:
        return Counter()
    sync_state = read_sync_state(folder, store_uri)
    return +Counter(
        {
            "epochs": len(list(_iter_unsynced_epochs(folder, sync_state))),
            "images": len(list(_iter_unsynced_images(folder, sync_state))),
            "files": len(list(_iter_unsynced_files(folder, story, sync_state))),
            "run status": int(story.status != RUNNING_STATUS and sync_state.run_status != _get_run_status(story)),
        }
    )


def _iter_unsynced_epochs(folder: Path, sync_state: SyncState) -> Iterator[dict[str, Any]]:
    for entry in read_metrics(folder):
        if sync_state.epochs.get(str(entry["epoch"])) != entry.get("at_ms", 0):
            yield entry


def _iter_unsynced_images(folder: Path, sync_state: SyncState) -> Iterator[EpochImage]:
    return (picture for picture in find_epoch_images(folder) if _format_image_key(picture) not in sync_state.images)


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


def _is_infinite(point: MetricPoint) -> bool:
    return math.isinf(point.value)
