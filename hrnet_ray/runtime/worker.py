"""What one training worker does, in order. Ray Train calls `train_worker` once per GPU."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hrnet_ray.config import HEATMAP_STRIDE, Experiment
from hrnet_ray.data import pictures, rows
from hrnet_ray.data.shards import Manifest, read_head, read_table
from hrnet_ray.inference.model_folder import ModelSpec, save_model
from hrnet_ray.inference.plots import poses_on_crops
from hrnet_ray.learning import checkpoint
from hrnet_ray.learning.batch import Recipe, augmented
from hrnet_ray.learning.loop import Decoding, Predictions, Target, predict, train_epoch
from hrnet_ray.learning.optim import make_optimizer, make_scheduler
from hrnet_ray.learning.precision import bf16_pays
from hrnet_ray.learning.scores import Scores, coco_results, score
from hrnet_ray.learning.workers import (
    gather_predictions,
    mean_of_all,
    share_buffers,
    world_size,
)
from hrnet_ray.models import HRNet
from hrnet_ray.models.weights import load_weights
from hrnet_ray.pose.augment import Augmentation
from hrnet_ray.runtime.hosts import Host
from hrnet_ray.runtime.ingest import canvas_batches, crop_batches
from hrnet_ray.runtime.progress import Pulse

WORST = 0.0  # of any metric that is searched for
SHOWN = 16  # validation crops drawn after each validation


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is told. Plain values: it travels to other machines."""

    experiment: Experiment
    manifest: Manifest
    run_folder: Path
    threads: int
    host: Host


def train_worker(config: dict[str, Job]) -> None:
    """Train one replica to the end, from the last checkpoint if there is one."""
    job = config["job"]
    experiment, manifest, host = job.experiment, job.manifest, job.host
    rank, device = host.rank(), host.device()
    torch.set_num_threads(job.threads)
    torch.manual_seed(experiment.seed)

    bare = build_model(experiment, manifest)
    model = host.wrap(bare)
    optimizer, scheduler = _optimizer(model, experiment, manifest)
    done = checkpoint.Progress(epoch=-1)

    def load(folder: Path) -> None:
        nonlocal done
        done = checkpoint.load(folder, model, optimizer, scheduler)

    host.resume(load)
    judge = Judge(job) if rank == 0 else None
    train_rows, val_rows = host.rows("train"), host.rows("val")
    pulse = Pulse(job.run_folder, epochs=experiment.optim.epochs, active=rank == 0)

    for epoch in range(done.epoch + 1, experiment.optim.epochs):
        pulse.start(epoch, crops=_rows_each(manifest))
        rate = optimizer.param_groups[0]["lr"]
        loss = train_epoch(
            model,
            (
                augmented(batch, recipe_of(experiment, manifest), epoch=epoch)
                for batch in canvas_batches(
                    train_rows,
                    size=experiment.optim.batch_size // world_size(),
                    seed=experiment.seed,
                    epoch=epoch,
                    canvas_px=manifest.canvas_px,
                    device=device,
                )
            ),
            optimizer,
            scheduler,
            target=target_of(experiment),
            bf16=_bf16(experiment, device),
            each_step=pulse.beat,
        )
        metrics = {
            "epoch": epoch,
            "train/loss": mean_of_all(loss),
            "train/lr": rate,
            "perf/pictures_per_s": pulse.rate() * world_size(),
        }
        if _validates(experiment, epoch):
            found = _predict_all(model, val_rows, experiment, manifest, device)
            if judge:
                done, figures = judge.judge(found, bare, epoch=epoch, done=done)
                metrics |= figures
        if judge:
            metrics |= {"objective": judge.last, "epochs_done": epoch + 1}
        metrics["perf/epoch_s"] = pulse.elapsed()
        done = checkpoint.Progress(epoch=epoch, best=done.best, best_epoch=done.best_epoch)

        def save(folder: Path, progress: checkpoint.Progress = done) -> None:
            checkpoint.save(folder, model, optimizer, scheduler, progress)

        host.report(metrics, epoch=epoch, save=save if rank == 0 else None)


