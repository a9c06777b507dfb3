"""What an MLflow server was told of a run already: `.mlflow/sync_state.json` in the run's folder.

It spares the network, and no more: without it everything is told once more, and MLflow knows it
from before.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hrnet_ray.tracking.run_record import write_text_atomically

SYNC_STATE_FILE = ".mlflow/sync_state.json"


@dataclass(kw_only=True)
class SyncState:
    """What one server knows of one run."""

    run_id: str = ""
    epochs: dict[str, int] = field(default_factory=dict)
    """Epoch to the time of its line, so that one that was done again is told again."""
    system_samples: int = 0
    """Lines of system_metrics.jsonl."""
    tags: dict[str, str] = field(default_factory=dict)
    summary_metrics: dict[str, int] = field(default_factory=dict)
    """Name to time."""
    images: list[str] = field(default_factory=list)
    files: dict[str, list[int]] = field(default_factory=dict)
    """Name to size and time of change."""
    datasets_logged: bool = False
    run_status: list[Any] = field(default_factory=list)
    """Status and time."""


def read_sync_state(folder: Path, store_uri: str) -> SyncState:
    """What `server` was told of the run in `folder`; nothing where that is not known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return SyncState(**_read_all_states(folder)[store_uri])
    return SyncState()


def write_sync_state(folder: Path, store_uri: str, sync_state: SyncState) -> None:
    """Note it. On a full disk it is not noted, and will be told again."""
    with suppress(OSError):
        known: dict[str, Any] = {}
        with suppress(ValueError, FileNotFoundError):
            known = _read_all_states(folder)
        write_text_atomically(
            folder / SYNC_STATE_FILE, json.dumps({**known, store_uri: asdict(sync_state)})
        )


def _read_all_states(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / SYNC_STATE_FILE).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{folder / SYNC_STATE_FILE} is no object")
    return found
