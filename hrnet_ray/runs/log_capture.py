"""`run.log` of a run folder: the output of its commands, and the traceback of every failure."""

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

from hrnet_ray.runs.event_log import ignore_write_errors
from hrnet_ray.text import redact_secrets

RUN_LOG = "run.log"
_TERMINAL_CONTROL = re.compile(r"^.*\r(?=.)|\r|\x1b\[[0-9;]*[A-Za-z]")
"""Matches overwritten text, carriage returns and colour codes."""


@contextmanager
def tee_output(run_folder: Path) -> Iterator[None]:
    """Copy stdout and stderr into the log while open."""
    path = run_folder / RUN_LOG
    with suppress(OSError):  # on a full disk the run continues without a log
        _append_lines(path, [f"--- {datetime.now():%Y-%m-%d %H:%M:%S} {get_shell_command()}"])
    out, error = (cast(TextIO, _TeeStream(one, path)) for one in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(error):
        yield


@contextmanager
def log_tracebacks(run_folder: Path) -> Iterator[None]:
    """Append the traceback of any exception that leaves the block."""
    try:
        yield
    except Exception:
        write_traceback(run_folder)
        raise


def write_traceback(run_folder: Path) -> None:
    """Append the traceback of the exception being handled."""
    with ignore_write_errors(run_folder, RUN_LOG):
        _append_lines(run_folder / RUN_LOG, traceback.format_exc().splitlines())


def get_shell_command() -> str:
    """The command line of this process, ready to paste into a shell, without secrets."""
    return redact_secrets(shlex.join(sys.argv))


def _append_lines(path: Path, lines: list[str]) -> None:
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(f"{redact_secrets(line)}\n" for line in lines)


class _TeeStream:
    """A stream that also appends its complete lines to a file.

    While `console` is set, only complete lines reach the terminal, above its live rows.
    """

    console: Any = None
    """The rich console of an open `ProgressDisplay`."""

    def __init__(self, stream: Any, path: Path) -> None:
        self.terminal = getattr(stream, "terminal", stream)
        self._stream, self._path = stream, path
        self._partial_line, self._lock = "", threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._partial_line = (self._partial_line + text).split("\n")
            lines = [_TERMINAL_CONTROL.sub("", line) for line in lines]
            if lines:
                with suppress(OSError):
                    _append_lines(self._path, lines)
        if self.console is None:
            return self._stream.write(text)
        for line in lines:
            self.console.out(line, highlight=False)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
