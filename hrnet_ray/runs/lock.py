"""The lock of a run folder: one command at a time works there.

The command writes `run.lock` (its process, host and start) and touches it every two seconds, which
needs no disk space. A second command is refused meanwhile. Clocks are not trusted: a lock that
looks old is watched for 4.4 s, and is respected if it is touched.

`filelock.SoftFileLease` cannot do both: it ignores the file's age, so to take over the lock of a
dead host takes as long as a live holder may be silent (60 s here).
"""

import json
import os
import platform
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from hrnet_ray.errors import ClusterError
from hrnet_ray.runs.controller import RunController, StopReason

LOCK_FILE = "run.lock"
HEARTBEAT_S = 2.0
"""Seconds between two touches of the lock file."""
STALE_WATCH_S = 4.4
"""Seconds to watch a lock that looks stale: two heartbeats, and a refusal within 5 s."""
STALE_AFTER_S = 60.0
"""Seconds without a touch after which a lock counts as stale."""


class RunLock:
    """Held while a command works in a run folder; a lost lock stops the command.

    `with RunLock(folder, controller): controller.run(...)`
    """

    def __init__(self, folder: Path, controller: RunController) -> None:
        self._controller = controller
        self._path = folder / LOCK_FILE
        self._folder = folder
        self._token = secrets.token_hex(8)
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._run_heartbeat, daemon=True, name="run-lock")
        self._taken_over = False

    def __enter__(self) -> "RunLock":
        """Acquire the lock.

        Raises:
            ClusterError: another command holds it, or the folder is not writable.
        """
        try:
            while not self._try_acquire():
                self._remove_stale_lock()
        except OSError as error:
            raise ClusterError(
                "the run folder must be writable",
                f"{self._folder} on {platform.node()}: {error.strerror or error}",
                "free some space, or choose a writable --cluster.storage-path",
            ) from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self._thread.join()
        if self._taken_over:
            raise ClusterError(
                "another command took over this run",
                f"{self._folder}: {_format_owner(_read_lock(self._path) or {})}",
                f"this command was suspended for more than {STALE_AFTER_S:.0f} s; keep only one",
            )
        self._release_lock()

    def _try_acquire(self) -> bool:
        """Create the lock file unless it exists; it appears complete, in one step."""
        own_file = self._path.with_name(f".{LOCK_FILE}-{self._token}")
        content = json.dumps(_describe_owner() | {"token": self._token})
        own_file.write_text(content, encoding="utf-8")
        try:
            return link_exclusive(own_file, self._path)
        finally:
            own_file.unlink(missing_ok=True)

    def _remove_stale_lock(self) -> None:
        """Remove the lock of a dead owner; refuse if its owner may be alive."""
        lock_info = _read_lock(self._path)
        if lock_info is None:
            return  # released a moment ago
        if not _is_stale(self._path, lock_info):
            raise ClusterError(
                "this run is already in progress",
                f"{self._folder}: {_format_owner(lock_info)}",
                "wait for it to end, or choose another --name; the lock of a dead process is taken "
                f"over after {STALE_AFTER_S:.0f} s",
            )
        if self._try_move_aside(lock_info):
            owner = _format_owner(lock_info)
            print(f"Taking over the stale lock of {self._folder} ({owner} is dead)", flush=True)

    def _try_move_aside(self, stale_info: dict[str, Any]) -> bool:
        """Move the stale lock aside; False if another command did. A live lock is put back."""
        aside = self._path.with_name(f".{LOCK_FILE}-stale-{self._token}")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return False
        try:
            is_stale = _read_lock(aside) == stale_info
            if not is_stale:
                link_exclusive(aside, self._path)
            return is_stale
        finally:
            aside.unlink(missing_ok=True)

    def _run_heartbeat(self) -> None:
        while not self._stop_event.wait(HEARTBEAT_S):
            with suppress(OSError):  # a storage outage may be temporary
                if (_read_lock(self._path) or {}).get("token") != self._token:
                    self._taken_over = True
                    return self._controller.request_stop(StopReason.LOCK_LOST)
                os.utime(self._path)

    def _release_lock(self) -> None:
        with suppress(OSError):
            if (_read_lock(self._path) or {}).get("token") == self._token:
                self._path.unlink()


def link_exclusive(source: Path, path: Path) -> bool:
    """Give a file a second name; False if that name is taken."""
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except OSError:  # no hard links here: the new file is empty for a moment
        try:
            with path.open("xb") as file:
                file.write(source.read_bytes())
        except FileExistsError:
            return False
    return True


def _describe_owner() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "processes": _read_pid_namespace(),
        "born": _read_process_start(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _read_lock(path: Path) -> dict[str, Any] | None:
    """Read a lock file: None if there is none, no token if it is unreadable."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {"token": None}


def _is_stale(path: Path, lock_info: dict[str, Any]) -> bool:
    if _is_owner_dead(lock_info):
        return True
    touched = _read_mtime(path)
    if touched is None or abs(time.time() - touched) <= STALE_AFTER_S:
        return touched is None
    deadline = time.monotonic() + STALE_WATCH_S
    while time.monotonic() < deadline:
        if _read_mtime(path) != touched:
            return False
        time.sleep(HEARTBEAT_S / 10)
    return True


def _is_owner_dead(lock_info: dict[str, Any]) -> bool:
    """Whether the owner ran on this host and ended; its PID may be reused by now."""
    if lock_info.get("host") != platform.node() or lock_info.get("processes") != _read_pid_namespace():
        return False
    try:
        pid = int(lock_info["pid"])
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or _read_process_start(pid) != lock_info["born"]
    except (psutil.NoSuchProcess, FileNotFoundError):
        return True
    except (psutil.Error, OSError, KeyError, TypeError, ValueError, IndexError):
        return False


def _read_process_start(pid: int) -> float:
    """Start time of a process: in ticks since boot on Linux, which no clock change affects."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").is_file():
        return float(stat.read_text().rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


def _read_mtime(path: Path) -> float | None:
    try:
        with path.open("rb") as file:  # NFS revalidates its cache on open
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _read_pid_namespace() -> str:
    """Identify the PID namespace: containers may share a host name, but not their PIDs."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _format_owner(lock_info: dict[str, Any]) -> str:
    return " ".join(
        f"{word} {lock_info.get(name, '?')}" for word, name in (("process", "pid"), ("on", "host"), ("since", "since"))
    )
