"""How a worker tells how it goes, under Ray Train and inside a Ray Tune trial.

Under Ray Train a report goes to the controller, which keeps the checkpoint. A trial of one worker
runs in its trial's own process (Ray Train's local mode: a nested run would cost 15 s and 1 GB);
there the report goes to Tune, and the checkpoint is kept here, under the same names.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import ray.train
from ray import tune
from ray.train import Checkpoint, UserCallback

from hrnet_ray.errors import DataError

KEPT = 3  # checkpoints, the newest

Save = Callable[[Path], None]
"""Writes a checkpoint into an empty folder."""


class Reports(Protocol):
    """What a worker needs of whoever started it."""

    def send(self, metrics: dict[str, Any], *, epoch: int, save: Save | None) -> None:
        """Tell the metrics of an epoch; every worker must, and the first one gives `save`."""
        ...

    def resume(self, load: Callable[[Path], None]) -> None:
        """Call `load` with the newest whole checkpoint, if there is any."""
        ...


class TrainReports:
    """To Ray Train's controller."""

    def send(self, metrics: dict[str, Any], *, epoch: int, save: Save | None) -> None:
        if save is None:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            ray.train.report(
                metrics,
                checkpoint=Checkpoint.from_directory(folder),
                checkpoint_dir_name=checkpoint_name(epoch),
            )

    def resume(self, load: Callable[[Path], None]) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                load(Path(folder))


class TrialReports:
    """To the Tune trial whose process this is."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.kept = run_folder / "ray"

    def send(self, metrics: dict[str, Any], *, epoch: int, save: Save | None) -> None:
        assert save is not None  # a trial in its own process has one worker
        final = self.kept / checkpoint_name(epoch)
        part = final.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save(part)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        for old in saved_epochs(self.kept)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        append_epoch(self.run_folder, metrics)
        tune.report(metrics)

    def resume(self, load: Callable[[Path], None]) -> None:
        for folder in saved_epochs(self.kept):
            try:
                load(folder)
            except DataError:
                continue  # damaged: an older one will do
            return


class RecordEpochs(UserCallback):
    """Writes what the workers report into the run's `metrics.jsonl`. Lives on the controller."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        append_epoch(self.run_folder, metrics[0])  # rank 0 scored for all


def append_epoch(run_folder: Path, metrics: Mapping[str, Any]) -> None:
    """Add one line; a line is one write, so a reader never sees half of it for long."""
    line = json.dumps(dict(metrics) | {"at_ms": int(time.time() * 1000)})
    with (run_folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_epochs(run_folder: Path) -> list[dict[str, Any]]:
    """The recorded epochs in order; one that was done twice after a crash counts as done last."""
    path = run_folder / "metrics.jsonl"
    if not path.is_file():
        return []
    by_epoch: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line that a crash cut short; its epoch is done again
        by_epoch[entry["epoch"]] = entry
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def checkpoint_name(epoch: int) -> str:
    """The same epoch always has the same folder: what a crash left behind is written over."""
    return f"epoch_{epoch:04d}"


def saved_epochs(folder: Path) -> list[Path]:
    """Checkpoint folders, newest epoch first."""
    return sorted((p for p in folder.glob("epoch_????") if p.is_dir()), reverse=True)
