"""Checkpoints on disk: one folder per epoch, verified by a manifest. Epochs count from 1.

`epoch_0037` is the state after epoch 37, `mid_epoch_0038` an interruption during epoch 38.

state.pt        see `hrnet_ray.training.checkpoint`
metrics.json    the metrics of the epoch
MANIFEST.json   written last: size and SHA-256 of the other files, and their origin

A checkpoint is written under a hidden name, synced to disk, and renamed, so a folder with the final
name is complete. The hashes detect later damage. The newest is the one with the highest epoch in
its name; clocks do not matter.
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
from hrnet_ray.utils.files import sha256_file

STATE_FILE, METRICS_FILE, MANIFEST_FILE = "state.pt", "metrics.json", "MANIFEST.json"
MANIFEST_VERSION = 2
"""Version 1 had no metrics file."""
NUM_TO_KEEP = 3
"""Checkpoints of finished epochs that are kept."""
TEMP_PREFIX = ".part-"
"""Prefix of a folder that is being written or removed."""

FileEntry = dict[str, Any]
"""A file in the manifest: `bytes` and `sha256`."""
FileEntries = dict[str, FileEntry]
StateWriter = Callable[[Path], FileEntries]
"""Writes a checkpoint's state into an empty folder."""

_DIR_NAME_PATTERN = re.compile(r"(epoch|mid_epoch)_(\d{4,9})")


class HashingWriter:
    """A file that is hashed while it is written, and synced to disk on close.

    `torch.save` replaces an OSError by an error of its own; `write_error` keeps the original.
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
        """Do nothing: `close` flushes."""

    def close(self) -> FileEntry:
        """Sync the file to disk and return its manifest entry."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def close_ignoring_errors(self) -> None:
        """Close a file that is discarded, because its buffer may not fit on the disk."""
        with suppress(OSError):
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
        """List the checkpoint folders by epoch, corrupt ones included."""
        folders = (
            path for path in self.folder.glob("*epoch_*") if _DIR_NAME_PATTERN.fullmatch(path.name) and path.is_dir()
        )
        return sorted(folders, key=_get_sort_key, reverse=True)

    def save_checkpoint(
        self,
        epoch: int,
        write_state: StateWriter,
        *,
        metrics: Mapping[str, Any],
        mid_epoch: bool = False,
    ) -> Path:
        """Add the checkpoint of a finished or interrupted epoch, then remove the oldest.

        Raises:
            OSError: the checkpoint could not be written; no part of it is left.
        """
        final = self.folder / format_checkpoint_dir_name(epoch, mid_epoch=mid_epoch)
        part = self.folder / f"{TEMP_PREFIX}{final.name}"
        shutil.rmtree(part, ignore_errors=True)  # left by a killed worker
        try:
            part.mkdir(parents=True)
            entries = write_state(part)
            entries[METRICS_FILE] = write_json_synced(part / METRICS_FILE, {"epoch": epoch, "metrics": dict(metrics)})
            write_manifest(part, entries, epoch=epoch, metadata=self.metadata)
            if final.exists():  # the epoch was repeated
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
        """Remove checkpoints that were never completed."""
        for part in self.folder.glob(f"{TEMP_PREFIX}*"):
            shutil.rmtree(part, ignore_errors=True)

    def _prune_old(self, epoch: int) -> None:
        # Newer checkpoints are corrupt: their epochs are repeated, and replaced.
        done = [path for path in self.list_newest_first() if parse_epoch(path) <= epoch]
        for interrupted in filter(is_mid_epoch, done):
            _remove_checkpoint(interrupted)
        for old in [path for path in done if not is_mid_epoch(path)][self.num_to_keep :]:
            _remove_checkpoint(old)


def format_checkpoint_dir_name(epoch: int, *, mid_epoch: bool = False) -> str:
    """Return the folder name of an epoch; a repeated epoch gets the same name."""
    return f"{'mid_epoch' if mid_epoch else 'epoch'}_{epoch:04d}"


def parse_epoch(folder: Path) -> int:
    """Return the epoch in a folder name."""
    return int(folder.name.rpartition("_")[2])


def is_mid_epoch(folder: Path) -> bool:
    """Whether the checkpoint is of an interrupted epoch."""
    return folder.name.startswith("mid_epoch_")


def _get_sort_key(folder: Path) -> tuple[int, bool]:
    """Sort key in time: an epoch is interrupted before it is finished."""
    return parse_epoch(folder), not is_mid_epoch(folder)


def write_json_synced(path: Path, content: Any) -> FileEntry:
    """Write a small JSON file and sync it to disk."""
    sink = HashingWriter(path)
    try:
        sink.write(json.dumps(content, indent=2).encode())
        return sink.close()
    except BaseException:
        sink.close_ignoring_errors()
        raise


def write_manifest(folder: Path, entries: FileEntries, *, epoch: int, metadata: Mapping[str, Any]) -> None:
    """Write the manifest, the last file of a checkpoint."""
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
        DataError: the checkpoint is incomplete, corrupt, or has another epoch's name.
    """
    if reason := _find_corruption(folder):
        raise make_corrupt_checkpoint_error(folder, reason)
    return json.loads((folder / MANIFEST_FILE).read_bytes())


def read_checkpoint_metrics(folder: Path) -> dict[str, Any] | None:
    """Read the metrics of a verified checkpoint; None if it has none."""
    path = folder / METRICS_FILE
    return json.loads(path.read_bytes())["metrics"] if path.is_file() else None


def make_corrupt_checkpoint_error(folder: Path, reason: str) -> DataError:
    """Build the error of an unusable checkpoint."""
    return DataError(
        "the checkpoint is incomplete or corrupt",
        f"{folder}: {reason}",
        "run the same command again: it resumes from the newest intact checkpoint",
    )


def sync_dir_to_disk(folder: Path) -> None:
    """Sync the directory entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_checkpoint(folder: Path) -> None:
    """Rename, then delete, so that its name vanishes at once; see `remove_unfinished`."""
    trash = folder.with_name(f"{TEMP_PREFIX}old-{folder.name}")
    shutil.rmtree(trash, ignore_errors=True)
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _find_corruption(folder: Path) -> str | None:
    """Return why a checkpoint is unusable, or None."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        version, epoch = int(manifest["format"]), int(manifest["epoch"])
        files = {str(name): (e["bytes"], e["sha256"]) for name, e in manifest["files"].items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST_FILE}, so it was never completed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST_FILE} is unreadable ({type(error).__name__})"
    if version > MANIFEST_VERSION:
        return f"it was written by a newer version (format {version}, known {MANIFEST_VERSION})"
    if not files.keys() <= {STATE_FILE, METRICS_FILE} or STATE_FILE not in files:
        return f"{MANIFEST_FILE} lists files that no checkpoint has"
    if _DIR_NAME_PATTERN.fullmatch(folder.name) and epoch != parse_epoch(folder):
        return f"it holds epoch {epoch}"
    reasons = (_find_file_corruption(folder / name, *entry) for name, entry in files.items())
    return next((reason for reason in reasons if reason), None)


def _find_file_corruption(path: Path, expected_bytes: Any, expected_sha256: Any) -> str | None:
    try:
        if (size := path.stat().st_size) != expected_bytes:
            return f"{path.name} has {size:,} bytes, its manifest lists {expected_bytes}"
        matches = sha256_file(path) == expected_sha256
    except OSError as error:
        return f"{path.name} is unreadable ({error.strerror or error})"
    return None if matches else f"{path.name} has changed since it was written (SHA-256 differs)"
