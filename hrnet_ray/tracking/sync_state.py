"""What of a run is already synced to an MLflow store: `.mlflow/sync_state.json` in its folder.

It only saves network traffic: without it everything is synced again, to the same result.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hrnet_ray.tracking.run_record import write_mlflow_file

SYNC_STATE_FILE = ".mlflow/sync_state.json"


@dataclass(kw_only=True)
class SyncState:
    """What one store holds of one run."""

    run_id: str = ""
    epochs: dict[str, int] = field(default_factory=dict)
    """Epoch to the time of its line, so that a repeated epoch is synced again."""
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
    """Read what is synced to the store of the run in `folder`; empty where it is unknown."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return SyncState(**_read_all_states(folder)[store_uri])
    return SyncState()


def write_sync_state(folder: Path, store_uri: str, sync_state: SyncState) -> None:
    """Write the state. On a full disk nothing is written, and the sync is repeated."""
    with suppress(OSError):
        known: dict[str, Any] = {}
        with suppress(ValueError, FileNotFoundError):
            known = _read_all_states(folder)
        write_mlflow_file(folder / SYNC_STATE_FILE, json.dumps({**known, store_uri: asdict(sync_state)}))


def _read_all_states(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / SYNC_STATE_FILE).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{folder / SYNC_STATE_FILE} is no object")
    return found
