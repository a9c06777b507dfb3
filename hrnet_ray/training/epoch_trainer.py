"""One epoch of one worker: its batches, its metrics, and what an interruption has to save."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.batch import EvalBatch, RawTrainBatch, TrainBatch, augment_batch
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.errors import format_list
from hrnet_ray.runs.event_log import log_event
from hrnet_ray.runs.progress import ProgressReporter
from hrnet_ray.runs.stop_request import StopFlag, StopRequested
from hrnet_ray.training.builders import (
    build_augmentation_config,
    build_target_config,
    compute_peak_lr,
)
from hrnet_ray.training.checkpoint import PartialEpochState
from hrnet_ray.training.components import TrainComponents
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.fault_injection import FaultInjector
from hrnet_ray.training.nan_guard import NonFiniteStepGuard
from hrnet_ray.utils.collectives import all_reduce_mean, gather_objects, get_world_size


@runtime_checkable
class TrainDataLoader(Protocol):
    """Batches of one worker, and a record of their rows."""

    data_wait_s: float
    """Seconds that the model waited for batches in this epoch."""
    seen_ids: list[list[int]]
    """Ids of this worker's training rows in this epoch, by step."""
    corrupt_rows: set[tuple[str, int]]
    """Split and id of the rows that could not be decoded."""

    def count_steps(self, *, batch_size: int) -> int: ...

    def iter_train_batches(
        self, *, batch_size: int, seed: int, epoch: int, first_step: int = 0
    ) -> Iterator[RawTrainBatch]: ...

    def iter_val_batches(self, *, batch_size: int) -> Iterator[EvalBatch]: ...


class EpochTrainer:
    """Trains one worker's components, epoch by epoch; `epoch` is an index from 0."""

    step_guard: NonFiniteStepGuard
    """Guard of the current epoch."""
    epoch_start_lr: float
    """Learning rate of the current epoch's first step."""

    def __init__(
        self,
        components: TrainComponents,
        data_loader: TrainDataLoader,
        experiment: ExperimentConfig,
        manifest: DatasetManifest,
        run_folder: Path,
        *,
        num_train_rows: int,
        rank: int,
        progress_reporter: ProgressReporter,
        fault_injector: FaultInjector,
    ) -> None:
        self.components, self.data_loader = components, data_loader
        self.experiment, self.manifest, self.run_folder = experiment, manifest, run_folder
        self.num_train_rows, self.rank = num_train_rows, rank
        self.progress_reporter = progress_reporter
        self.fault_injector = fault_injector

    def train_one_epoch(
        self, epoch: int, stop_flag: StopFlag, *, partial_epoch: PartialEpochState | None = None
    ) -> dict[str, Any]:
        """Train one epoch, or the rest of an interrupted one; returns metrics over all ranks.

        Raises:
            DivergenceDetected: too many steps are NaN or Inf; discard the epoch.
            StopRequested: a stop was requested; `collect_partial_epoch` can be saved.
        """
        self._begin_epoch(partial_epoch)
        steps_done = partial_epoch.num_steps if partial_epoch else 0
        components, optim = self.components, self.experiment.optim
        self.progress_reporter.start_epoch(
            epoch + 1,
            num_crops=self.num_train_rows // get_world_size(),
            crops_done=steps_done * (optim.batch_size // get_world_size()),
        )

        def on_step_end(num_crops: int) -> None:
            self.progress_reporter.record_step(num_crops, mean_loss=self.step_guard.mean_loss)
            if stop_flag.should_stop():
                components.require_finite_state()
                raise StopRequested

        loss = train_epoch(
            components.model,
            self._iter_train_batches(epoch, first_step=steps_done),
            components.optimizer,
            components.scheduler,
            target=build_target_config(self.experiment),
            bf16=components.bf16,
            gradient_accumulation_steps=optim.gradient_accumulation_steps,
            max_grad_norm=optim.max_grad_norm,
            ema=components.ema,
            on_step=on_step_end,
            guard=self.step_guard,
        )
        components.require_finite_state()
        return self._collect_metrics(epoch, all_reduce_mean(loss))

    def collect_partial_epoch(self) -> PartialEpochState:
        """Collect the state of the interrupted epoch from all ranks."""
        own_losses, skipped = self.step_guard.get_state()
        rows_by_rank = gather_objects(self.data_loader.seen_ids)
        return PartialEpochState(
            losses_by_rank=gather_objects(own_losses),
            skipped=skipped,
            lr=self.epoch_start_lr,
            seen_ids=[list(chain(*step_rows)) for step_rows in zip(*rows_by_rank, strict=True)],
            corrupt_rows=sorted(set().union(*gather_objects(self.data_loader.corrupt_rows))),
        )

    def _begin_epoch(self, partial_epoch: PartialEpochState | None) -> None:
        """Prepare for the first step of an epoch, or for the step after an interruption."""
        self.step_guard = NonFiniteStepGuard(
            self.components.unwrapped_model,
            num_steps=self.data_loader.count_steps(batch_size=self.experiment.optim.batch_size),
        )
        self.epoch_start_lr = self.components.optimizer.param_groups[0]["lr"]
        self.data_loader.seen_ids = []
        if not partial_epoch:
            return
        same_world = len(partial_epoch.losses_by_rank) == get_world_size()
        own_losses = (
            partial_epoch.losses_by_rank[self.rank] if same_world else torch.stack(partial_epoch.losses_by_rank).mean(0)
        )
        self.step_guard.load_state(own_losses, partial_epoch.skipped)
        self.epoch_start_lr = partial_epoch.lr
        # The log of the sample order needs the rows of each step, not the rank that saw them.
        self.data_loader.seen_ids = partial_epoch.seen_ids if self.rank == 0 else [[] for _ in partial_epoch.seen_ids]
        self.data_loader.corrupt_rows |= set(partial_epoch.corrupt_rows)

    def _iter_train_batches(self, epoch: int, *, first_step: int) -> Iterator[TrainBatch]:
        augmentation = build_augmentation_config(self.experiment, self.manifest)
        raw_batches = self.data_loader.iter_train_batches(
            batch_size=self.experiment.optim.batch_size,
            seed=self.experiment.seed,
            epoch=epoch,
            first_step=first_step,
        )
        batches = (augment_batch(batch, augmentation, epoch=epoch) for batch in raw_batches)
        return self.fault_injector.wrap_train_batches(batches, epoch=epoch, first_step=first_step)

    def _collect_metrics(self, epoch: int, loss: float) -> dict[str, Any]:
        epoch_s = max(1e-9, self.progress_reporter.measure_elapsed_s())
        device = self.components.device
        metrics: dict[str, Any] = {
            "epoch": epoch + 1,
            "train/loss": loss,
            "train/lr": self.epoch_start_lr,
            "train/peak_lr": compute_peak_lr(self.experiment) * self.components.lr_factor,
            "perf/images_per_sec": self.progress_reporter.compute_crop_rate() * get_world_size(),
            "perf/data_wait_frac": self.data_loader.data_wait_s / epoch_s,
        }
        if device.type == "cuda":
            metrics["perf/gpu_mem_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        if skipped_steps := self.step_guard.list_skipped_steps():
            metrics["train/nonfinite_steps"] = len(skipped_steps)
            if self.rank == 0:
                numbers = format_list([str(step + 1) for step in skipped_steps])
                message = f"epoch {epoch + 1}: skipped step {numbers}: loss or gradient NaN or Inf"
                log_event(self.run_folder, "skipped_steps", message)
        return metrics
