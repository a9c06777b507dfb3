"""What one training worker does, in order. Ray Train calls `train_worker` once per GPU."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrnet_ray.config import Experiment
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.errors import shortened
from hrnet_ray.learning import checkpoint
from hrnet_ray.learning.average import Average
from hrnet_ray.learning.batch import PoseBatch, augmented
from hrnet_ray.learning.checkpoint_store import Entries
from hrnet_ray.learning.compiling import compile_or_go_on
from hrnet_ray.learning.guard import Diverging, Guard, all_finite, scale_rate
from hrnet_ray.learning.loop import Predictions, predict, train_epoch
from hrnet_ray.learning.norms import share_norms
from hrnet_ray.learning.optim import make_optimizer, make_scheduler
from hrnet_ray.learning.workers import (
    gather_predictions,
    mean_of_all,
    of_everybody,
    share_buffers,
    world_size,
)
from hrnet_ray.models.folding import folded
from hrnet_ray.runtime.faults import Faults
from hrnet_ray.runtime.feed import Feed
from hrnet_ray.runtime.hosts import Host
from hrnet_ray.runtime.ingest import Stored
from hrnet_ray.runtime.judge import SHOWN, Judge
from hrnet_ray.runtime.ledger import Ledger
from hrnet_ray.runtime.progress import Pulse
from hrnet_ray.runtime.recipes import (
    build_model,
    decoding_of,
    rate_of,
    recipe_of,
    target_of,
    uses_bf16,
)
from hrnet_ray.runtime.records import append_fault
from hrnet_ray.runtime.rescue import SLOWER, Blame


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is told. Plain values: it travels to other machines."""

    experiment: Experiment
    manifest: Manifest
    data: Mapping[str, Stored]
    run_folder: Path
    threads: int
    write_order: bool
    host: Host
    most_workers: int = 1


def train_worker(config: dict[str, Job]) -> None:
    """Train one replica to the end, from the last checkpoint if there is one.

    Raises:
        DivergedError: the loss is no number, at half the rate too.
    """
    job = config["job"]
    torch.set_num_threads(job.threads)
    job.host.require_storage()
    if not train(job):
        gc.collect()  # the net that diverged, before there is another
        train(job, slower=True)


def train(job: Job, *, slower: bool = False) -> bool:
    """Go on from the newest checkpoint; False when it diverged, on every worker alike.

    `slower` goes on at a lower rate than before, for good; then diverging is an error.
    """
    host, epochs = job.host, job.experiment.optim.epochs
    torch.manual_seed(job.experiment.seed)

    replica = Replica(job)
    first = host.rank() == 0
    judge = _judge(job, replica.feed) if first else None
    ledger = Ledger(job.manifest, job.run_folder, write_order=job.write_order, active=first)
    pulse = Pulse(job.run_folder, epochs=epochs, active=first)
    done = replica.resume(slower=slower)

    for epoch in range(done.epoch + 1, epochs):
        try:
            metrics = replica.learn(epoch, pulse)
        except Diverging as trouble:
            replica.concede(trouble, epoch=epoch, since=done.epoch)
            return False
        ledger.order(of_everybody(replica.feed.met), epoch=epoch)
        if _validates(job.experiment, epoch):
            with replica.judged():
                found = replica.predict(epoch)
                rotten = set().union(*of_everybody(replica.feed.rotten))
                metrics["data/skipped"], metrics["skipped"] = ledger.skipped(rotten)
                if judge:
                    done, figures = judge.judge(
                        found, replica.bare, epoch=epoch, done=done, rotten=rotten
                    )
                    metrics |= figures
        if judge:
            metrics |= {"objective": judge.last, "epochs_done": epoch + 1}
        metrics["perf/epoch_s"] = pulse.elapsed()
        done = replace(done, epoch=epoch, rate=replica.rate)
        replica.report(metrics, done)
    return True


def _judge(job: Job, feed: Feed) -> Judge:
    shown = feed.val.take(np.arange(min(SHOWN, feed.val.rows)))  # decoded once, for every trial
    return Judge(job.experiment, job.manifest, job.run_folder, shown=shown)


