"""`log.txt` of a run's folder: what its commands said, and the whole story of what failed."""

import re
import shlex
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO, cast

from hrnet_ray.runs.event_log import tolerated
from hrnet_ray.text import without_secrets

LOG = "log.txt"
_PASSING = re.compile(r"^.*\r(?=.)|\r|\x1b\[[0-9;]*[A-Za-z]")
"""What a terminal shows for a moment, and how it colours."""


@contextmanager
def logged(run_folder: Path) -> Iterator[None]:
    """Add to the log what is printed meanwhile."""
    path = run_folder / LOG
    with suppress(OSError):  # on a full disk there is no log, and the training goes on
        _append(path, [f"--- {datetime.now():%Y-%m-%d %H:%M:%S} {command()}"])
    out, error = (cast(TextIO, _Beside(one, path)) for one in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(error):
        yield


@contextmanager
def storied(run_folder: Path) -> Iterator[None]:
    """Add the traceback of an error that comes out of here."""
    try:
        yield
    except Exception:
        keep_story(run_folder)
        raise


def keep_story(run_folder: Path) -> None:
    """Add the traceback of the error that is being handled."""
    with tolerated(run_folder, LOG):
        _append(run_folder / LOG, traceback.format_exc().splitlines())


def command() -> str:
    """What this process was started with, fit to be pasted into a shell."""
    return without_secrets(shlex.join(sys.argv))


def _append(path: Path, lines: list[str]) -> None:
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(f"{without_secrets(line)}\n" for line in lines)


class _Beside:
    """A stream whose whole lines go into a file, too."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path = stream, path
        self._line, self._lock = "", threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._line = (self._line + text).split("\n")
            if lines:
                with suppress(OSError):
                    _append(self._path, [_PASSING.sub("", line) for line in lines])
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
