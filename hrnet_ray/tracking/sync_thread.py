"""The thread that tells MLflow. Nobody waits for it: not the training, not what is printed."""

import logging
import threading
from collections import Counter
from pathlib import Path

from hrnet_ray.errors import ClusterError
from hrnet_ray.text import without_secrets
from hrnet_ray.tracking.mlflow_store import Server
from hrnet_ray.tracking.run_record import STORY
from hrnet_ray.tracking.sync_run import Teller, missing

BEAT_S = 1.0
LONGEST_PAUSE_S = 60.0

log = logging.getLogger("hrnet_ray.tracking")


class Shipper:
    """Follows run folders and tells what is new in them, again and again until it is told."""

    def __init__(self, address: str, *, longest_pause_s: float = LONGEST_PAUSE_S) -> None:
        self._address = address
        self._longest_pause_s = longest_pause_s
        self._teller: Teller | None = None
        self._folders: dict[Path, object] = {}
        """And how each looked when the last of it was told."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = self._given_up = False
        self._failed = ""
        self._thread: threading.Thread | None = None

    def follow(self, folder: Path) -> None:
        """Tell what is in a run's folder, and what comes to it."""
        with self._lock:
            self._folders.setdefault(folder, None)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow")
                self._thread.start()

    def close(self, *, within_s: float) -> Counter[str]:
        """Wait for it to have told everything, but not longer; returns what is left."""
        self._closing = True
        self._wake.set()
        if self._thread:
            self._thread.join(within_s)
        self._given_up = True  # whoever tells the rest shall not meet us
        if self._teller:
            self._teller.fall_silent()
        with self._lock:
            folders = list(self._folders)
        left: Counter[str] = Counter()
        for folder in folders:
            left += missing(folder, without_secrets(self._address, {}))
        return left

    @property
    def trouble(self) -> str:
        """Why the server was not told lately; empty when it was."""
        return self._failed

    def _run(self) -> None:
        pause = BEAT_S
        while not self._given_up:
            last = self._closing
            try:
                self._pass()
            except Exception as error:  # whatever it is, a training has better things to do
                self._fail(error)
                pause = min(self._longest_pause_s, 2 * pause)
            else:
                self._recover()
                pause = BEAT_S
                if last:
                    return
            if self._closing:
                self._wake.clear()
                pause = min(pause, BEAT_S)
            self._wake.wait(pause)

    def _pass(self) -> None:
        if self._teller is None:
            self._teller = Teller(Server(self._address))
        with self._lock:
            folders = dict(self._folders)
        for folder, seen in folders.items():
            looks = _looks(folder)
            if looks != seen and not self._given_up:
                try:
                    self._teller.tell(folder)
                except (OSError, ValueError) as error:  # its file, not the server
                    log.warning("MLflow misses %s: %s", folder, without_secrets(str(error)))
                with self._lock:
                    self._folders[folder] = looks

    def _fail(self, error: Exception) -> None:
        where = error.where if isinstance(error, ClusterError) else repr(error)
        if not self._failed:
            log.warning(
                "MLflow cannot be told (%s); training goes on, and the run's folder keeps it all",
                without_secrets(where),
            )
        self._failed = without_secrets(where)
        with self._lock:  # a server that comes back may have forgotten
            self._folders = {folder: None for folder in self._folders}

    def _recover(self) -> None:
        if self._failed:
            log.warning("MLflow answers again, and knows everything")
        self._failed = ""


def _looks(folder: Path) -> object:
    """Changes when there may be something to tell."""
    paths = [folder / name for name in (STORY, "metrics.jsonl", "system.jsonl")]
    return [_state(path) for path in (*paths, *sorted((folder / "plots").glob("*")))]


def _state(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0)
    return stat.st_size, stat.st_mtime_ns
