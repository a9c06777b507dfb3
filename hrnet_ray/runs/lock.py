"""One command at a time works in a run's folder.

Whoever does leaves `lease.json` there: who it is, where, since when. Every two seconds it touches
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

LEASE = "lease.json"
BEAT_S = 2.0
WATCH_S = 4.4
"""Long enough for two beats, and for a refusal within 5 s."""
STALE_S = 60.0
"""A lease that nobody touched for so long is taken over."""


class Lease:
    """Held while a command works in a folder: `with Lease(folder): ...`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEASE
        self._folder = folder
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._lost = False

    def __enter__(self) -> "Lease":
        """Take the lease.

        Raises:
            ClusterError: another command holds it, or the folder cannot be written to.
        """
        try:
            while not self._taken():
                self._make_way()
        except OSError as error:
            raise ClusterError(
                "the run's folder cannot be written to",
                f"{self._folder} on {platform.node()}: {error.strerror or error}",
                "free some space, or give a --cluster.storage that can be written to",
            ) from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._lost:
            raise ClusterError(
                "another command took this run over",
                f"{self._folder}: {_holder(_read(self._path) or {})}",
                f"this one was silent for more than {STALE_S:.0f} s; let only one of them go on",
            )
        self._drop()

    def _taken(self) -> bool:
        """Put our own lease there, unless there is one; it appears at once and whole."""
        mine = self._path.with_name(f".{LEASE}-{self._token}")
        mine.write_text(json.dumps(_about_us() | {"token": self._token}), encoding="utf-8")
        try:
            return put_once(mine, self._path)
        finally:
            mine.unlink(missing_ok=True)

    def _make_way(self) -> None:
        """Remove a lease that nobody holds any more."""
        found = _read(self._path)
        if found is None:
            return  # it was let go of just now
        if not _is_stale(self._path, found):
            raise ClusterError(
                "this run is going on already",
                f"{self._folder}: {_holder(found)}",
                "wait for it to end, or give this one another --name; a lease whose holder is gone "
                f"is taken over after {STALE_S:.0f} s",
            )
        if self._moved_aside(found):
            print(f"taking over {self._folder} from {_holder(found)}, which is gone", flush=True)

    def _moved_aside(self, stale: dict[str, Any]) -> bool:
        """Whether it was us, of several that may want to; a living lease is put back."""
        aside = self._path.with_name(f".{LEASE}-stale-{self._token}")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return False
        try:
            ours = _read(aside) == stale
            if not ours:
                put_once(aside, self._path)
            return ours
        finally:
            aside.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            with suppress(OSError):  # a storage that is away for a while may come back
                found = _read(self._path)
                if found is None or found.get("token") != self._token:
                    self._lost = True
                    os.kill(os.getpid(), signal.SIGINT)  # as if somebody had pressed Ctrl-C
                    return
                os.utime(self._path)

    def _drop(self) -> None:
        with suppress(OSError):
            if (_read(self._path) or {}).get("token") == self._token:
                self._path.unlink()


def put_once(source: Path, path: Path) -> bool:
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


def _about_us() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "processes": _processes(),
        "born": _born(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _read(path: Path) -> dict[str, Any] | None:
    """What a lease says; nothing when there is none. One that cannot be read says little."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {"token": None}


def _is_stale(path: Path, found: dict[str, Any]) -> bool:
    if _is_dead(found):
        return True
    touched = _touched(path)
    if touched is None or abs(time.time() - touched) <= STALE_S:
        return touched is None
    deadline = time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        if _touched(path) != touched:
            return False
        time.sleep(BEAT_S / 10)
    return True


def _is_dead(found: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and is no more, or its number is another's now."""
    if found.get("host") != platform.node() or found.get("processes") != _processes():
        return False
    try:
        pid = int(found["pid"])
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or _born(pid) != found["born"]
    except (psutil.NoSuchProcess, FileNotFoundError):
        return True
    except (psutil.Error, OSError, KeyError, TypeError, ValueError, IndexError):
        return False


def _born(pid: int) -> float:
    """When a process began, by a clock that nobody sets where there is one (since boot)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").is_file():
        return float(stat.read_text().rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


def _touched(path: Path) -> float | None:
    try:
        with path.open("rb") as file:  # a network file system looks again when a file is opened
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _processes() -> str:
    """Tells containers of one name apart: a process number means something in one of them only."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _holder(found: dict[str, Any]) -> str:
    return " ".join(
        f"{word} {found.get(name, '?')}"
        for word, name in (("process", "pid"), ("on", "host"), ("since", "since"))
    )
