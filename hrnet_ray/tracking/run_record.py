"""The MLflow record of a run in the run's own folder: `.mlflow/run.json`.

The driver writes it. The sync, now or later, reads name, settings, tags, parent run and status
from it. The epochs are in `metrics.jsonl`.
"""

import json
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hrnet_ray.utils.files import write_text_atomically

RUN_RECORD_FILE = ".mlflow/run.json"
RUN_KEY_FILE = ".mlflow/run_key"
RUNNING_STATUS = "RUNNING"
ABANDONED_TAGS = {"abandoned": "true"}
"""The tag of a run whose command died before it could record how the run ended."""


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """A split of a data set, as one version of it."""

    name: str
    digest: str
    root: str
    context: str
    """What the run did with it: train or val."""


@dataclass(frozen=True, kw_only=True)
class SummaryMetric:
    """A number that the whole run came to."""

    value: float
    at_ms: int


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything about a run but its epochs."""

    experiment_name: str
    tracking_uri: str | None = None
    """The MLflow server, without name and password; None is the file in the storage folder."""
    storage_relpath: str
    """Where the storage folder is, seen from the run's."""
    run_key: str
    """By this MLflow's run is found again."""
    name: str
    started_ms: int
    params: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)
    datasets: tuple[DatasetVersion, ...] = ()
    parent_relpath: str | None = None
    """The folder of the study, seen from this one."""
    summary_metrics: dict[str, SummaryMetric] = field(default_factory=dict)
    artifact_paths: tuple[str, ...] = ()
    """Files and folders of the run's own tree to be copied."""
    status: str = RUNNING_STATUS
    ended_ms: int | None = None


def get_or_create_run_key(folder: Path) -> str:
    """The key of a run folder: drawn once, and kept in a file of its own.

    A folder that was removed and made again is another run, and so is one of the same path on
    another machine. It stays when the folder is moved, and when its story cannot be read.
    """
    if known := read_run_key(folder):
        return known
    if (folder / RUN_RECORD_FILE).exists():  # unreadable, and of a version that knew a run by its path
        return str(folder)
    drawn = uuid.uuid4().hex
    with suppress(OSError):  # a full disk keeps no story either
        write_mlflow_file(folder / RUN_KEY_FILE, drawn)
    return drawn


def read_run_key(folder: Path) -> str | None:
    """The key of a run folder that MLflow may have heard of."""
    with suppress(OSError, ValueError):
        if story := read_run_record(folder):
            return story.run_key
    with suppress(OSError, ValueError):
        return (folder / RUN_KEY_FILE).read_text(encoding="utf-8").strip() or None
    return None


def write_run_record(folder: Path, record: RunRecord) -> None:
    """Put it there, whole or not at all."""
    write_mlflow_file(folder / RUN_RECORD_FILE, json.dumps(asdict(record), indent=1))


def read_run_record(folder: Path) -> RunRecord | None:
    """What the driver wrote; nothing where no run was begun.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    try:
        found = json.loads((folder / RUN_RECORD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    try:
        found["datasets"] = tuple(DatasetVersion(**entry) for entry in found["datasets"])
        found["summary_metrics"] = {name: SummaryMetric(**entry) for name, entry in found["summary_metrics"].items()}
        found["artifact_paths"] = tuple(found["artifact_paths"])
        return RunRecord(**_select_known_fields(RunRecord, found))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / RUN_RECORD_FILE}: {error}") from error


def find_run_dirs(folder: Path) -> list[Path]:
    """The run of a folder, and after it the trials of a study, in order."""
    return [path.parents[1] for path in _find_record_files([folder, *sorted((folder / "trials").glob("*"))])]


def write_mlflow_file(path: Path, text: str) -> None:
    """Replace a file in `.mlflow`; the folder is made if it is missing."""
    path.parent.mkdir(exist_ok=True)
    write_text_atomically(path, text)


def _find_record_files(folders: Iterable[Path]) -> list[Path]:
    return [folder / RUN_RECORD_FILE for folder in folders if (folder / RUN_RECORD_FILE).is_file()]


def _select_known_fields(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """What this version understands of a file that a newer one may have written."""
    return {entry.name: values[entry.name] for entry in fields(cls) if entry.name in values}
