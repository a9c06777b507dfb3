"""Who a worker works for: Ray Train, or a Ray Tune trial whose process it is.

Under Ray Train a report goes to the controller. A trial of one worker runs in the trial's own
process, because a nested Ray Train run costs 15 s to start and 1 GB; there the report goes to Tune.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ray.train
import torch
from ray import tune
from ray.train import UserCallback
from ray.train.torch import get_device, prepare_model
from torch import nn

from hrnet_ray.distributed.training.worker_failures import restarts, sign_in
from hrnet_ray.errors import HrnetRayError
from hrnet_ray.runs.event_log import append_fault
from hrnet_ray.training.checkpoint_manager import FOLDER, Checkpoints, Load, Save
from hrnet_ray.utils.collectives import TOGETHER

SNAPSHOT = "checkpoint_manager_snapshot.json"


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

    def require_storage(self) -> None:
        """Find before the first step that the run's folder is not there, or not writable."""
        ...

    def report(self, metrics: dict[str, Any], *, epoch: int, save: Save | None) -> None:
        """Tell the metrics of an epoch; every worker must, and rank 0 gives `save`."""
        ...

    def pause(self, *, epoch: int, save: Save) -> None:
        """Save in the middle of an epoch; only rank 0 is asked."""
        ...

    def resume(self, load: Load, *, midway: bool) -> None:
        """Call `load` with the newest whole checkpoint, if there is any; see `Checkpoints`."""
        ...


class TrainHost:
    """Ray Train, with its workers and its controller."""

    def __init__(self, run_folder: Path, about: Mapping[str, Any], *, workers: int) -> None:
        self.checkpoints = Checkpoints(run_folder, about)
        self._run_folder, self._workers = run_folder, workers

    def rank(self) -> int:
        return ray.train.get_context().get_world_rank()

    def device(self) -> torch.device:
        return get_device()

    def wrap(self, model: nn.Module) -> nn.Module:
        return prepare_model(model, parallel_strategy_kwargs=dict(TOGETHER))

    def require_storage(self) -> None:
        first = self.rank() == 0
        self.checkpoints.require_storage(first=first)
        here = ray.train.get_context().get_world_size()
        sign_in(self._run_folder, self.rank(), workers=here)
        if first and here < self._workers:
            note = f"training with {here} of {self._workers} workers"
            append_fault(self._run_folder, "fewer_workers", note)

    def report(self, metrics: dict[str, Any], *, epoch: int, save: Save | None) -> None:
        if save:
            metrics = metrics | restarts(self._run_folder)
            metrics = self.checkpoints.keep(metrics, epoch=epoch, save=save)
        ray.train.report(metrics)

    def pause(self, *, epoch: int, save: Save) -> None:
        self.checkpoints.pause(epoch=epoch, save=save)

    def resume(self, load: Load, *, midway: bool) -> None:
        self.checkpoints.resume(load, first=self.rank() == 0, midway=midway)


class TrialHost:
    """A Tune trial with one worker: the trial's process itself."""

    def __init__(self, run_folder: Path, about: Mapping[str, Any], *, gpu: bool) -> None:
        self.checkpoints = Checkpoints(run_folder, about)
        self._gpu = gpu  # Ray hides no GPUs from a trial that has booked none

    def rank(self) -> int:
        return 0

    def device(self) -> torch.device:
        return torch.device("cuda", 0) if self._gpu else torch.device("cpu")

    def wrap(self, model: nn.Module) -> nn.Module:
        return model.to(self.device())

    def require_storage(self) -> None:
        self.checkpoints.require_storage(first=True)

    def report(self, metrics: dict[str, Any], *, epoch: int, save: Save | None) -> None:
        assert save is not None  # the only worker is rank 0
        tune.report(self.checkpoints.keep(metrics, epoch=epoch, save=save))

    def pause(self, *, epoch: int, save: Save) -> None:
        self.checkpoints.pause(epoch=epoch, save=save)

    def resume(self, load: Load, *, midway: bool) -> None:
        self.checkpoints.resume(load, first=True, midway=midway)


class GiveUp(UserCallback):
    """Ends a run at once on an error of the user's, which no restart of the workers puts right.

    Lives on Ray Train's controller; what is raised there, it does not try again.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for failure in worker_exceptions.values():
            if error := users_error(failure):
                raise error


def users_error(failure: BaseException | None) -> HrnetRayError | None:
    """The error of ours that Ray wrapped in its own, if there is one."""
    while failure is not None:
        if isinstance(failure, HrnetRayError):
            return failure
        failure = failure.__cause__
    return None


def set_snapshot_aside(run_folder: Path) -> None:
    """Hide from Ray what it once noted of this run's checkpoints.

    Our own look at their folders decides. Ray writes its note in place, so that a crash leaves
    half of it; then, or after an update of Ray, or when a folder it names is gone, Ray refuses to
    start the run at all.
    """
    path = run_folder / FOLDER / SNAPSHOT
    if path.exists():
        path.replace(path.with_name(f"{SNAPSHOT}.aside"))
