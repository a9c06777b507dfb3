"""Who a worker works for: Ray Train, or a Ray Tune trial whose process it is.

Under Ray Train a report goes to the controller, which keeps the checkpoint. A trial of one worker
runs in the trial's own process, because a nested Ray Train run costs 15 s to start and 1 GB; there
the report goes to Tune, and the checkpoint is kept here, under the same names.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ray.train
import torch
from ray import tune
from ray.train import Checkpoint
from ray.train.torch import get_device, prepare_model
from torch import nn

from hrnet_ray.errors import DataError
from hrnet_ray.runtime.records import append_epoch

KEPT = 3  # checkpoints, the newest

Save = Callable[[Path], None]
"""Writes a checkpoint into an empty folder."""
Load = Callable[[Path], None]
"""Goes on from a checkpoint; a DataError says that it is damaged."""


@runtime_checkable
class Host(Protocol):
    """What a worker needs of whoever started it."""

    def rank(self) -> int:
        """0 for the worker that scores, draws and saves."""
        ...

    def device(self) -> torch.device: ...

    def wrap(self, model: nn.Module) -> nn.Module:
        """Move the model to the device; with several workers, tie it to theirs (DDP)."""
        ...

    def report(self, metrics: dict[str, Any], *, epoch: int, save: Save | None) -> None:
        """Tell the metrics of an epoch; every worker must, and rank 0 gives `save`."""
        ...

    def resume(self, load: Load) -> None:
        """Call `load` with the newest whole checkpoint, if there is any."""
        ...


class TrainHost:
    """Ray Train, with its workers and its controller."""

    def rank(self) -> int:
        return ray.train.get_context().get_world_rank()

    def device(self) -> torch.device:
        return get_device()

    def wrap(self, model: nn.Module) -> nn.Module:
        return prepare_model(model)

    def report(self, metrics: dict[str, Any], *, epoch: int, save: Save | None) -> None:
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

    def resume(self, load: Load) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                load(Path(folder))


class TrialHost:
    """A Tune trial with one worker: the trial's process itself."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.kept = run_folder / "ray"

    def rank(self) -> int:
        return 0

    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def wrap(self, model: nn.Module) -> nn.Module:
        return model.to(self.device())

    def report(self, metrics: dict[str, Any], *, epoch: int, save: Save | None) -> None:
        assert save is not None  # the only worker is rank 0
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

    def resume(self, load: Load) -> None:
        for folder in saved_epochs(self.kept):
            try:
                load(folder)
            except DataError:
                continue  # damaged: an older one will do
            return


def checkpoint_name(epoch: int) -> str:
    """The same epoch always has the same folder: what a crash left behind is written over."""
    return f"epoch_{epoch:04d}"


def saved_epochs(folder: Path) -> list[Path]:
    """Checkpoint folders, newest epoch first."""
    return sorted((p for p in folder.glob("epoch_????") if p.is_dir()), reverse=True)
