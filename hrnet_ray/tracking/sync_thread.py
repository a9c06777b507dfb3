"""The thread that syncs MLflow. Neither the training nor the terminal output waits for it."""

import logging
import threading
from collections import Counter
from pathlib import Path

from hrnet_ray.errors import ClusterError
from hrnet_ray.text import redact_secrets
from hrnet_ray.tracking.mlflow_store import MlflowStore
from hrnet_ray.tracking.run_record import RUN_RECORD_FILE
from hrnet_ray.tracking.sync_run import RunSyncer, count_unsynced
from hrnet_ray.utils.files import get_file_stamp

POLL_INTERVAL_S = 1.0
MAX_RETRY_DELAY_S = 60.0

logger = logging.getLogger("hrnet_ray.tracking")


class BackgroundSync:
    """Watches run folders and syncs what is new in them, with retries."""

    def __init__(self, tracking_uri: str, *, max_retry_delay_s: float = MAX_RETRY_DELAY_S) -> None:
        self._tracking_uri = tracking_uri
        self._max_retry_delay_s = max_retry_delay_s
        self._syncer: RunSyncer | None = None
        self._synced_file_states: dict[Path, object] = {}
        """Each watched folder, with the state of its files at the last complete sync."""
        self._lock = threading.Lock()
        self._wake_event = threading.Event()
        self._closing = self._stopped = False
        self._last_error = ""
        self._thread: threading.Thread | None = None

    def watch_run_dir(self, folder: Path) -> None:
        """Sync what is in a run's folder, and what is added later."""
        with self._lock:
            self._synced_file_states.setdefault(folder, None)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_loop, daemon=True, name="mlflow")
                self._thread.start()

    def flush_and_stop(self, *, timeout_s: float) -> Counter[str]:
        """Wait until everything is synced, at most `timeout_s`; return the counts of what is left."""
        self._closing = True
        self._wake_event.set()
        if self._thread:
            self._thread.join(timeout_s)
        self._stopped = True  # another process may sync the rest
        if self._syncer:
            self._syncer.stop_syncing()
        with self._lock:
            folders = list(self._synced_file_states)
        left: Counter[str] = Counter()
        for folder in folders:
            left += count_unsynced(folder, redact_secrets(self._tracking_uri, {}))
        return left

    @property
    def last_error(self) -> str:
        """Why the last sync failed; empty after a success."""
        return self._last_error

    def _run_loop(self) -> None:
        pause = POLL_INTERVAL_S
        while not self._stopped:
            last = self._closing
            try:
                self._sync_changed_runs()
            except Exception as error:  # no error of the sync may end a training
                self._handle_failure(error)
                pause = min(self._max_retry_delay_s, 2 * pause)
            else:
                self._handle_recovery()
                pause = POLL_INTERVAL_S
                if last:
                    return
            if self._closing:
                self._wake_event.clear()
                pause = min(pause, POLL_INTERVAL_S)
            self._wake_event.wait(pause)

    def _sync_changed_runs(self) -> None:
        if self._syncer is None:
            self._syncer = RunSyncer(MlflowStore(self._tracking_uri))
        with self._lock:
            folders = dict(self._synced_file_states)
        for folder, seen in folders.items():
            looks = _get_file_states(folder)
            if looks != seen and not self._stopped:
                try:
                    self._syncer.sync_run(folder)
                except (OSError, ValueError) as error:  # its file, not the server
                    logger.warning("MLflow misses %s: %s", folder, redact_secrets(str(error)))
                with self._lock:
                    self._synced_file_states[folder] = looks

    def _handle_failure(self, error: Exception) -> None:
        where = error.where if isinstance(error, ClusterError) else repr(error)
        if not self._last_error:
            logger.warning(
                "MLflow sync failed (%s); training continues, and the run's folder keeps everything",
                redact_secrets(where),
            )
        self._last_error = redact_secrets(where)
        with self._lock:  # a server that comes back may have forgotten
            self._synced_file_states = {folder: None for folder in self._synced_file_states}

    def _handle_recovery(self) -> None:
        if self._last_error:
            logger.warning("MLflow answers again; the sync is complete")
        self._last_error = ""


def _get_file_states(folder: Path) -> object:
    """Sizes and times of the files; they change when there may be something to sync."""
    paths = [folder / name for name in (RUN_RECORD_FILE, "metrics.jsonl", "system_metrics.jsonl")]
    return [get_file_stamp(path) for path in (*paths, *sorted((folder / "plots").glob("*")))]