class Judge:
    """Scores everybody's predictions, keeps the best model, draws the same crops each time."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.last = WORST
        """The newest score, for the search; a score that is no number counts as the worst."""
        self.truth = rows.labels_of(read_table(job.manifest, "val", columns=list(rows.LABELS)))
        self.shown = rows.decode_exact(
            read_head(job.manifest, "val", SHOWN),
            input_hw=job.experiment.data.input_hw,
            padding=job.experiment.data.padding,
        )

    def judge(
        self, found: Predictions, model: nn.Module, *, epoch: int, done: checkpoint.Progress
    ) -> tuple[checkpoint.Progress, dict[str, float]]:
        """Score an epoch; where it is the best so far, keep its model and predictions."""
        skeleton = self.job.manifest.skeleton
        scores = score(found, self.truth, skeleton)
        self.last = scores.value if math.isfinite(scores.value) else WORST
        self._draw(found, epoch)
        if not scores.value <= done.best:  # the first one is the best even when it is NaN
            done = checkpoint.Progress(epoch=epoch, best=scores.value, best_epoch=epoch)
            self._keep(found, model, scores)
        figures = {f"val/{name}": value for name, value in scores.summary.items()}
        kind = scores.main.split("_")[0]
        figures |= {f"val/{kind}.{name}": value for name, value in scores.per_keypoint.items()}
        return done, figures | {f"val/best.{scores.main}": done.best}

    def _keep(self, found: Predictions, model: nn.Module, scores: Scores) -> None:
        experiment, manifest = self.job.experiment, self.job.manifest
        spec = spec_of(experiment, manifest, scores.summary)
        save_model(self.job.run_folder / "model", model, spec)
        path = self.job.run_folder / "predictions" / "val.coco.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(coco_results(found, self.truth)), encoding="utf-8")

    def _draw(self, found: Predictions, epoch: int) -> None:
        place = {row: at for at, row in enumerate(found.ids.tolist())}
        order = [place[row] for row in self.shown["id"].tolist()]
        picture = poses_on_crops(
            list(self.shown["crop"]),
            self.shown["crop_from_image"],
            found.image_xy.numpy()[order],
            self.shown["image_xy"],
            self.shown["visible"],
            self.job.manifest.skeleton,
        )
        pictures.write(fixed16(self.job.run_folder, epoch), picture)


def fixed16(run_folder: Path, epoch: int) -> Path:
    """Where the drawn validation crops of an epoch are."""
    return run_folder / "plots" / "fixed16" / f"epoch_{epoch:04d}.jpg"


def build_model(experiment: Experiment, manifest: Manifest) -> HRNet:
    """The experiment's net, with the weights that it starts from.

    Raises:
        DataError: `model.init` does not fit.
    """
    model = spec_of(experiment, manifest, {}).build()
    if experiment.model.init:
        load_weights(model, experiment.model.init, partial=experiment.model.init_partial)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def spec_of(experiment: Experiment, manifest: Manifest, scores: dict[str, float]) -> ModelSpec:
    """What a model folder says about the model."""
    net, judging = experiment.model, experiment.evaluation
    return ModelSpec(
        skeleton=manifest.skeleton,
        width=net.width,
        modules=net.modules,
        blocks=net.blocks,
        stem=net.stem,
        input_hw=experiment.data.input_hw,
        padding=experiment.data.padding,
        sigma=experiment.heatmap.sigma,
        decode=judging.decode,
        flip_test=judging.flip_test,
        shift_heatmap=judging.shift_heatmap,
        trained_on=f"{manifest.name} ({manifest.digest[:12]})",
        scores=scores,
    )


def recipe_of(experiment: Experiment, manifest: Manifest) -> Recipe:
    """What chance may do to a training crop."""
    return Recipe(
        skeleton=manifest.skeleton,
        input_hw=experiment.data.input_hw,
        padding=experiment.data.padding,
        augmentation=Augmentation(**vars(experiment.augment)),
        seed=experiment.seed,
    )


def target_of(experiment: Experiment) -> Target:
    """What the heatmaps should look like."""
    return Target(
        input_hw=experiment.data.input_hw,
        heatmap_hw=experiment.data.heatmap_hw,
        sigma=experiment.heatmap.sigma,
        rounded=experiment.heatmap.rounded,
        loss=experiment.optim.loss,
    )


def decoding_of(experiment: Experiment, manifest: Manifest) -> Decoding:
    """How heatmaps become keypoints."""
    judging = experiment.evaluation
    return Decoding(
        method=judging.decode,
        flip_order=manifest.skeleton.flip_order if judging.flip_test else None,
        shift=judging.shift_heatmap,
        stride=HEATMAP_STRIDE,
        sigma=experiment.heatmap.sigma,
    )


def _predict_all(
    model: nn.Module,
    val_rows: Any,
    experiment: Experiment,
    manifest: Manifest,
    device: torch.device,
) -> Predictions:
    """Everybody's predictions. Without DDP's wrapper: workers have unequal numbers of rows."""
    bare = checkpoint.bare(model)
    share_buffers(bare)
    batches = crop_batches(val_rows, size=experiment.evaluation.batch_size, device=device)
    mine = predict(
        bare,
        batches,
        decoding=decoding_of(experiment, manifest),
        bf16=_bf16(experiment, device),
    )
    return gather_predictions(mine)


def _optimizer(
    model: nn.Module, experiment: Experiment, manifest: Manifest
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optim = experiment.optim
    optimizer = make_optimizer(
        model, algorithm=optim.algorithm, lr=optim.lr, weight_decay=optim.weight_decay
    )
    each = optim.batch_size // world_size()
    scheduler = make_scheduler(
        optimizer,
        schedule=optim.schedule,
        milestones=optim.milestones,
        epochs=optim.epochs,
        warmup_steps=optim.warmup_steps,
        steps_per_epoch=-(-_rows_each(manifest) // each),
    )
    return optimizer, scheduler


def _rows_each(manifest: Manifest) -> int:
    return manifest.splits["train"].rows // world_size()


def _validates(experiment: Experiment, epoch: int) -> bool:
    last = epoch == experiment.optim.epochs - 1
    return last or (epoch + 1) % experiment.evaluation.every == 0


def _bf16(experiment: Experiment, device: torch.device) -> bool:
    wanted = experiment.optim.precision
    return wanted == "bf16" or (wanted == "auto" and bf16_pays(device))
