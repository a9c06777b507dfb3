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
from hrnet_ray.runs.event_log import append_epoch, append_fault, read_epochs
from hrnet_ray.runs.run_dir import probe_folder
from hrnet_ray.training.checkpoint_store import (
    CheckpointStore,
    Entries,
    epoch_of,
    is_paused,
    metrics_of,
)
from hrnet_ray.utils.collectives import of_everybody

FOLDER = "ray"
"""In the run's folder. Ray keeps files of its own there, and the checkpoints of older runs."""
PATIENCE = 3
"""Failed saves in a row after which a run stops: more would be lost than is worth having."""

Save = Callable[[Path], Entries]
"""Writes the state of a checkpoint into an empty folder."""
Load = Callable[[Path], None]
"""Goes on from a checkpoint; a DataError says that it is damaged, and nothing has changed."""


class Checkpoints:
    """Saves with patience, and goes on from the newest checkpoint that everybody can read."""

    def __init__(self, run_folder: Path, about: Mapping[str, Any]) -> None:
        self.run_folder = run_folder
        self.store = CheckpointStore(run_folder / FOLDER, about=about)
        self._rejected = 0
        self._failed = 0
        self._unwritten: list[dict[str, Any]] = []

    def require_storage(self, *, first: bool) -> None:
        """Find before the first step what would cost all of them.

        Raises:
            ClusterError: this node does not see the run's folder, or the first worker cannot write.
        """
        where = f"{self.run_folder} on {platform.node()}"
        if not (self.run_folder / "resolved.json").is_file():
            raise ClusterError(
                "this node does not see the run's folder",
                where,
                "mount the storage under the same path on every node",
            )
        if not first:
            return
        try:
            probe_folder(self.store.folder)
        except OSError as error:
            raise ClusterError(
                "the run's folder cannot be written to",
                f"{where}: {error.strerror or error}",
                "free some space, or give a --cluster.storage that every node can write to",
            ) from error

    def keep(self, metrics: Mapping[str, Any], *, epoch: int, save: Save) -> dict[str, Any]:
        """Save an epoch and then record it; returns what was recorded.

        Raises:
            ClusterError: it was the third in a row that could not be saved.
        """
        entry = dict(metrics)
        if self._rejected:
            entry["fault/rejected_checkpoints"] = self._rejected
        try:
            self.store.save(epoch, save, metrics=entry)
        except OSError as error:
            self._failed += 1
            entry["fault/failed_saves"] = self._failed
            self._not_saved(epoch, error)
        else:
            self._rejected = self._failed = 0
        self._record(entry)
        return entry

    def pause(self, *, epoch: int, save: Save) -> None:
        """Save in the middle of an epoch; should that fail, it is done again from its beginning."""
        try:
            self.store.save(epoch, save, metrics={}, paused=True)
        except OSError as error:
            where = f"{self.store.folder} on {platform.node()}: {error.strerror or error}"
            append_fault(self.run_folder, "failed_save", f"epoch {epoch + 1} is lost: {where}")

    def resume(self, load: Load, *, first: bool, midway: bool = True) -> None:
        """Call `load` with the newest checkpoint that is whole for every worker, if there is any.

        `midway`: one in the middle of an epoch will do.

        Raises:
            ClusterError: some workers could read a checkpoint, others none.
        """
        if first:
            self.store.tidy()
        mixed = False
        found = [path for path in self.store.newest_first() if midway or not is_paused(path)]
        for name in of_everybody([path.name for path in found])[0]:
            reasons = of_everybody(_refusal(load, self.store.folder / name))
            if not any(reasons):
                if first:
                    self._recall(Path(name))
                return
            mixed |= not all(reasons)
            self._rejected += 1
            if first:
                append_fault(self.run_folder, "rejected_checkpoint", next(filter(None, reasons)))
        if mixed:
            raise ClusterError(
                "the workers do not see the same checkpoints",
                str(self.store.folder),
                "check that the storage is the same on every node",
            )
        if self._rejected and first:
            note = f"none of the {self._rejected} checkpoints is whole: the run begins anew"
            append_fault(self.run_folder, "no_checkpoint", note)

    def _not_saved(self, epoch: int, error: OSError) -> None:
        where = f"{self.store.folder} on {platform.node()}: {error.strerror or error}"
        if self._failed >= PATIENCE:
            raise ClusterError(
                f"{self._failed} checkpoints in a row could not be saved",
                where,
                "free some space; the same command then goes on from the last one that was",
            ) from error
        note = f"no checkpoint of epoch {epoch + 1}: {where}; training goes on"
        append_fault(self.run_folder, "failed_save", note)

    def _record(self, entry: dict[str, Any]) -> None:
        """Append to metrics.jsonl; on a full disk a line waits for the next one's turn."""
        self._unwritten.append(entry)
        try:
            while self._unwritten:
                append_epoch(self.run_folder, self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            print(f"not recorded yet: {error}", flush=True)

    def _recall(self, newest: Path) -> None:
        """Record the epochs that were saved by a worker that died before it could record them."""
        known = {entry["epoch"] for entry in read_epochs(self.run_folder)}
        finished = filterfalse(is_paused, self.store.newest_first())
        for folder in reversed(list(finished)):
            if epoch_of(folder) <= epoch_of(newest) and epoch_of(folder) not in known:
                try:
                    metrics = metrics_of(folder)
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # an older one, damaged since
                if metrics:
                    append_epoch(self.run_folder, metrics)


def _refusal(load: Load, folder: Path) -> str:
    """Why a checkpoint cannot be gone on from; nothing when it can, and was."""
    try:
        load(folder)
    except DataError as error:
        return f"passed over {error.where}"
    return ""
