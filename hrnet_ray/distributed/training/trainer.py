"""One worker's model with all that moves it: its rows, its optimizer, its checkpoints."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import nn

from hrnet_ray.data.batch import TrainBatch, augment_batch
from hrnet_ray.distributed.data.data_loader import WorkerDataLoader
from hrnet_ray.distributed.training.worker_config import WorkerConfig
from hrnet_ray.errors import format_list
from hrnet_ray.inference.predict_loop import predict_batches, predict_heatmaps
from hrnet_ray.metrics.predictions import KeypointPredictions, all_gather_predictions
from hrnet_ray.models.bn_folding import fold_batchnorm
from hrnet_ray.models.fused_batchnorm import convert_to_fused_batchnorm
from hrnet_ray.runs.event_log import log_event
from hrnet_ray.runs.progress import ProgressReporter
from hrnet_ray.runs.stop_request import StopFlag, StopRequested
from hrnet_ray.training import checkpoint
from hrnet_ray.training.builders import (
    build_augmentation_config,
    build_decode_config,
    build_model,
    build_target_config,
    compute_peak_lr,
    should_autocast_bf16,
)
from hrnet_ray.training.checkpoint_store import FileEntries
from hrnet_ray.training.compile import try_compile_model
from hrnet_ray.training.divergence import LR_BACKOFF, DivergenceReport
from hrnet_ray.training.ema import ModelEma
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.fault_injection import FaultInjector
from hrnet_ray.training.nan_guard import (
    DivergenceDetected,
    NonFiniteStepGuard,
    all_finite,
    scale_lr_schedule,
)
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer
from hrnet_ray.training.sync_batchnorm import convert_sync_batchnorm
from hrnet_ray.utils.collectives import (
    all_reduce_mean,
    gather_objects,
    get_world_size,
    sync_buffers_from_rank0,
)


class WorkerTrainer:
    """One worker's model with all that moves it."""

    step_guard: NonFiniteStepGuard
    """Of the epoch that goes on."""
    epoch_start_lr: float
    """At its first step."""
    _eval_model: nn.Module
    """What `predict` asked last, its BatchNorms folded."""

    def __init__(self, worker_config: WorkerConfig) -> None:
        self.experiment, self.manifest, self.backend = (
            worker_config.experiment,
            worker_config.manifest,
            worker_config.backend,
        )
        self.run_folder = worker_config.run_folder
        self.device = worker_config.backend.get_train_device()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)  # of the trial before, in this process
        self.lr_factor = 1.0
        self.fault_injector = FaultInjector(
            worker_config.run_folder, rank=worker_config.backend.get_rank()
        )
        optim = self.experiment.optim
        self.bf16 = should_autocast_bf16(self.experiment, self.device)
        self.unwrapped_model = build_model(
            self.experiment, self.manifest, driver_cwd=worker_config.driver_cwd
        )
        if optim.sync_batchnorm:
            convert_sync_batchnorm(self.unwrapped_model, self.device)
        if self.bf16 and self.device.type == "cpu" and not optim.compile:
            convert_to_fused_batchnorm(self.unwrapped_model)
        self.model = worker_config.backend.prepare_model(self.unwrapped_model)
        if optim.compile:
            crops = -(-optim.batch_size // get_world_size() // optim.gradient_accumulation_steps)
            shape = (crops, 3, *self.experiment.data.input_hw)
            try_compile_model(self.unwrapped_model, crops_shape=shape, bf16=self.bf16)
        self.ema = (
            ModelEma(self.unwrapped_model, decay=optim.ema_decay) if optim.ema_decay else None
        )
        self.data_loader = WorkerDataLoader(
            worker_config.cached_splits,
            self.experiment.data,
            canvas_px=self.manifest.canvas_px,
            device=self.device,
            rank=worker_config.backend.get_rank(),
            num_workers=get_world_size(),
            max_workers=worker_config.max_workers,
            threads=worker_config.threads,
        )
        self.optimizer, self.scheduler = self._build_optimizer_and_scheduler()

    def restore_checkpoint(self, *, reduce_lr: bool = False) -> checkpoint.TrainState:
        """Go on from the newest whole checkpoint, if there is one; `slower` than it says."""
        found = [checkpoint.TrainState(epoch=-1)]

        def load_state(folder: Path) -> None:
            found.append(
                checkpoint.load_train_state(
                    folder,
                    self.model,
                    self.optimizer,
                    self.scheduler,
                    extra_components=self._collect_extra_state(),
                )
            )

        self.backend.restore_checkpoint(load_state, allow_mid_epoch=not reduce_lr)
        self.lr_factor = found[-1].lr_factor * (LR_BACKOFF if reduce_lr else 1.0)
        scale_lr_schedule(self.scheduler, self.lr_factor)
        return replace(found[-1], lr_factor=self.lr_factor)

    def report_epoch(self, metrics: dict[str, Any], train_state: checkpoint.TrainState) -> None:
        """Tell the figures of an epoch; the first worker saves it before."""
        first = self.backend.get_rank() == 0

        def save_state(folder: Path) -> FileEntries:
            entries = self._save_state(folder, train_state)
            self.fault_injector.maybe_inject("report", epoch=train_state.epoch)
            return entries

        if not first:
            self.fault_injector.maybe_inject("report", epoch=train_state.epoch)
        self.backend.report_epoch(
            metrics, epoch=train_state.epoch, save_state=save_state if first else None
        )
        self.fault_injector.maybe_inject("end", epoch=train_state.epoch)

    def train_one_epoch(
        self,
        epoch: int,
        progress_reporter: ProgressReporter,
        stop_flag: StopFlag,
        *,
        partial_epoch: checkpoint.PartialEpochState | None = None,
    ) -> dict[str, Any]:
        """One epoch over this worker's share, or what is left of it; the figures are everybody's.

        Raises:
            Diverging: too much of it is no number; nothing of it may be kept.
            Stopped: somebody asked for it; what is done of it can be kept.
        """
        self._begin_epoch(partial_epoch)
        done = partial_epoch.num_steps if partial_epoch else 0
        share = self.experiment.optim.batch_size // get_world_size()
        progress_reporter.start_epoch(
            epoch,
            num_crops=self.data_loader.train_reader.num_rows // get_world_size(),
            crops_done=done * share,
        )

        def on_step_end(num_crops: int) -> None:
            progress_reporter.record_step(num_crops)
            if stop_flag.should_stop():
                self._require_finite_state()
                raise StopRequested

        loss = train_epoch(
            self.model,
            self._iter_train_batches(epoch, first_step=done),
            self.optimizer,
            self.scheduler,
            target=build_target_config(self.experiment),
            bf16=self.bf16,
            gradient_accumulation_steps=self.experiment.optim.gradient_accumulation_steps,
            max_grad_norm=self.experiment.optim.max_grad_norm,
            ema=self.ema,
            on_step=on_step_end,
            guard=self.step_guard,
        )
        self._require_finite_state()
        metrics = {
            "epoch": epoch,
            "train/loss": all_reduce_mean(loss),
            "train/lr": self.epoch_start_lr,
            "train/peak_lr": compute_peak_lr(self.experiment) * self.lr_factor,
            "perf/images_per_sec": progress_reporter.compute_crop_rate() * get_world_size(),
            "perf/data_wait_frac": self.data_loader.data_wait_s
            / max(1e-9, progress_reporter.measure_elapsed_s()),
        }
        if self.device.type == "cuda":
            metrics["perf/gpu_mem_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        return metrics | self._report_skipped_steps(self.step_guard.list_skipped_steps(), epoch)

    def save_mid_epoch(self, train_state: checkpoint.TrainState) -> None:
        """Keep what is done of the epoch after `done`."""
        mine, bad = self.step_guard.get_state()
        losses = gather_objects(mine)
        met = [
            list(chain(*parts))
            for parts in zip(*gather_objects(self.data_loader.seen_ids), strict=True)
        ]
        rotten = sorted(set().union(*gather_objects(self.data_loader.corrupt_rows)))
        begun = checkpoint.PartialEpochState(
            losses_by_rank=losses,
            skipped=bad,
            lr=self.epoch_start_lr,
            seen_ids=met,
            corrupt_rows=rotten,
        )
        if self.backend.get_rank() == 0:
            progress = replace(train_state, lr_factor=self.lr_factor, partial_epoch=begun)
            self.backend.save_mid_epoch(
                epoch=train_state.epoch + 1,
                save_state=lambda folder: self._save_state(folder, progress),
            )

    def handle_divergence(
        self, divergence: DivergenceDetected, *, epoch: int, last_good_epoch: int
    ) -> None:
        """Say that an epoch diverged, and with which rows; `since` is the last that did not.

        Raises:
            DivergedError: it did so at a lower rate than the experiment's.
        """
        blame = DivergenceReport.collect_from_workers(
            divergence, self.data_loader.seen_ids, epoch=epoch
        )
        if self.backend.get_rank() == 0:
            blame.save_json(self.run_folder)
        if self.lr_factor < 1:
            raise blame.to_error(self.run_folder, lr=self.experiment.optim.lr) from None
        if self.backend.get_rank() == 0:
            blame.log_rollback(self.run_folder, last_good_epoch=last_good_epoch)

    def use_eval_weights(self) -> AbstractContextManager[None]:
        """While open, the model is the one to judge and keep: the average, where there is one."""
        return self.ema.use_averaged_weights() if self.ema else nullcontext()

    def predict_validation(self, epoch: int) -> KeypointPredictions:
        """Everybody's predictions, without DDP's wrapper: shares of validation are uneven."""
        sync_buffers_from_rank0(self.unwrapped_model)
        batches = self.data_loader.iter_val_batches(
            batch_size=self.experiment.evaluation.batch_size
        )
        self._eval_model = fold_batchnorm(self.unwrapped_model, bf16=self.bf16)
        mine = predict_batches(
            self._eval_model,
            self.fault_injector.wrap_val_batches(batches, epoch=epoch),
            decoding=build_decode_config(self.experiment, self.manifest),
            bf16=self.bf16,
            target=build_target_config(self.experiment),
        )
        return all_gather_predictions(mine)

    def predict_crop_heatmaps(
        self, crops: UInt8[np.ndarray, "N H W 3"]
    ) -> Float[np.ndarray, "N K h w"]:
        """What the model that `predict` asked last sees in some crops; the others wait."""
        size = self.experiment.evaluation.batch_size
        parts = [
            predict_heatmaps(
                self._eval_model,
                part.to(self.device),
                decoding=build_decode_config(self.experiment, self.manifest),
                bf16=self.bf16,
            )
            for part in torch.from_numpy(crops).split(size)
        ]
        return torch.cat(parts).cpu().numpy()

    def _report_skipped_steps(self, skipped_steps: list[int], epoch: int) -> dict[str, int]:
        if not skipped_steps:
            return {}
        if self.backend.get_rank() == 0:
            numbered = format_list([str(step + 1) for step in skipped_steps])
            note = f"epoch {epoch + 1}: skipped step {numbered}: no finite loss or gradient"
            log_event(self.run_folder, "skipped_steps", note)
        return {"train/nonfinite_steps": len(skipped_steps)}

    def _begin_epoch(self, partial_epoch: checkpoint.PartialEpochState | None) -> None:
        """Be ready for an epoch's first step, or for the one after those that are done."""
        self.step_guard = NonFiniteStepGuard(
            self.unwrapped_model,
            num_steps=self.data_loader.count_steps(batch_size=self.experiment.optim.batch_size),
        )
        self.epoch_start_lr = self.optimizer.param_groups[0]["lr"]
        self.data_loader.seen_ids = []
        if not partial_epoch:
            return
        same = len(partial_epoch.losses_by_rank) == get_world_size()
        mine = (
            partial_epoch.losses_by_rank[self.backend.get_rank()]
            if same
            else torch.stack(partial_epoch.losses_by_rank).mean(0)
        )
        self.step_guard.load_state(mine, partial_epoch.skipped)
        self.epoch_start_lr = partial_epoch.lr
        first = self.backend.get_rank() == 0  # who met which is not asked for, only in which step
        self.data_loader.seen_ids = (
            partial_epoch.seen_ids if first else [[] for _ in partial_epoch.seen_ids]
        )
        self.data_loader.corrupt_rows |= set(partial_epoch.corrupt_rows)

    def _require_finite_state(self) -> None:
        if not all(gather_objects(all_finite(self.unwrapped_model, self.optimizer, self.ema))):
            raise DivergenceDetected(
                "weights or statistics are no numbers", skipped_steps=[], local_nonfinite_steps=[]
            )

    def _save_state(self, folder: Path, train_state: checkpoint.TrainState) -> FileEntries:
        return checkpoint.save_train_state(
            folder,
            self.model,
            self.optimizer,
            self.scheduler,
            train_state,
            extra_components=self._collect_extra_state(),
        )

    def _collect_extra_state(self) -> dict[str, checkpoint.StatefulComponent]:
        return {"average": self.ema} if self.ema else {}

    def _iter_train_batches(self, epoch: int, *, first_step: int) -> Iterator[TrainBatch]:
        recipe = build_augmentation_config(self.experiment, self.manifest)
        size, seed = self.experiment.optim.batch_size, self.experiment.seed
        rows = self.data_loader.iter_train_batches(
            batch_size=size, seed=seed, epoch=epoch, first_step=first_step
        )
        batches = (augment_batch(batch, recipe, epoch=epoch) for batch in rows)
        return self.fault_injector.wrap_train_batches(batches, epoch=epoch, first_step=first_step)

    def _build_optimizer_and_scheduler(
        self,
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optim = self.experiment.optim
        optimizer = build_optimizer(
            self.model,
            optimizer_name=optim.optimizer,
            lr=compute_peak_lr(self.experiment),
            weight_decay=optim.weight_decay,
        )
        scheduler = build_lr_scheduler(
            optimizer,
            schedule=optim.schedule,
            milestones=optim.resolved_milestones,
            epochs=optim.epochs,
            warmup_steps=optim.warmup_steps,
            steps_per_epoch=self.data_loader.count_steps(batch_size=optim.batch_size),
        )
        return optimizer, scheduler
