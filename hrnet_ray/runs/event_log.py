"""What a run notes, a line each: its epochs in `metrics.jsonl`, its troubles in `events.jsonl`."""

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hrnet_ray.errors import DataError

METRICS_FILE, EVENTS_FILE = "metrics.jsonl", "events.jsonl"


def append_metrics(run_folder: Path, metrics: Mapping[str, Any]) -> None:
    """Add the line of an epoch."""
    _append_json_line(run_folder / METRICS_FILE, dict(metrics))


def log_event(run_folder: Path, kind: str, message: str) -> None:
    """Note a trouble that the run got over; on a disk that is full it is only printed."""
    print(message, flush=True)
    with suppress(OSError):
        _append_json_line(run_folder / EVENTS_FILE, {"kind": kind, "note": message})


@contextmanager
def ignore_write_errors(run_folder: Path, label: str) -> Iterator[None]:
    """Write something that training can go on without; a full disk is noted."""
    try:
        yield
    except (OSError, DataError) as error:
        reason = error.what if isinstance(error, DataError) else error.strerror or error
        log_event(run_folder, "failed_write", f"not written: {label} ({reason})")


def read_events(run_folder: Path) -> list[str]:
    """The notes, in order."""
    return [note for _, note in _read_event_entries(run_folder)]


def count_events(run_folder: Path, kind: str) -> int:
    """How many troubles of a kind there were."""
    return sum(noted == kind for noted, _ in _read_event_entries(run_folder))


def _read_event_entries(run_folder: Path) -> list[tuple[str, str]]:
    path = run_folder / EVENTS_FILE
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line that a crash cut short
            entry = json.loads(line)
            found.append((entry["kind"], entry["note"]))
    return found


def _append_json_line(path: Path, entry: dict[str, Any]) -> None:
    """Add one line; it is one write, so a reader never sees half of it for long."""
    line = json.dumps(entry | {"at_ms": int(time.time() * 1000)}).encode() + b"\n"
    with path.open("ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a crash cut the last line short
                line = b"\n" + line
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The recorded epochs in order; one that was done twice after a crash counts as done last."""
    path = run_folder / METRICS_FILE
    if not path.is_file():
        return []
    by_epoch: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            by_epoch[entry["epoch"]] = entry
        except (ValueError, KeyError, TypeError):
            continue  # a line that a crash cut short; its epoch is done again
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]
