"""The parts of a training that a checkpoint restores: model, optimizer, schedule and EMA."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.models.fused_batchnorm import convert_to_fused_batchnorm
from hrnet_ray.training import checkpoint
from hrnet_ray.training.builders import build_model, compute_peak_lr, should_autocast_bf16
from hrnet_ray.training.checkpoint_manager import CheckpointManager
from hrnet_ray.training.checkpoint_store import FileEntries
from hrnet_ray.training.compile import try_compile_model
from hrnet_ray.training.divergence import LR_BACKOFF
from hrnet_ray.training.ema import ModelEma
from hrnet_ray.training.nan_guard import DivergenceDetected, all_finite, scale_lr_schedule
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer
from hrnet_ray.training.sync_batchnorm import convert_sync_batchnorm
from hrnet_ray.utils.collectives import gather_objects, get_world_size


@dataclass(kw_only=True)
class TrainComponents:
    """One worker's model, optimizer, learning-rate schedule and EMA."""

    unwrapped_model: nn.Module
    model: nn.Module
    """The same model in DDP, where there are several workers."""
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    ema: ModelEma | None
    device: torch.device
    bf16: bool
    """Whether forward passes run under bf16 autocast."""
    lr_factor: float = 1.0
    """Factor on the learning rate; below 1 after a divergence."""

    def scale_lr(self, factor: float) -> None:
        """Multiply the schedule of the experiment by `factor`, from the current step on."""
        self.lr_factor = factor
        scale_lr_schedule(self.scheduler, factor)

    def save_state(self, folder: Path, train_state: checkpoint.TrainState) -> FileEntries:
        """Write a checkpoint's state into an existing folder; see `save_train_state`."""
        return checkpoint.save_train_state(
            folder,
            self.model,
            self.optimizer,
            self.scheduler,
            train_state,
            extra_components=self._extra_components,
        )

    def load_state(self, folder: Path) -> checkpoint.TrainState:
        """Restore a checkpoint; see `load_train_state`."""
        return checkpoint.load_train_state(
            folder,
            self.model,
            self.optimizer,
            self.scheduler,
            extra_components=self._extra_components,
        )

    def restore(
        self, checkpoint_manager: CheckpointManager, *, is_rank0: bool, reduce_lr: bool = False
    ) -> checkpoint.TrainState:
        """Restore the newest intact checkpoint, if any; every rank has to call this.

        `reduce_lr` lowers the learning rate of the checkpoint, and starts its epoch over.
        """
        states = [checkpoint.TrainState(epoch=0)]
        checkpoint_manager.restore_checkpoint(
            lambda folder: states.append(self.load_state(folder)),
            is_rank0=is_rank0,
            allow_mid_epoch=not reduce_lr,
        )
        self.scale_lr(states[-1].lr_factor * (LR_BACKOFF if reduce_lr else 1.0))
        return replace(states[-1], lr_factor=self.lr_factor)

    def require_finite_state(self) -> None:
        """Check all ranks before a save.

        Raises:
            DivergenceDetected: weights, buffers or optimizer state of a rank hold NaN or Inf.
        """
        if not all(gather_objects(all_finite(self.unwrapped_model, self.optimizer, self.ema))):
            raise DivergenceDetected("weights or statistics are NaN or Inf", skipped_steps=[], local_nonfinite_steps=[])

    def use_eval_weights(self) -> AbstractContextManager[None]:
        """Let the model hold the weights to validate and export: the EMA, where there is one."""
        return self.ema.use_averaged_weights() if self.ema else nullcontext()

    @property
    def _extra_components(self) -> dict[str, checkpoint.StatefulComponent]:
        return {"average": self.ema} if self.ema else {}


def build_components(
    experiment: ExperimentConfig,
    manifest: DatasetManifest,
    *,
    device: torch.device,
    prepare_model: Callable[[nn.Module], nn.Module],
    steps_per_epoch: int,
    driver_cwd: str | Path = ".",
) -> TrainComponents:
    """Build the components of one worker; `prepare_model` moves the model and wraps it in DDP.

    Raises:
        DataError: `model.pretrained` does not fit.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # a trial before may have used this process
    optim, bf16 = experiment.optim, should_autocast_bf16(experiment, device)
    unwrapped = build_model(experiment, manifest, driver_cwd=driver_cwd)
    if optim.sync_batchnorm:
        convert_sync_batchnorm(unwrapped, device)
    if bf16 and device.type == "cpu" and not optim.compile:
        convert_to_fused_batchnorm(unwrapped)
    model = prepare_model(unwrapped)
    if optim.compile:
        num_crops = -(-optim.batch_size // get_world_size() // optim.gradient_accumulation_steps)
        shape = (num_crops, 3, *experiment.data.input_hw)
        try_compile_model(unwrapped, crops_shape=shape, bf16=bf16)
    optimizer = build_optimizer(
        model,
        optimizer_name=optim.optimizer,
        lr=compute_peak_lr(experiment),
        weight_decay=optim.weight_decay,
    )
    scheduler = build_lr_scheduler(
        optimizer,
        schedule=optim.schedule,
        milestones=optim.resolved_milestones,
        epochs=optim.epochs,
        warmup_steps=optim.warmup_steps,
        steps_per_epoch=steps_per_epoch,
    )
    return TrainComponents(
        unwrapped_model=unwrapped,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        ema=ModelEma(unwrapped, decay=optim.ema_decay) if optim.ema_decay else None,
        device=device,
        bf16=bf16,
    )
