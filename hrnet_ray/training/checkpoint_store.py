"""Checkpoints on disk: folders `epoch_0037`, each vouched for by its manifest.

An epoch that was interrupted is `paused_0038`, until it is finished.

state.pt        see `hrnet_ray.training.checkpoint`
meta.json       the metrics of the epoch
MANIFEST.json   written last: size and sha256 of the others, and what made them

A checkpoint is written under a hidden name, reaches the disk, and is renamed: a folder with the
final name is whole. Should a disk damage it later, its hashes say so. Which one is the newest is
told by the epoch in its name, never by a clock.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hrnet_ray.errors import DataError

STATE, META, MANIFEST = "state.pt", "meta.json", "MANIFEST.json"
FORMAT = 2  # 1 had no meta.json
KEPT = 3  # checkpoints, the newest
UNFINISHED = ".part-"  # begins the name of what is being written, or removed

Entry = dict[str, Any]
"""What the manifest says of a file: `bytes` and `sha256`."""
Entries = dict[str, Entry]
Write = Callable[[Path], Entries]
"""Writes a checkpoint's state into an empty folder."""

_NAME = re.compile(r"(epoch|paused)_(\d{4,9})")


class Sink:
    """A file being written: hashed on its way, and on the disk when it is closed.

    torch hides an error of the file that it writes to behind one of its own; it is kept here.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._bytes = 0
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        size = memoryview(data).nbytes
        self._bytes += size
        return size

    def flush(self) -> None:
        """Nothing: `close` sees to it."""

    def close(self) -> Entry:
        """Bring the file to the disk; what the manifest says of it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def drop(self) -> None:
        """Close a file that nobody wants any more."""
        with suppress(OSError):  # what it still holds does not fit: the reason for dropping it
            self._file.close()


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(
        self, folder: Path, *, keep: int = KEPT, about: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.keep, self.about = folder, keep, dict(about or {})

    def newest_first(self) -> list[Path]:
        """Checkpoint folders by epoch, damaged ones too."""
        found = (path for path in self.folder.glob("*_*") if _NAME.fullmatch(path.name))
        return sorted((p for p in found if p.is_dir()), key=_place, reverse=True)

    def save(
        self, epoch: int, write: Write, *, metrics: Mapping[str, Any], paused: bool = False
    ) -> Path:
        """Add the checkpoint of an epoch, finished or `paused`, then let go of the oldest.

        Raises:
            OSError: it could not be written; nothing of it is left behind.
        """
        final = self.folder / checkpoint_name(epoch, paused=paused)
        part = self.folder / f"{UNFINISHED}{final.name}"
        shutil.rmtree(part, ignore_errors=True)  # of a worker that was killed here
        try:
            part.mkdir(parents=True)
            entries = write(part)
            entries[META] = put_json(part / META, {"epoch": epoch, "metrics": dict(metrics)})
            seal(part, entries, epoch=epoch, about=self.about)
            if final.exists():  # of an epoch that is done again
                _remove(final)
            part.rename(final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_folder(self.folder)
        if not paused:
            self._prune(epoch)
        return final

    def tidy(self) -> None:
        """Remove what was never finished."""
        for part in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(part, ignore_errors=True)

    def _prune(self, epoch: int) -> None:
        # Newer ones are damaged: their epochs are done again, and written over.
        done = [path for path in self.newest_first() if epoch_of(path) <= epoch]
        for past in filter(is_paused, done):
            _remove(past)
        for old in [path for path in done if not is_paused(path)][self.keep :]:
            _remove(old)


def checkpoint_name(epoch: int, *, paused: bool = False) -> str:
    """The same epoch always has the same folder: what a crash left behind is written over."""
    return f"{'paused' if paused else 'epoch'}_{epoch:04d}"


def epoch_of(folder: Path) -> int:
    """The inverse of `checkpoint_name`."""
    return int(folder.name.rpartition("_")[2])


def is_paused(folder: Path) -> bool:
    """Whether it was saved in the middle of its epoch."""
    return folder.name.startswith("paused_")


def _place(folder: Path) -> tuple[int, bool]:
    """In time: an epoch is paused before it is finished."""
    return epoch_of(folder), not is_paused(folder)


def put_json(path: Path, content: Any) -> Entry:
    """Write a small file through to the disk."""
    sink = Sink(path)
    try:
        sink.write(json.dumps(content, indent=2).encode())
        return sink.close()
    except BaseException:
        sink.drop()
        raise


def seal(folder: Path, entries: Entries, *, epoch: int, about: Mapping[str, Any]) -> None:
    """Vouch for the files of a checkpoint: the last thing that is written into it."""
    manifest = {"format": FORMAT, "epoch": epoch, "about": dict(about), "files": entries}
    put_json(folder / MANIFEST, manifest)
    sync_folder(folder)


def verify(folder: Path) -> dict[str, Any]:
    """Compare a checkpoint with its manifest, and return the manifest.

    Raises:
        DataError: it is unfinished or damaged, or lies under another epoch's name.
    """
    if reason := _fault(folder):
        raise damaged(folder, reason)
    return json.loads((folder / MANIFEST).read_bytes())


def metrics_of(folder: Path) -> dict[str, Any] | None:
    """The metrics that were recorded with a verified checkpoint."""
    path = folder / META
    return json.loads(path.read_bytes())["metrics"] if path.is_file() else None


def damaged(folder: Path, reason: str) -> DataError:
    """What is said of a checkpoint that cannot be used."""
    return DataError(
        "a checkpoint that is unfinished or damaged",
        f"{folder}: {reason}",
        "give the same command again: the run goes on from the newest whole one",
    )


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    """At once for whoever looks at the names; should it be killed, `tidy` does the rest."""
    gone = folder.with_name(f"{UNFINISHED}old-{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _fault(folder: Path) -> str | None:
    """Why a checkpoint cannot be trusted, in a few words."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        version, epoch = int(manifest["format"]), int(manifest["epoch"])
        files = {str(name): (e["bytes"], e["sha256"]) for name, e in manifest["files"].items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so it was never finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    if version > FORMAT:
        return f"it was written by a newer version (format {version}, known {FORMAT})"
    if not files.keys() <= {STATE, META} or STATE not in files:
        return f"{MANIFEST} vouches for other files than a checkpoint has"
    if _NAME.fullmatch(folder.name) and epoch != epoch_of(folder):
        return f"it holds epoch {epoch}"
    faults = (_file_fault(folder / name, *entry) for name, entry in files.items())
    return next((fault for fault in faults if fault), None)


def _file_fault(path: Path, size: Any, sha256: Any) -> str | None:
    try:
        if path.stat().st_size != size:
            return f"{path.name} has {path.stat().st_size:,} bytes, its manifest says {size}"
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror or error})"
    return None if whole else f"{path.name} is not what was written (its sha256 differs)"
