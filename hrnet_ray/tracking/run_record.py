"""What MLflow shall know of a run, kept in the run's own folder: `tracked.json`.

The driver writes it and waits for nobody. Whoever tells MLflow, now or in a year, reads it there:
name, settings and tags, whose trial it is, how it ended. The epochs stand in `metrics.jsonl`.
"""

import json
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

STORY = "tracked.json"
ID = "run.id"
RUNNING = "RUNNING"
LOST = {"lost": "true"}
"""The tag of a run whose command was gone before it could say how the run ended."""


@dataclass(frozen=True, kw_only=True)
class DataVersion:
    """A split of a data set, as one version of it."""

    name: str
    digest: str
    root: str
    context: str
    """What the run did with it: train or val."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that the whole run came to."""

    value: float
    at_ms: int


@dataclass(frozen=True, kw_only=True)
class Story:
    """Everything about a run but its epochs."""

    experiment: str
    address: str | None = None
    """The MLflow server, without name and password; None is the file in the storage folder."""
    storage: str
    """Where the storage folder is, seen from the run's."""
    key: str
    """By this MLflow's run is found again."""
    name: str
    began_ms: int
    params: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)
    data: tuple[DataVersion, ...] = ()
    parent: str | None = None
    """The folder of the study, seen from this one."""
    figures: dict[str, Figure] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    """Files and folders of the run's own tree to be copied."""
    status: str = RUNNING
    ended_ms: int | None = None


def key_of(folder: Path) -> str:
    """The key of a run folder: drawn once, and kept in a file of its own.

    A folder that was removed and made again is another run, and so is one of the same path on
    another machine. It stays when the folder is moved, and when its story cannot be read.
    """
    if known := known_key(folder):
        return known
    if (folder / STORY).exists():  # unreadable, and of a version that knew a run by its path
        return str(folder)
    drawn = uuid.uuid4().hex
    with suppress(OSError):  # a full disk keeps no story either
        write_whole(folder / ID, drawn)
    return drawn


def known_key(folder: Path) -> str | None:
    """The key of a run folder that MLflow may have heard of."""
    with suppress(OSError, ValueError):
        if story := read_story(folder):
            return story.key
    with suppress(OSError, ValueError):
        return (folder / ID).read_text(encoding="utf-8").strip() or None
    return None


def write_story(folder: Path, story: Story) -> None:
    """Put it there, whole or not at all."""
    write_whole(folder / STORY, json.dumps(asdict(story), indent=1))


def read_story(folder: Path) -> Story | None:
    """What the driver wrote; nothing where no run was begun.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    try:
        found = json.loads((folder / STORY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    try:
        found["data"] = tuple(DataVersion(**entry) for entry in found["data"])
        found["figures"] = {name: Figure(**entry) for name, entry in found["figures"].items()}
        found["files"] = tuple(found["files"])
        return Story(**_known(Story, found))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / STORY}: {error}") from error


def stories_below(folder: Path) -> list[Path]:
    """The run of a folder, and after it the trials of a study, in order."""
    return [path.parent for path in _existing([folder, *sorted((folder / "trials").glob("*"))])]


def write_whole(path: Path, text: str) -> None:
    """Replace a file; a reader sees the old one or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _existing(folders: Iterable[Path]) -> list[Path]:
    return [folder / STORY for folder in folders if (folder / STORY).is_file()]


def _known(cls: type, found: dict[str, Any]) -> dict[str, Any]:
    """What this version understands of a file that a newer one may have written."""
    return {entry.name: found[entry.name] for entry in fields(cls) if entry.name in found}