class Replica:
    """One worker's model with all that moves it."""

    def __init__(self, job: Job) -> None:
        self.experiment, self.manifest, self.host = job.experiment, job.manifest, job.host
        self.run_folder = job.run_folder
        self.device = job.host.device()
        self.rate = 1.0
        self.faults = Faults(job.run_folder, rank=job.host.rank())
        optim = self.experiment.optim
        self.bf16 = uses_bf16(self.experiment, self.device)
        self.bare = build_model(self.experiment, self.manifest)
        if optim.sync_norm:
            share_norms(self.bare, self.device)
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

        self.host.resume(load)
        self.rate = found[-1].rate * (SLOWER if slower else 1.0)
        scale_rate(self.scheduler, self.rate)
        return replace(found[-1], rate=self.rate)

    def report(self, metrics: dict[str, Any], done: checkpoint.Progress) -> None:
        """Tell the figures of an epoch; the first worker saves it before."""
        first = self.host.rank() == 0

        def save(folder: Path) -> Entries:
            entries = checkpoint.save(
                folder, self.model, self.optimizer, self.scheduler, done, also=self._also()
            )
            self.faults.meet("report", epoch=done.epoch)
            return entries

        if not first:
            self.faults.meet("report", epoch=done.epoch)
        self.host.report(metrics, epoch=done.epoch, save=save if first else None)
        self.faults.meet("end", epoch=done.epoch)

    def learn(self, epoch: int, pulse: Pulse) -> dict[str, Any]:
        """One epoch over this worker's share; the figures are everybody's.

        Raises:
            Diverging: too much of it is no number; nothing of it may be kept.
        """
        guard = Guard(self.bare, steps=self.feed.steps(size=self.experiment.optim.batch_size))
        pulse.start(epoch, crops=self.feed.train.rows // world_size())
        rate = self.optimizer.param_groups[0]["lr"]
        loss = train_epoch(
            self.model,
            self._batches(epoch),
            self.optimizer,
            self.scheduler,
            target=target_of(self.experiment),
            bf16=self.bf16,
            accumulate=self.experiment.optim.accumulate,
            clip_norm=self.experiment.optim.clip_norm,
            average=self.average,
            each_step=pulse.beat,
            guard=guard,
        )
        if not all(of_everybody(all_finite(self.bare, self.optimizer, self.average))):
            raise Diverging("weights or statistics are no numbers", steps=[], mine=[])
        metrics = {
            "epoch": epoch,
            "train/loss": mean_of_all(loss),
            "train/lr": rate,
            "train/lr_height": rate_of(self.experiment) * self.rate,
            "perf/pictures_per_s": pulse.rate() * world_size(),
            "perf/data_wait_share": self.feed.waited / max(1e-9, pulse.elapsed()),
        }
        return metrics | self._skipped(guard.skipped(), epoch)

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
        mine = predict(
            folded(self.bare),
            self.faults.validation(batches, epoch=epoch),
            decoding=decoding_of(self.experiment, self.manifest),
            bf16=self.bf16,
        )
        return gather_predictions(mine)

    def _skipped(self, steps: list[int], epoch: int) -> dict[str, int]:
        if not steps:
            return {}
        if self.host.rank() == 0:
            numbered = shortened([str(step + 1) for step in steps])
            note = f"epoch {epoch + 1}: skipped step {numbered}: no finite loss or gradient"
            append_fault(self.run_folder, "skipped_steps", note)
        return {"fault/skipped_steps": len(steps)}

    def _also(self) -> dict[str, checkpoint.Stateful]:
        return {"average": self.average} if self.average else {}

    def _batches(self, epoch: int) -> Iterator[PoseBatch]:
        recipe = recipe_of(self.experiment, self.manifest)
        size, seed = self.experiment.optim.batch_size, self.experiment.seed
        rows = self.feed.training(size=size, seed=seed, epoch=epoch)
        batches = (augmented(batch, recipe, epoch=epoch) for batch in rows)
        return self.faults.training(batches, epoch=epoch)

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
            milestones=optim.milestones,
            epochs=optim.epochs,
            warmup_steps=optim.warmup_steps,
            steps_per_epoch=self.feed.steps(size=optim.batch_size),
        )
        return optimizer, scheduler


def _validates(experiment: Experiment, epoch: int) -> bool:
    last = epoch == experiment.optim.epochs - 1
    return last or (epoch + 1) % experiment.evaluation.every == 0
