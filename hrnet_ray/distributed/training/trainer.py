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

from hrnet_ray.data.batch import PoseBatch, augmented
from hrnet_ray.distributed.data.data_loader import Feed
from hrnet_ray.distributed.training.worker_config import Job
from hrnet_ray.errors import shortened
from hrnet_ray.inference.predict_loop import predict, predict_heatmaps
from hrnet_ray.metrics.predictions import Predictions, gather_predictions
from hrnet_ray.models.bn_folding import folded
from hrnet_ray.models.fused_batchnorm import fuse_norms
from hrnet_ray.runs.event_log import append_fault
from hrnet_ray.runs.progress import Pulse
from hrnet_ray.runs.stop_request import Stopped, StopSign
from hrnet_ray.training import checkpoint
from hrnet_ray.training.builders import (
    build_model,
    decoding_of,
    rate_of,
    recipe_of,
    target_of,
    uses_bf16,
)
from hrnet_ray.training.checkpoint_store import Entries
from hrnet_ray.training.compile import compile_or_go_on
from hrnet_ray.training.divergence import SLOWER, Blame
from hrnet_ray.training.ema import Average
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.fault_injection import Faults
from hrnet_ray.training.nan_guard import Diverging, Guard, all_finite, scale_rate
from hrnet_ray.training.optim import make_optimizer, make_scheduler
from hrnet_ray.training.sync_batchnorm import share_norms
from hrnet_ray.utils.collectives import mean_of_all, of_everybody, share_buffers, world_size


