"""One command at a time works in a run's folder.

Whoever does leaves `run.lock` there: who it is, where, since when. Every two seconds it touches
the file, which works on a full disk too. A second command refuses while that goes on. Clocks are
not trusted: a file that looks old is watched for a moment, and is left alone if it is touched.
"""

import json
import os
import platform
import secrets
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from hrnet_ray.errors import ClusterError

LOCK_FILE = "run.lock"
HEARTBEAT_S = 2.0
STALE_WATCH_S = 4.4
"""Long enough for two beats, and for a refusal within 5 s."""
STALE_AFTER_S = 60.0
"""A lease that nobody touched for so long is taken over."""


class RunLock:
    """Held while a command works in a folder: `with Lease(folder): ...`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._folder = folder
        self._token = secrets.token_hex(8)
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._run_heartbeat, daemon=True, name="lease")
        self._taken_over = False

    def __enter__(self) -> "RunLock":
        """Take the lease.

        Raises:
            ClusterError: another command holds it, or the folder cannot be written to.
        """
        try:
            while not self._try_acquire():
                self._remove_stale_lock()
        except OSError as error:
            raise ClusterError(
                "the run's folder cannot be written to",
                f"{self._folder} on {platform.node()}: {error.strerror or error}",
                "free some space, or give a --cluster.storage-path that can be written to",
            ) from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self._thread.join()
        if self._taken_over:
            raise ClusterError(
                "another command took this run over",
                f"{self._folder}: {_format_owner(_read_lock(self._path) or {})}",
                f"this one was silent for more than {STALE_AFTER_S:.0f} s; let only one of them go on",
            )
        self._release_lock()

    def _try_acquire(self) -> bool:
        """Put our own lease there, unless there is one; it appears at once and whole."""
        mine = self._path.with_name(f".{LOCK_FILE}-{self._token}")
        mine.write_text(json.dumps(_describe_owner() | {"token": self._token}), encoding="utf-8")
        try:
            return link_exclusive(mine, self._path)
        finally:
            mine.unlink(missing_ok=True)

    def _remove_stale_lock(self) -> None:
        """Remove a lease that nobody holds any more."""
        found = _read_lock(self._path)
        if found is None:
            return  # it was let go of just now
        if not _is_stale(self._path, found):
            raise ClusterError(
                "this run is going on already",
                f"{self._folder}: {_format_owner(found)}",
                "wait for it to end, or give this one another --name; a lease whose holder is gone "
                f"is taken over after {STALE_AFTER_S:.0f} s",
            )
        if self._try_move_aside(found):
            print(
                f"taking over {self._folder} from {_format_owner(found)}, which is gone", flush=True
            )

    def _try_move_aside(self, stale_info: dict[str, Any]) -> bool:
        """Whether it was us, of several that may want to; a living lease is put back."""
        aside = self._path.with_name(f".{LOCK_FILE}-stale-{self._token}")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return False
        try:
            ours = _read_lock(aside) == stale_info
            if not ours:
                link_exclusive(aside, self._path)
            return ours
        finally:
            aside.unlink(missing_ok=True)

    def _run_heartbeat(self) -> None:
        while not self._stop_event.wait(HEARTBEAT_S):
            with suppress(OSError):  # a storage that is away for a while may come back
                found = _read_lock(self._path)
                if found is None or found.get("token") != self._token:
                    self._taken_over = True
                    os.kill(os.getpid(), signal.SIGINT)  # as if somebody had pressed Ctrl-C
                    return
                os.utime(self._path)

    def _release_lock(self) -> None:
        with suppress(OSError):
            if (_read_lock(self._path) or {}).get("token") == self._token:
                self._path.unlink()


def link_exclusive(source: Path, path: Path) -> bool:
    """Give a file a name that it has alone, or say that the name is taken."""
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: for a moment, the file can be seen empty
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
    """What a lease says; nothing when there is none. One that cannot be read says little."""
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
    """Whether the holder ran on this machine and is no more, or its number is another's now."""
    if (
        lock_info.get("host") != platform.node()
        or lock_info.get("processes") != _read_pid_namespace()
    ):
        return False
    try:
        pid = int(lock_info["pid"])
        process = psutil.Process(pid)
        return (
            process.status() == psutil.STATUS_ZOMBIE
            or _read_process_start(pid) != lock_info["born"]
        )
    except (psutil.NoSuchProcess, FileNotFoundError):
        return True
    except (psutil.Error, OSError, KeyError, TypeError, ValueError, IndexError):
        return False


def _read_process_start(pid: int) -> float:
    """When a process began, by a clock that nobody sets where there is one (since boot)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").is_file():
        return float(stat.read_text().rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


def _read_mtime(path: Path) -> float | None:
    try:
        with path.open("rb") as file:  # a network file system looks again when a file is opened
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _read_pid_namespace() -> str:
    """Tells containers of one name apart: a process number means something in one of them only."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _format_owner(lock_info: dict[str, Any]) -> str:
    return " ".join(
        f"{word} {lock_info.get(name, '?')}"
        for word, name in (("process", "pid"), ("on", "host"), ("since", "since"))
    )
