"""The driver's side: what it says of a run goes to the run's folder, and a thread tells MLflow.

Nothing here waits for a server, or fails because of one. Only the end of a run gives the thread a
few seconds, and says what it could not tell in them.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hrnet_ray.errors import UsageError
from hrnet_ray.text import without_secrets
from hrnet_ray.tracking.run_history import read_epochs
from hrnet_ray.tracking.run_record import (
    LOST,
    RUNNING,
    DataVersion,
    Figure,
    Story,
    key_of,
    read_story,
    stories_below,
    write_story,
)

if TYPE_CHECKING:
    from hrnet_ray.tracking.system_metrics import Sampler

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
DRAIN_S, HURRIED_S, DATABASE_S = 15.0, 2.0, 60.0
"""How long the end of a run waits for MLflow: for a server, when somebody is in a hurry and stopped
the run, and for a database file, which hangs on no network."""

log = logging.getLogger("hrnet_ray.tracking")


def database_uri(storage: Path) -> str:
    """The MLflow store used where no server is named: a file in the storage folder."""
    return f"sqlite:///{storage.absolute() / 'mlflow.db'}"


class Board:
    """One MLflow experiment: all runs on one data set, so that they can be compared."""

    def __init__(self, experiment: str, *, storage: Path, tracking_uri: str | None) -> None:
        # mlflow costs two seconds; only the driver pays them, and its threads import nothing.
        from hrnet_ray.tracking.sync_thread import Shipper

        self.experiment, self.storage, self.tracking_uri = experiment, storage, tracking_uri
        self.shipper: Shipper = Shipper(tracking_uri or database_uri(storage))
        self.sampler: Sampler | None = None

    @classmethod
    def open(cls, data_name: str, *, storage: Path, tracking_uri: str | None) -> "Board":
        """The experiment `hrnet/<data set>`. No server is asked: it may come back later.

        Raises:
            UsageError: this can be no address of an MLflow store.
        """
        if tracking_uri:
            check_address(tracking_uri)
        return cls(f"hrnet/{data_name}", storage=storage, tracking_uri=tracking_uri)

    def watch_machine(self, folder: Path) -> None:
        """Note how busy this machine is, in the folder of a run."""
        from hrnet_ray.tracking.system_metrics import Sampler

        if self.sampler is None:
            self.sampler = Sampler(folder)

    def close(self, folder: Path, *, hurried: bool) -> None:
        """Wait a little for what is not told yet, and say in one line what remains."""
        if self.sampler:
            self.sampler.close()
        within_s = HURRIED_S if hurried else DRAIN_S
        if not self.tracking_uri:
            within_s = DATABASE_S
        if left := self.shipper.close(within_s=within_s):
            print(_untold(left, self.shipper.trouble, folder), flush=True)


class Run:
    """A handle on one run: a training, a study, or one of its trials."""

    def __init__(self, board: Board, folder: Path, story: Story) -> None:
        self.board, self.folder = board, folder
        self._story = story
        self._write(story)

    @classmethod
    def open(
        cls,
        board: Board,
        folder: Path,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        data: Sequence[DataVersion] = (),
        parent: "Run | None" = None,
    ) -> "Run":
        """Begin the story of a folder, or go on with it: the same folder is always the same run.

        One that was removed and made again is another. Settings and name stay those of the first
        time; tags are those of the last.
        """
        story = _story_of(folder) or Story(
            experiment=board.experiment,
            storage=os.path.relpath(board.storage, folder),
            key=key_of(folder),
            name=name,
            began_ms=_now_ms(),
            params={name: without_secrets(str(value)) for name, value in params.items()},
            data=tuple(data),
            parent=os.path.relpath(parent.folder, folder) if parent else None,
        )
        uri = board.tracking_uri
        address = without_secrets(uri, {}) if uri else None
        run = cls(board, folder, replace(story, address=address, tags=_clean(tags), status=RUNNING))
        if parent is None:
            board.watch_machine(folder)
        board.shipper.follow(folder)
        return run

    def log_summary(self, values: Mapping[str, float], *, tags: Mapping[str, str]) -> None:
        """Note what the whole run came to, and mark it."""
        known, now = self._story.figures, _now_ms()
        fresh = {
            name: Figure(value=value, at_ms=now)
            for name, value in values.items()
            if name not in known or known[name].value != value
        }
        tags = self._story.tags | _clean(tags)
        self._write(replace(self._story, figures=known | fresh, tags=tags))

    def log_folder(self, folder: Path, *, only: tuple[str, ...]) -> None:
        """Copy files and folders of the run's own tree, under the same names."""
        self._write(replace(self._story, files=only))

    def finish(self, status: str) -> None:
        """FINISHED, FAILED or KILLED. It is the last word on a study, or on a run by itself."""
        at_ms, last = self._story.ended_ms, last_sign(self.folder)
        if self._story.parent and last:
            at_ms = last  # its study tells of all ends at once, when it ends itself
        elif at_ms is None or at_ms < last:  # else nothing came to it since it ended before
            at_ms = _now_ms()
        self._write(replace(self._story, status=status, ended_ms=at_ms))
        if self._story.parent is None:
            give_up_lost(stories_below(self.folder)[1:])
            self.board.close(self.folder, hurried=status == "KILLED")

    def _write(self, story: Story) -> None:
        self._story = story
        try:
            write_story(self.folder, story)
        except OSError as error:
            log.warning("not noted for MLflow: %s (%s)", self.folder, error.strerror or error)


def give_up_lost(folders: Sequence[Path]) -> None:
    """Give an end to runs that nobody works on any more, and that could not say how they ended."""
    for folder in folders:
        story = _story_of(folder)
        if story and story.status == RUNNING:
            at_ms = last_sign(folder) or story.began_ms
            tags = story.tags | LOST
            write_story(folder, replace(story, status="KILLED", ended_ms=at_ms, tags=tags))


def last_sign(folder: Path) -> int:
    """When the last epoch of a run, or of any trial of a study, was recorded; 0 if none was."""
    times = [e.get("at_ms", 0) for run in stories_below(folder) for e in read_epochs(run)]
    return max(times, default=0)


def check_address(uri: str) -> None:
    """Refuse what can be no MLflow store.

    Raises:
        UsageError: it names no server and no database.
    """
    parts = urlsplit(uri)
    known = parts.scheme.split("+")[0] in SCHEMES and (parts.netloc or parts.path)
    if not known and uri != "databricks":
        raise UsageError(
            "no address of an MLflow server or database",
            f"--cluster.tracking-uri {without_secrets(uri)}",
            "give http://HOST:PORT or sqlite:///FILE, or leave it out: then it is a file in the "
            "storage folder",
        )


def _story_of(folder: Path) -> Story | None:
    """What was told before; one that cannot be read is begun anew, and finds the same run."""
    try:
        return read_story(folder)
    except (OSError, ValueError):
        return None


def _clean(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: without_secrets(value) for name, value in tags.items()}


def _untold(left: Counter[str], reason: str, folder: Path) -> str:
    counts = ", ".join(f"{count} {what}" for what, count in left.items())
    command = f"hrnet-ray mlflow-sync {os.path.relpath(folder)}"
    why = f"{counts}; {reason or 'it is slow'}"
    return f"MLflow was not told everything yet ({why}); later: {command}"


def _now_ms() -> int:
    return int(time.time() * 1000)
