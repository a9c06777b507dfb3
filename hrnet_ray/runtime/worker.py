"""What one training worker does, in order. Ray Train calls `train_worker` once per GPU."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hrnet_ray.config import Experiment
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.learning import checkpoint
from hrnet_ray.learning.average import Average
from hrnet_ray.learning.batch import PoseBatch, augmented
from hrnet_ray.learning.compiling import compile_or_go_on
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
from hrnet_ray.runtime.feed import Feed
from hrnet_ray.runtime.hosts import Host
from hrnet_ray.runtime.ingest import Stored
from hrnet_ray.runtime.judge import Judge
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


def train_worker(config: dict[str, Job]) -> None:
    """Train one replica to the end, from the last checkpoint if there is one."""
    job = config["job"]
    host, epochs = job.host, job.experiment.optim.epochs
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.experiment.seed)
    host.require_storage()

    replica = Replica(job)
    first = host.rank() == 0
    judge = Judge(job.experiment, job.manifest, job.run_folder) if first else None
    ledger = Ledger(job.manifest, job.run_folder, write_order=job.write_order, active=first)
    pulse = Pulse(job.run_folder, epochs=epochs, active=first)
    done = replica.resume()

    for epoch in range(done.epoch + 1, epochs):
        metrics = replica.learn(epoch, pulse)
        ledger.order(of_everybody(replica.feed.met), epoch=epoch)
        if _validates(job.experiment, epoch):
            with replica.judged():
                found = replica.predict()
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
        done = replace(done, epoch=epoch)
        host.report(metrics, epoch=epoch, save=replica.saver(done) if first else None)
        if not math.isfinite(metrics["train/loss"]):
            return  # diverged, on every worker alike; whoever started us reads it in the metrics


class Replica:
    """One worker's model with all that moves it."""

    def __init__(self, job: Job) -> None:
        self.experiment, self.manifest, self.host = job.experiment, job.manifest, job.host
        self.device = job.host.device()
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
            threads=job.threads,
        )
        self.optimizer, self.scheduler = self._optimizer()

    def resume(self) -> checkpoint.Progress:
        """Go on from the newest whole checkpoint, if there is one."""
        found = [checkpoint.Progress(epoch=-1)]

        def load(folder: Path) -> None:
            found.append(
                checkpoint.load(
                    folder, self.model, self.optimizer, self.scheduler, also=self._also()
                )
            )

        self.host.resume(load)
        return found[-1]

    def saver(self, done: checkpoint.Progress) -> Any:
        """What writes this moment's checkpoint into a folder."""
        return lambda folder: checkpoint.save(
            folder, self.model, self.optimizer, self.scheduler, done, also=self._also()
        )

    def learn(self, epoch: int, pulse: Pulse) -> dict[str, Any]:
        """One epoch over this worker's share; the figures are everybody's."""
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
        )
        return {
            "epoch": epoch,
            "train/loss": mean_of_all(loss),
            "train/lr": rate,
            "train/lr_height": rate_of(self.experiment),
            "perf/pictures_per_s": pulse.rate() * world_size(),
            "perf/data_wait_share": self.feed.waited / max(1e-9, pulse.elapsed()),
        }

    def judged(self) -> AbstractContextManager[None]:
        """While open, the model is the one to judge and keep: the average, where there is one."""
        return self.average.in_place() if self.average else nullcontext()

    def predict(self) -> Predictions:
        """Everybody's predictions, without DDP's wrapper: shares of validation are uneven."""
        share_buffers(self.bare)
        mine = predict(
            folded(self.bare),
            self.feed.validation(size=self.experiment.evaluation.batch_size),
            decoding=decoding_of(self.experiment, self.manifest),
            bf16=self.bf16,
        )
        return gather_predictions(mine)

    def _also(self) -> dict[str, checkpoint.Stateful]:
        return {"average": self.average} if self.average else {}

    def _batches(self, epoch: int) -> Iterator[PoseBatch]:
        recipe = recipe_of(self.experiment, self.manifest)
        size, seed = self.experiment.optim.batch_size, self.experiment.seed
        for batch in self.feed.training(size=size, seed=seed, epoch=epoch):
            yield augmented(batch, recipe, epoch=epoch)

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
