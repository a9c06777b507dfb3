"""What an MLflow server was told of a run already: `told.json` in the run's folder.

It spares the network, and no more: without it everything is told once more, and MLflow knows it
from before.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hrnet_ray.tracking.run_record import write_whole

TOLD = "told.json"


@dataclass(kw_only=True)
class Told:
    """What one server knows of one run."""

    run_id: str = ""
    epochs: dict[str, int] = field(default_factory=dict)
    """Epoch to the time of its line, so that one that was done again is told again."""
    samples: int = 0
    """Lines of system.jsonl."""
    tags: dict[str, str] = field(default_factory=dict)
    figures: dict[str, int] = field(default_factory=dict)
    """Name to time."""
    pictures: list[str] = field(default_factory=list)
    files: dict[str, list[int]] = field(default_factory=dict)
    """Name to size and time of change."""
    data: bool = False
    end: list[Any] = field(default_factory=list)
    """Status and time."""


def read_told(folder: Path, server: str) -> Told:
    """What `server` was told of the run in `folder`; nothing where that is not known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Told(**_all(folder)[server])
    return Told()


def write_told(folder: Path, server: str, told: Told) -> None:
    """Note it. On a full disk it is not noted, and will be told again."""
    with suppress(OSError):
        known: dict[str, Any] = {}
        with suppress(ValueError, FileNotFoundError):
            known = _all(folder)
        write_whole(folder / TOLD, json.dumps({**known, server: asdict(told)}))


def _all(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{folder / TOLD} is no object")
    return found
