"""Checkpoints on disk: folders `epoch_0037`, each vouched for by its manifest.

An epoch that was interrupted is `mid_epoch_0038`, until it is finished.

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

STATE_FILE, METRICS_FILE, MANIFEST_FILE = "state.pt", "metrics.json", "MANIFEST.json"
MANIFEST_VERSION = 2  # 1 had no meta.json
NUM_TO_KEEP = 3  # checkpoints, the newest
TEMP_PREFIX = ".part-"  # begins the name of what is being written, or removed

FileEntry = dict[str, Any]
"""What the manifest says of a file: `bytes` and `sha256`."""
FileEntries = dict[str, FileEntry]
StateWriter = Callable[[Path], FileEntries]
"""Writes a checkpoint's state into an empty folder."""

_DIR_NAME_PATTERN = re.compile(r"(epoch|paused)_(\d{4,9})")


class HashingWriter:
    """A file being written: hashed on its way, and on the disk when it is closed.

    torch hides an error of the file that it writes to behind one of its own; it is kept here.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._bytes = 0
        self.write_error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.write_error = error
            raise
        self._hash.update(data)
        size = memoryview(data).nbytes
        self._bytes += size
        return size

    def flush(self) -> None:
        """Nothing: `close` sees to it."""

    def close(self) -> FileEntry:
        """Bring the file to the disk; what the manifest says of it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def close_ignoring_errors(self) -> None:
        """Close a file that nobody wants any more."""
        with suppress(OSError):  # what it still holds does not fit: the reason for dropping it
            self._file.close()


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(
        self,
        folder: Path,
        *,
        num_to_keep: int = NUM_TO_KEEP,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.num_to_keep, self.metadata = folder, num_to_keep, dict(metadata or {})

    def list_newest_first(self) -> list[Path]:
        """Checkpoint folders by epoch, damaged ones too."""
        found = (path for path in self.folder.glob("*_*") if _DIR_NAME_PATTERN.fullmatch(path.name))
        return sorted((p for p in found if p.is_dir()), key=_get_sort_key, reverse=True)

    def save_checkpoint(
        self,
        epoch: int,
        write_state: StateWriter,
        *,
        metrics: Mapping[str, Any],
        mid_epoch: bool = False,
    ) -> Path:
        """Add the checkpoint of an epoch, finished or `paused`, then let go of the oldest.

        Raises:
            OSError: it could not be written; nothing of it is left behind.
        """
        final = self.folder / format_checkpoint_dir_name(epoch, mid_epoch=mid_epoch)
        part = self.folder / f"{TEMP_PREFIX}{final.name}"
        shutil.rmtree(part, ignore_errors=True)  # of a worker that was killed here
        try:
            part.mkdir(parents=True)
            entries = write_state(part)
            entries[METRICS_FILE] = write_json_synced(
                part / METRICS_FILE, {"epoch": epoch, "metrics": dict(metrics)}
            )
            write_manifest(part, entries, epoch=epoch, metadata=self.metadata)
            if final.exists():  # of an epoch that is done again
                _remove_checkpoint(final)
            part.rename(final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_dir_to_disk(self.folder)
        if not mid_epoch:
            self._prune_old(epoch)
        return final

    def remove_unfinished(self) -> None:
        """Remove what was never finished."""
        for part in self.folder.glob(f"{TEMP_PREFIX}*"):
            shutil.rmtree(part, ignore_errors=True)

    def _prune_old(self, epoch: int) -> None:
        # Newer ones are damaged: their epochs are done again, and written over.
        done = [path for path in self.list_newest_first() if parse_epoch(path) <= epoch]
        for past in filter(is_mid_epoch, done):
            _remove_checkpoint(past)
        for old in [path for path in done if not is_mid_epoch(path)][self.num_to_keep :]:
            _remove_checkpoint(old)


def format_checkpoint_dir_name(epoch: int, *, mid_epoch: bool = False) -> str:
    """The same epoch always has the same folder: what a crash left behind is written over."""
    return f"{'paused' if mid_epoch else 'epoch'}_{epoch:04d}"


def parse_epoch(folder: Path) -> int:
    """The inverse of `checkpoint_name`."""
    return int(folder.name.rpartition("_")[2])


def is_mid_epoch(folder: Path) -> bool:
    """Whether it was saved in the middle of its epoch."""
    return folder.name.startswith("mid_epoch_")


def _get_sort_key(folder: Path) -> tuple[int, bool]:
    """In time: an epoch is paused before it is finished."""
    return parse_epoch(folder), not is_mid_epoch(folder)


def write_json_synced(path: Path, content: Any) -> FileEntry:
    """Write a small file through to the disk."""
    sink = HashingWriter(path)
    try:
        sink.write(json.dumps(content, indent=2).encode())
        return sink.close()
    except BaseException:
        sink.close_ignoring_errors()
        raise


def write_manifest(
    folder: Path, entries: FileEntries, *, epoch: int, metadata: Mapping[str, Any]
) -> None:
    """Vouch for the files of a checkpoint: the last thing that is written into it."""
    manifest = {
        "format": MANIFEST_VERSION,
        "epoch": epoch,
        "about": dict(metadata),
        "files": entries,
    }
    write_json_synced(folder / MANIFEST_FILE, manifest)
    sync_dir_to_disk(folder)


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Compare a checkpoint with its manifest, and return the manifest.

    Raises:
        DataError: it is unfinished or damaged, or lies under another epoch's name.
    """
    if reason := _find_corruption(folder):
        raise make_corrupt_checkpoint_error(folder, reason)
    return json.loads((folder / MANIFEST_FILE).read_bytes())


def read_checkpoint_metrics(folder: Path) -> dict[str, Any] | None:
    """The metrics that were recorded with a verified checkpoint."""
    path = folder / METRICS_FILE
    return json.loads(path.read_bytes())["metrics"] if path.is_file() else None


def make_corrupt_checkpoint_error(folder: Path, reason: str) -> DataError:
    """What is said of a checkpoint that cannot be used."""
    return DataError(
        "a checkpoint that is unfinished or damaged",
        f"{folder}: {reason}",
        "give the same command again: the run goes on from the newest whole one",
    )


def sync_dir_to_disk(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_checkpoint(folder: Path) -> None:
    """At once for whoever looks at the names; should it be killed, `tidy` does the rest."""
    gone = folder.with_name(f"{TEMP_PREFIX}old-{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _find_corruption(folder: Path) -> str | None:
    """Why a checkpoint cannot be trusted, in a few words."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        version, epoch = int(manifest["format"]), int(manifest["epoch"])
        files = {str(name): (e["bytes"], e["sha256"]) for name, e in manifest["files"].items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST_FILE}, so it was never finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST_FILE} cannot be read ({type(error).__name__})"
    if version > MANIFEST_VERSION:
        return f"it was written by a newer version (format {version}, known {MANIFEST_VERSION})"
    if not files.keys() <= {STATE_FILE, METRICS_FILE} or STATE_FILE not in files:
        return f"{MANIFEST_FILE} vouches for other files than a checkpoint has"
    if _DIR_NAME_PATTERN.fullmatch(folder.name) and epoch != parse_epoch(folder):
        return f"it holds epoch {epoch}"
    faults = (_find_file_corruption(folder / name, *entry) for name, entry in files.items())
    return next((fault for fault in faults if fault), None)


def _find_file_corruption(path: Path, expected_bytes: Any, expected_sha256: Any) -> str | None:
    try:
        if path.stat().st_size != expected_bytes:
            return (
                f"{path.name} has {path.stat().st_size:,} bytes, its manifest says {expected_bytes}"
            )
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == expected_sha256
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror or error})"
    return None if whole else f"{path.name} is not what was written (its sha256 differs)"
