"""JSON lines of a run: one per epoch in `metrics.jsonl`, one per incident in `events.jsonl`."""

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
    """Append the line of an epoch; `metrics["epoch"]` counts from 1."""
    _append_json_line(run_folder / METRICS_FILE, dict(metrics))


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """Read the recorded epochs in order; an epoch repeated after a crash keeps its last line."""
    entries = read_jsonl(run_folder / METRICS_FILE)
    by_epoch = {entry["epoch"]: entry for entry in entries if isinstance(entry.get("epoch"), int)}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def log_event(run_folder: Path, kind: str, message: str) -> None:
    """Print and record an incident that the run survived; a full disk leaves only the print."""
    print(message, flush=True)
    with suppress(OSError):
        _append_json_line(run_folder / EVENTS_FILE, {"kind": kind, "note": message})


@contextmanager
def ignore_write_errors(run_folder: Path, label: str) -> Iterator[None]:
    """Log a failed write of something that training can continue without."""
    try:
        yield
    except (OSError, DataError) as error:
        reason = error.what if isinstance(error, DataError) else error.strerror or error
        log_event(run_folder, "failed_write", f"could not write {label}: {reason}")


def read_events(run_folder: Path) -> list[str]:
    """Read the messages of all incidents, in order."""
    return [message for _, message in _read_event_entries(run_folder)]


def count_events(run_folder: Path, kind: str) -> int:
    """Count the incidents of one kind."""
    return sum(entry_kind == kind for entry_kind, _ in _read_event_entries(run_folder))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file; lines that a crash truncated are left out."""
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, RecursionError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]


def _read_event_entries(run_folder: Path) -> list[tuple[str, str]]:
    entries = read_jsonl(run_folder / EVENTS_FILE)
    return [(entry["kind"], entry["note"]) for entry in entries if {"kind", "note"} <= entry.keys()]


def _append_json_line(path: Path, entry: dict[str, Any]) -> None:
    """Append one line in one write, so that a reader rarely sees half of it."""
    line = json.dumps(entry | {"at_ms": int(time.time() * 1000)}).encode() + b"\n"
    with path.open("ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a crash truncated the last line
                line = b"\n" + line
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
