"""Interface between the training loop and its launcher: Ray Train, or a Ray Tune trial.

Under Ray Train a worker reports to the controller. A trial with one worker runs in the trial's own
process and reports to Tune, because a nested Ray Train run takes 15 s to start and 1 GB.
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
    SaveStateFn,
)
from hrnet_ray.utils.collectives import DDP_OPTIONS

RAY_SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"


@runtime_checkable
class TrainBackend(Protocol):
    """What the training loop needs from its launcher. Epochs count from 1."""

    checkpoint_manager: CheckpointManager

    def get_rank(self) -> int:
        """Return the rank; rank 0 scores, draws and saves."""
        ...

    def get_train_device(self) -> torch.device: ...

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Move the model to the device and, with several workers, wrap it in DDP."""
        ...

    def require_storage(self) -> None:
        """Check before the first step that the run folder exists and is writable."""
        ...

    def report_epoch(self, metrics: dict[str, Any], *, epoch: int, save_state: SaveStateFn | None) -> None:
        """Report an epoch; every rank has to call this, rank 0 with `save_state`."""
        ...


class RayTrainBackend:
    """Launcher Ray Train: several workers and a controller."""

    def __init__(self, run_folder: Path, provenance: Mapping[str, Any], *, num_workers: int) -> None:
        self.checkpoint_manager = CheckpointManager(run_folder, provenance)
        self._run_folder, self._num_workers = run_folder, num_workers

    def get_rank(self) -> int:
        return ray.train.get_context().get_world_rank()

    def get_train_device(self) -> torch.device:
        return get_device()

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return prepare_model(model, parallel_strategy_kwargs=dict(DDP_OPTIONS))

    def require_storage(self) -> None:
        is_rank0 = self.get_rank() == 0
        self.checkpoint_manager.require_storage(is_rank0=is_rank0)
        world_size = ray.train.get_context().get_world_size()
        register_worker(self._run_folder, self.get_rank(), num_workers=world_size)
        if is_rank0 and world_size < self._num_workers:
            message = f"training with {world_size} of {self._num_workers} workers"
            log_event(self._run_folder, "fewer_workers", message)

    def report_epoch(self, metrics: dict[str, Any], *, epoch: int, save_state: SaveStateFn | None) -> None:
        if save_state:
            metrics = metrics | get_restart_metric(self._run_folder)
            metrics = self.checkpoint_manager.save_checkpoint(metrics, epoch=epoch, save_state=save_state)
        ray.train.report(metrics)


class TuneTrialBackend:
    """Launcher Ray Tune: the trial's process is the only worker."""

    def __init__(self, run_folder: Path, provenance: Mapping[str, Any], *, gpu: bool) -> None:
        self.checkpoint_manager = CheckpointManager(run_folder, provenance)
        self._gpu = gpu  # Ray shows all GPUs to a trial that reserved none

    def get_rank(self) -> int:
        return 0

    def get_train_device(self) -> torch.device:
        return torch.device("cuda", 0) if self._gpu else torch.device("cpu")

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model.to(self.get_train_device())

    def require_storage(self) -> None:
        self.checkpoint_manager.require_storage(is_rank0=True)

    def report_epoch(self, metrics: dict[str, Any], *, epoch: int, save_state: SaveStateFn | None) -> None:
        assert save_state is not None  # the only worker is rank 0
        tune.report(self.checkpoint_manager.save_checkpoint(metrics, epoch=epoch, save_state=save_state))


class FailFastCallback(UserCallback):
    """Ends a run on an error of the user's, which restarting the workers cannot fix.

    It runs on Ray Train's controller, which does not retry after an exception there.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for failure in worker_exceptions.values():
            if error := unwrap_user_error(failure):
                raise error


def unwrap_user_error(failure: BaseException | None) -> HrnetRayError | None:
    """Return the HrnetRayError inside an exception of Ray, if there is one."""
    while failure is not None:
        if isinstance(failure, HrnetRayError):
            return failure
        failure = failure.__cause__
    return None


def hide_ray_checkpoint_snapshot(run_folder: Path) -> None:
    """Rename Ray's snapshot of this run's checkpoints, because `CheckpointManager` replaces it.

    Ray writes the snapshot in place, so a crash truncates it. Ray refuses to start a run whose
    snapshot is truncated, of another Ray version, or names a missing folder.
    """
    path = run_folder / CHECKPOINTS_DIR / RAY_SNAPSHOT_FILE
    if path.exists():
        path.replace(path.with_name(f"{RAY_SNAPSHOT_FILE}.aside"))
