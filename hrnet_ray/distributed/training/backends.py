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

from hrnet_ray.distributed.training.worker_failures import get_restart_metric, register_worker
from hrnet_ray.errors import HrnetRayError
from hrnet_ray.runs.event_log import log_event
from hrnet_ray.training.checkpoint_manager import (
    CHECKPOINTS_DIR,
    CheckpointManager,
    LoadStateFn,
    SaveStateFn,
)
from hrnet_ray.utils.collectives import DDP_OPTIONS

RAY_SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"


@runtime_checkable
class TrainBackend(Protocol):
    """What a worker needs of whoever started it."""

    def get_rank(self) -> int:
        """0 for the worker that scores, draws and saves."""
        ...

    def get_train_device(self) -> torch.device: ...

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Move the model to the device; with several workers, tie it to theirs (DDP)."""
        ...

    def require_storage(self) -> None:
        """Find before the first step that the run's folder is not there, or not writable."""
        ...

    def report_epoch(
        self, metrics: dict[str, Any], *, epoch: int, save_state: SaveStateFn | None
    ) -> None:
        """Tell the metrics of an epoch; every worker must, and rank 0 gives `save`."""
        ...

    def save_mid_epoch(self, *, epoch: int, save_state: SaveStateFn) -> None:
        """Save in the middle of an epoch; only rank 0 is asked."""
        ...

    def restore_checkpoint(self, load_state: LoadStateFn, *, allow_mid_epoch: bool) -> None:
        """Call `load` with the newest whole checkpoint, if there is any; see `Checkpoints`."""
        ...


class RayTrainBackend:
    """Ray Train, with its workers and its controller."""

    def __init__(
        self, run_folder: Path, provenance: Mapping[str, Any], *, num_workers: int
    ) -> None:
        self.checkpoint_manager = CheckpointManager(run_folder, provenance)
        self._run_folder, self._num_workers = run_folder, num_workers

    def get_rank(self) -> int:
        return ray.train.get_context().get_world_rank()

    def get_train_device(self) -> torch.device:
        return get_device()

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return prepare_model(model, parallel_strategy_kwargs=dict(DDP_OPTIONS))

    def require_storage(self) -> None:
        first = self.get_rank() == 0
        self.checkpoint_manager.require_storage(is_rank0=first)
        here = ray.train.get_context().get_world_size()
        register_worker(self._run_folder, self.get_rank(), num_workers=here)
        if first and here < self._num_workers:
            note = f"training with {here} of {self._num_workers} workers"
            log_event(self._run_folder, "fewer_workers", note)

    def report_epoch(
        self, metrics: dict[str, Any], *, epoch: int, save_state: SaveStateFn | None
    ) -> None:
        if save_state:
            metrics = metrics | get_restart_metric(self._run_folder)
            metrics = self.checkpoint_manager.save_checkpoint(
                metrics, epoch=epoch, save_state=save_state
            )
        ray.train.report(metrics)

    def save_mid_epoch(self, *, epoch: int, save_state: SaveStateFn) -> None:
        self.checkpoint_manager.save_mid_epoch(epoch=epoch, save_state=save_state)

    def restore_checkpoint(self, load_state: LoadStateFn, *, allow_mid_epoch: bool) -> None:
        self.checkpoint_manager.restore_checkpoint(
            load_state, is_rank0=self.get_rank() == 0, allow_mid_epoch=allow_mid_epoch
        )


class TuneTrialBackend:
    """A Tune trial with one worker: the trial's process itself."""

    def __init__(self, run_folder: Path, provenance: Mapping[str, Any], *, gpu: bool) -> None:
        self.checkpoint_manager = CheckpointManager(run_folder, provenance)
        self._gpu = gpu  # Ray hides no GPUs from a trial that has booked none

    def get_rank(self) -> int:
        return 0

    def get_train_device(self) -> torch.device:
        return torch.device("cuda", 0) if self._gpu else torch.device("cpu")

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model.to(self.get_train_device())

    def require_storage(self) -> None:
        self.checkpoint_manager.require_storage(is_rank0=True)

    def report_epoch(
        self, metrics: dict[str, Any], *, epoch: int, save_state: SaveStateFn | None
    ) -> None:
        assert save_state is not None  # the only worker is rank 0
        tune.report(
            self.checkpoint_manager.save_checkpoint(metrics, epoch=epoch, save_state=save_state)
        )

    def save_mid_epoch(self, *, epoch: int, save_state: SaveStateFn) -> None:
        self.checkpoint_manager.save_mid_epoch(epoch=epoch, save_state=save_state)

    def restore_checkpoint(self, load_state: LoadStateFn, *, allow_mid_epoch: bool) -> None:
        self.checkpoint_manager.restore_checkpoint(
            load_state, is_rank0=True, allow_mid_epoch=allow_mid_epoch
        )


class FailFastCallback(UserCallback):
    """Ends a run at once on an error of the user's, which no restart of the workers puts right.

    Lives on Ray Train's controller; what is raised there, it does not try again.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for failure in worker_exceptions.values():
            if error := unwrap_user_error(failure):
                raise error


def unwrap_user_error(failure: BaseException | None) -> HrnetRayError | None:
    """The error of ours that Ray wrapped in its own, if there is one."""
    while failure is not None:
        if isinstance(failure, HrnetRayError):
            return failure
        failure = failure.__cause__
    return None


def hide_ray_checkpoint_snapshot(run_folder: Path) -> None:
    """Hide from Ray what it once noted of this run's checkpoints.

    Our own look at their folders decides. Ray writes its note in place, so that a crash leaves
    half of it; then, or after an update of Ray, or when a folder it names is gone, Ray refuses to
    start the run at all.
    """
    path = run_folder / CHECKPOINTS_DIR / RAY_SNAPSHOT_FILE
    if path.exists():
        path.replace(path.with_name(f"{RAY_SNAPSHOT_FILE}.aside"))
