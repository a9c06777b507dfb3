"""Saving and restoring of a run's checkpoints: rank 0 saves, all ranks restore the same one.

The checkpoints are in the run folder on the shared storage. Ray does not manage them: it drops a
checkpoint whose worker dies within two seconds, and never returns to an older one.
"""

import platform
from collections.abc import Callable, Mapping
from itertools import filterfalse
from pathlib import Path
from typing import Any

from hrnet_ray.errors import ClusterError, DataError
from hrnet_ray.runs.event_log import append_metrics, log_event, read_metrics
from hrnet_ray.runs.run_dir import check_writable
from hrnet_ray.training.checkpoint_store import (
    CheckpointStore,
    FileEntries,
    is_mid_epoch,
    parse_epoch,
    read_checkpoint_metrics,
)
from hrnet_ray.utils.collectives import gather_objects

CHECKPOINTS_DIR = "checkpoints"
"""Folder of a run for checkpoints. Ray keeps files of its own there."""
MAX_FAILED_SAVES = 3
"""Consecutive failed saves after which a run stops, to limit the epochs that can be lost."""

SaveStateFn = Callable[[Path], FileEntries]
"""Writes the state of a checkpoint into an empty folder, and returns its manifest entries."""
LoadStateFn = Callable[[Path], None]
"""Restores a checkpoint; raises DataError, and changes nothing, if it is corrupt."""


class CheckpointManager:
    """Tolerates failed saves, and restores the newest checkpoint that every rank can read.

    Epochs count from 1.
    """

    def __init__(self, run_folder: Path, provenance: Mapping[str, Any]) -> None:
        self.run_folder = run_folder
        self.store = CheckpointStore(run_folder / CHECKPOINTS_DIR, metadata=provenance)
        self._rejected_checkpoints = 0
        self._failed_saves = 0
        self._unwritten_metrics: list[dict[str, Any]] = []

    def require_storage(self, *, is_rank0: bool) -> None:
        """Check the storage before the first step.

        Raises:
            ClusterError: this node does not see the run folder, or rank 0 cannot write to it.
        """
        where = f"{self.run_folder} on {platform.node()}"
        if not (self.run_folder / "resolved_config.json").is_file():
            raise ClusterError(
                "this node does not see the run folder",
                where,
                "mount the storage under the same path on every node",
            )
        if not is_rank0:
            return
        try:
            check_writable(self.store.folder)
        except OSError as error:
            raise ClusterError(
                "the run folder must be writable",
                f"{where}: {error.strerror or error}",
                "free some space, or choose a --cluster.storage-path that every node can write to",
            ) from error

    def save_checkpoint(self, metrics: Mapping[str, Any], *, epoch: int, save_state: SaveStateFn) -> dict[str, Any]:
        """Save an epoch, then append its metrics; returns the appended entry.

        Raises:
            ClusterError: three saves in a row failed.
        """
        entry = dict(metrics)
        if self._rejected_checkpoints:
            entry["fault/rejected_checkpoints"] = self._rejected_checkpoints
        try:
            self.store.save_checkpoint(epoch, save_state, metrics=entry)
        except OSError as error:
            self._failed_saves += 1
            entry["fault/failed_saves"] = self._failed_saves
            self._handle_failed_save(epoch, error)
        else:
            self._rejected_checkpoints = self._failed_saves = 0
        self._write_metrics_entry(entry)
        return entry

    def save_mid_epoch(self, *, epoch: int, save_state: SaveStateFn) -> None:
        """Save an interrupted epoch; after a failure the epoch starts over when resumed."""
        try:
            self.store.save_checkpoint(epoch, save_state, metrics={}, mid_epoch=True)
        except OSError as error:
            where = f"{self.store.folder} on {platform.node()}: {error.strerror or error}"
            log_event(self.run_folder, "failed_save", f"interrupted epoch {epoch} not saved: {where}")

    def restore_checkpoint(self, load_state: LoadStateFn, *, is_rank0: bool, allow_mid_epoch: bool = True) -> None:
        """Call `load_state` with the newest checkpoint that is intact on every rank, if any.

        `allow_mid_epoch` includes checkpoints of interrupted epochs.

        Raises:
            ClusterError: some ranks can read a checkpoint that others cannot.
        """
        if is_rank0:
            self.store.remove_unfinished()
        ranks_disagree = False
        candidates = [path for path in self.store.list_newest_first() if allow_mid_epoch or not is_mid_epoch(path)]
        for name in gather_objects([path.name for path in candidates])[0]:
            reasons = gather_objects(_try_load_checkpoint(load_state, self.store.folder / name))
            if not any(reasons):
                if is_rank0:
                    self._recover_missing_metrics(Path(name))
                return
            ranks_disagree |= not all(reasons)
            self._rejected_checkpoints += 1
            if is_rank0:
                log_event(self.run_folder, "rejected_checkpoint", next(filter(None, reasons)))
        if ranks_disagree:
            raise ClusterError(
                "the workers do not see the same checkpoints",
                str(self.store.folder),
                "mount the same storage on every node",
            )
        if self._rejected_checkpoints and is_rank0:
            message = f"all {self._rejected_checkpoints} checkpoints are corrupt: training from the start"
            log_event(self.run_folder, "no_checkpoint", message)

    def _handle_failed_save(self, epoch: int, error: OSError) -> None:
        where = f"{self.store.folder} on {platform.node()}: {error.strerror or error}"
        if self._failed_saves >= MAX_FAILED_SAVES:
            raise ClusterError(
                f"{self._failed_saves} checkpoints in a row could not be saved",
                where,
                "free some space, then run the same command to resume from the last checkpoint",
            ) from error
        message = f"checkpoint of epoch {epoch} not saved: {where}; training continues"
        log_event(self.run_folder, "failed_save", message)

    def _write_metrics_entry(self, entry: dict[str, Any]) -> None:
        """Append to metrics.jsonl; on a full disk the line is appended with the next epoch's."""
        self._unwritten_metrics.append(entry)
        try:
            while self._unwritten_metrics:
                append_metrics(self.run_folder, self._unwritten_metrics[0])
                del self._unwritten_metrics[0]
        except OSError as error:
            print(f"metrics not written yet: {error}", flush=True)

    def _recover_missing_metrics(self, newest_checkpoint: Path) -> None:
        """Append the epochs that a worker saved but did not append before it died."""
        recorded = {entry["epoch"] for entry in read_metrics(self.run_folder)}
        finished = filterfalse(is_mid_epoch, self.store.list_newest_first())
        for folder in reversed(list(finished)):
            if parse_epoch(folder) <= parse_epoch(newest_checkpoint) and parse_epoch(folder) not in recorded:
                try:
                    metrics = read_checkpoint_metrics(folder)
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # an older checkpoint, corrupted since
                if metrics:
                    append_metrics(self.run_folder, metrics)


def _try_load_checkpoint(load_state: LoadStateFn, checkpoint_dir: Path) -> str:
    """Restore a checkpoint; returns why it was rejected, or an empty string."""
    try:
        load_state(checkpoint_dir)
    except DataError as error:
        return f"skipped checkpoint {error.where}"
    return ""