class Replica:
    """One worker's model with all that moves it."""

    guard: Guard
    """Of the epoch that goes on."""
    lr: float
    """At its first step."""
    _judged: nn.Module
    """What `predict` asked last, its BatchNorms folded."""

    def __init__(self, job: Job) -> None:
        self.experiment, self.manifest, self.host = job.experiment, job.manifest, job.host
        self.run_folder = job.run_folder
        self.device = job.host.device()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)  # of the trial before, in this process
        self.rate = 1.0
        self.faults = Faults(job.run_folder, rank=job.host.rank())
        optim = self.experiment.optim
        self.bf16 = uses_bf16(self.experiment, self.device)
        self.bare = build_model(self.experiment, self.manifest, started_in=job.started_in)
        if optim.sync_norm:
            share_norms(self.bare, self.device)
        if self.bf16 and self.device.type == "cpu" and not optim.compile:
            fuse_norms(self.bare)
        self.model = job.host.wrap(self.bare)
        if optim.compile:
            crops = -(-optim.batch_size // world_size() // optim.accumulate)
            shape = (crops, 3, *self.experiment.data.input_hw)
            compile_or_go_on(self.bare, crops_shape=shape, bf16=self.bf16)
        self.average = Average(self.bare, decay=optim.ema) if optim.ema else None
        self.feed = Feed(
            job.data,
            self.experiment.data,
            canvas_px=self.manifest.canvas_px,
            device=self.device,
            rank=job.host.rank(),
            workers=world_size(),
            most_workers=job.most_workers,
            threads=job.threads,
        )
        self.optimizer, self.scheduler = self._optimizer()

    def resume(self, *, slower: bool = False) -> checkpoint.Progress:
        """Go on from the newest whole checkpoint, if there is one; `slower` than it says."""
        found = [checkpoint.Progress(epoch=-1)]

        def load(folder: Path) -> None:
            found.append(
                checkpoint.load(
                    folder, self.model, self.optimizer, self.scheduler, also=self._also()
                )
            )

        self.host.resume(load, midway=not slower)
        self.rate = found[-1].rate * (SLOWER if slower else 1.0)
        scale_rate(self.scheduler, self.rate)
        return replace(found[-1], rate=self.rate)

    def report(self, metrics: dict[str, Any], done: checkpoint.Progress) -> None:
        """Tell the figures of an epoch; the first worker saves it before."""
        first = self.host.rank() == 0

        def save(folder: Path) -> Entries:
            entries = self._save(folder, done)
            self.faults.meet("report", epoch=done.epoch)
            return entries

        if not first:
            self.faults.meet("report", epoch=done.epoch)
        self.host.report(metrics, epoch=done.epoch, save=save if first else None)
        self.faults.meet("end", epoch=done.epoch)

    def learn(
        self, epoch: int, pulse: Pulse, stop: StopSign, *, begun: checkpoint.Begun | None = None
    ) -> dict[str, Any]:
        """One epoch over this worker's share, or what is left of it; the figures are everybody's.

        Raises:
            Diverging: too much of it is no number; nothing of it may be kept.
            Stopped: somebody asked for it; what is done of it can be kept.
        """
        self._begin(begun)
        done = begun.steps if begun else 0
        share = self.experiment.optim.batch_size // world_size()
        pulse.start(epoch, crops=self.feed.train.rows // world_size(), done=done * share)

        def each_step(crops: int) -> None:
            pulse.beat(crops)
            if stop.seen():
                self._require_numbers()
                raise Stopped

        loss = train_epoch(
            self.model,
            self._batches(epoch, begin=done),
            self.optimizer,
            self.scheduler,
            target=target_of(self.experiment),
            bf16=self.bf16,
            accumulate=self.experiment.optim.accumulate,
            clip_norm=self.experiment.optim.clip_norm,
            average=self.average,
            each_step=each_step,
            guard=self.guard,
        )
        self._require_numbers()
        metrics = {
            "epoch": epoch,
            "train/loss": mean_of_all(loss),
            "train/lr": self.lr,
            "train/lr_height": rate_of(self.experiment) * self.rate,
            "perf/pictures_per_s": pulse.rate() * world_size(),
            "perf/data_wait_share": self.feed.waited / max(1e-9, pulse.elapsed()),
        }
        if self.device.type == "cuda":
            metrics["perf/gpu_mem_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        return metrics | self._skipped(self.guard.skipped(), epoch)

    def pause(self, done: checkpoint.Progress) -> None:
        """Keep what is done of the epoch after `done`."""
        mine, bad = self.guard.so_far()
        losses = of_everybody(mine)
        met = [list(chain(*parts)) for parts in zip(*of_everybody(self.feed.met), strict=True)]
        rotten = sorted(set().union(*of_everybody(self.feed.rotten)))
        begun = checkpoint.Begun(losses=losses, bad=bad, lr=self.lr, met=met, rotten=rotten)
        if self.host.rank() == 0:
            progress = replace(done, rate=self.rate, begun=begun)
            self.host.pause(epoch=done.epoch + 1, save=lambda folder: self._save(folder, progress))

    def concede(self, trouble: Diverging, *, epoch: int, since: int) -> None:
        """Say that an epoch diverged, and with which rows; `since` is the last that did not.

        Raises:
            DivergedError: it did so at a lower rate than the experiment's.
        """
        blame = Blame.of(trouble, self.feed.met, epoch=epoch)
        if self.host.rank() == 0:
            blame.keep(self.run_folder)
        if self.rate < 1:
            raise blame.error(self.run_folder, lr=self.experiment.optim.lr) from None
        if self.host.rank() == 0:
            blame.note(self.run_folder, since=since)

    def judged(self) -> AbstractContextManager[None]:
        """While open, the model is the one to judge and keep: the average, where there is one."""
        return self.average.in_place() if self.average else nullcontext()

    def predict(self, epoch: int) -> Predictions:
        """Everybody's predictions, without DDP's wrapper: shares of validation are uneven."""
        share_buffers(self.bare)
        batches = self.feed.validation(size=self.experiment.evaluation.batch_size)
        self._judged = folded(self.bare, bf16=self.bf16)
        mine = predict(
            self._judged,
            self.faults.validation(batches, epoch=epoch),
            decoding=decoding_of(self.experiment, self.manifest),
            bf16=self.bf16,
            target=target_of(self.experiment),
        )
        return gather_predictions(mine)

    def heatmaps(self, crops: UInt8[np.ndarray, "N H W 3"]) -> Float[np.ndarray, "N K h w"]:
        """What the model that `predict` asked last sees in some crops; the others wait."""
        size = self.experiment.evaluation.batch_size
        parts = [
            predict_heatmaps(
                self._judged,
                part.to(self.device),
                decoding=decoding_of(self.experiment, self.manifest),
                bf16=self.bf16,
            )
            for part in torch.from_numpy(crops).split(size)
        ]
        return torch.cat(parts).cpu().numpy()

    def _skipped(self, steps: list[int], epoch: int) -> dict[str, int]:
        if not steps:
            return {}
        if self.host.rank() == 0:
            numbered = shortened([str(step + 1) for step in steps])
            note = f"epoch {epoch + 1}: skipped step {numbered}: no finite loss or gradient"
            append_fault(self.run_folder, "skipped_steps", note)
        return {"fault/skipped_steps": len(steps)}

    def _begin(self, begun: checkpoint.Begun | None) -> None:
        """Be ready for an epoch's first step, or for the one after those that are done."""
        self.guard = Guard(self.bare, steps=self.feed.steps(size=self.experiment.optim.batch_size))
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.feed.met = []
        if not begun:
            return
        same = len(begun.losses) == world_size()
        mine = begun.losses[self.host.rank()] if same else torch.stack(begun.losses).mean(0)
        self.guard.recall(mine, begun.bad)
        self.lr = begun.lr
        first = self.host.rank() == 0  # who met which is not asked for, only in which step
        self.feed.met = begun.met if first else [[] for _ in begun.met]
        self.feed.rotten |= set(begun.rotten)

    def _require_numbers(self) -> None:
        if not all(of_everybody(all_finite(self.bare, self.optimizer, self.average))):
            raise Diverging("weights or statistics are no numbers", steps=[], mine=[])

    def _save(self, folder: Path, progress: checkpoint.Progress) -> Entries:
        return checkpoint.save(
            folder, self.model, self.optimizer, self.scheduler, progress, also=self._also()
        )

    def _also(self) -> dict[str, checkpoint.Stateful]:
        return {"average": self.average} if self.average else {}

    def _batches(self, epoch: int, *, begin: int) -> Iterator[PoseBatch]:
        recipe = recipe_of(self.experiment, self.manifest)
        size, seed = self.experiment.optim.batch_size, self.experiment.seed
        rows = self.feed.training(size=size, seed=seed, epoch=epoch, begin=begin)
        batches = (augmented(batch, recipe, epoch=epoch) for batch in rows)
        return self.faults.training(batches, epoch=epoch, begin=begin)

    def _optimizer(
        self,
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optim = self.experiment.optim
        optimizer = make_optimizer(
            self.model,
            algorithm=optim.algorithm,
            lr=rate_of(self.experiment),
            weight_decay=optim.weight_decay,
        )
        scheduler = make_scheduler(
            optimizer,
            schedule=optim.schedule,
            milestones=optim.drops,
            epochs=optim.epochs,
            warmup_steps=optim.warmup_steps,
            steps_per_epoch=self.feed.steps(size=optim.batch_size),
        )
        return optimizer, scheduler
