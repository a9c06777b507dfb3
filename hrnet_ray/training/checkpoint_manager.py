"""A run's checkpoints, as its workers use them: one of them saves, all of them go on from the same.

They lie in the run's folder on the shared storage, under their own names. Ray is not asked to keep
them: it forgets one whose worker dies within two seconds, and never goes back to an older one.
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
"""In the run's folder. Ray keeps files of its own there, and the checkpoints of older runs."""
MAX_FAILED_SAVES = 3
"""Failed saves in a row after which a run stops: more would be lost than is worth having."""

SaveStateFn = Callable[[Path], FileEntries]
"""Writes the state of a checkpoint into an empty folder."""
LoadStateFn = Callable[[Path], None]
"""Goes on from a checkpoint; a DataError says that it is damaged, and nothing has changed."""


class CheckpointManager:
    """Saves with patience, and goes on from the newest checkpoint that everybody can read."""

    def __init__(self, run_folder: Path, provenance: Mapping[str, Any]) -> None:
        self.run_folder = run_folder
        self.store = CheckpointStore(run_folder / CHECKPOINTS_DIR, metadata=provenance)
        self._rejected_checkpoints = 0
        self._failed_saves = 0
        self._unwritten_metrics: list[dict[str, Any]] = []

    def require_storage(self, *, is_rank0: bool) -> None:
        """Find before the first step what would cost all of them.

        Raises:
            ClusterError: this node does not see the run's folder, or the first worker cannot write.
        """
        where = f"{self.run_folder} on {platform.node()}"
        if not (self.run_folder / "resolved_config.json").is_file():
            raise ClusterError(
                "this node does not see the run's folder",
                where,
                "mount the storage under the same path on every node",
            )
        if not is_rank0:
            return
        try:
            check_writable(self.store.folder)
        except OSError as error:
            raise ClusterError(
                "the run's folder cannot be written to",
                f"{where}: {error.strerror or error}",
                "free some space, or give a --cluster.storage-path that every node can write to",
            ) from error

    def save_checkpoint(
        self, metrics: Mapping[str, Any], *, epoch: int, save_state: SaveStateFn
    ) -> dict[str, Any]:
        """Save an epoch and then record it; returns what was recorded.

        Raises:
            ClusterError: it was the third in a row that could not be saved.
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
        """Save in the middle of an epoch; should that fail, it is done again from its beginning."""
        try:
            self.store.save_checkpoint(epoch, save_state, metrics={}, mid_epoch=True)
        except OSError as error:
            where = f"{self.store.folder} on {platform.node()}: {error.strerror or error}"
            log_event(self.run_folder, "failed_save", f"epoch {epoch + 1} is lost: {where}")

    def restore_checkpoint(
        self, load_state: LoadStateFn, *, is_rank0: bool, allow_mid_epoch: bool = True
    ) -> None:
        """Call `load` with the newest checkpoint that is whole for every worker, if there is any.

        `midway`: one in the middle of an epoch will do.

        Raises:
            ClusterError: some workers could read a checkpoint, others none.
        """
        if is_rank0:
            self.store.remove_unfinished()
        mixed = False
        found = [
            path
            for path in self.store.list_newest_first()
            if allow_mid_epoch or not is_mid_epoch(path)
        ]
        for name in gather_objects([path.name for path in found])[0]:
            reasons = gather_objects(_try_load_checkpoint(load_state, self.store.folder / name))
            if not any(reasons):
                if is_rank0:
                    self._recover_missing_metrics(Path(name))
                return
            mixed |= not all(reasons)
            self._rejected_checkpoints += 1
            if is_rank0:
                log_event(self.run_folder, "rejected_checkpoint", next(filter(None, reasons)))
        if mixed:
            raise ClusterError(
                "the workers do not see the same checkpoints",
                str(self.store.folder),
                "check that the storage is the same on every node",
            )
        if self._rejected_checkpoints and is_rank0:
            note = f"none of the {self._rejected_checkpoints} checkpoints is whole: the run begins anew"
            log_event(self.run_folder, "no_checkpoint", note)

    def _handle_failed_save(self, epoch: int, error: OSError) -> None:
        where = f"{self.store.folder} on {platform.node()}: {error.strerror or error}"
        if self._failed_saves >= MAX_FAILED_SAVES:
            raise ClusterError(
                f"{self._failed_saves} checkpoints in a row could not be saved",
                where,
                "free some space; the same command then goes on from the last one that was",
            ) from error
        note = f"no checkpoint of epoch {epoch + 1}: {where}; training goes on"
        log_event(self.run_folder, "failed_save", note)

    def _write_metrics_entry(self, entry: dict[str, Any]) -> None:
        """Append to metrics.jsonl; on a full disk a line waits for the next one's turn."""
        self._unwritten_metrics.append(entry)
        try:
            while self._unwritten_metrics:
                append_metrics(self.run_folder, self._unwritten_metrics[0])
                del self._unwritten_metrics[0]
        except OSError as error:
            print(f"not recorded yet: {error}", flush=True)

    def _recover_missing_metrics(self, newest_checkpoint: Path) -> None:
        """Record the epochs that were saved by a worker that died before it could record them."""
        known = {entry["epoch"] for entry in read_metrics(self.run_folder)}
        finished = filterfalse(is_mid_epoch, self.store.list_newest_first())
        for folder in reversed(list(finished)):
            if (
                parse_epoch(folder) <= parse_epoch(newest_checkpoint)
                and parse_epoch(folder) not in known
            ):
                try:
                    metrics = read_checkpoint_metrics(folder)
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # an older one, damaged since
                if metrics:
                    append_metrics(self.run_folder, metrics)


def _try_load_checkpoint(load_state: LoadStateFn, checkpoint_dir: Path) -> str:
    """Why a checkpoint cannot be gone on from; nothing when it can, and was."""
    try:
        load_state(checkpoint_dir)
    except DataError as error:
        return f"passed over {error.where}"
    return ""
