"""A training that is nearly nothing, and its checkpoints: what several tests go on from."""

from pathlib import Path

import torch
from torch import nn

from hrnet_ray.data.batch import TrainBatch
from hrnet_ray.models import HRNet
from hrnet_ray.pose.targets import HeatmapTargetConfig
from hrnet_ray.training import checkpoint
from hrnet_ray.training.checkpoint import TrainState
from hrnet_ray.training.checkpoint_store import CheckpointStore, FileEntries
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer

INPUT_HW, HEATMAP_HW = (64, 32), (16, 8)
TARGET = HeatmapTargetConfig(input_hw=INPUT_HW, heatmap_hw=HEATMAP_HW, sigma=1.0)


class Training:
    """A net, its optimiser and its schedule, and four batches to go through.

    A tiny one cannot learn; it has all that is saved.
    """

    def __init__(self, *, seed: int, tiny: bool = False) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = (
            nn.Linear(50, 90) if tiny else HRNet(8, 2, modules=(1, 1, 1), blocks=1, stem=8)
        )
        self.optimizer = build_optimizer(
            self.model, optimizer_name="adamw", lr=1e-2, weight_decay=0.1
        )
        self.scheduler = build_lr_scheduler(
            self.optimizer,
            schedule="cosine",
            milestones=(),
            epochs=4,
            warmup_steps=3,
            steps_per_epoch=1,
        )

    def learn(self, *steps: int) -> None:
        for step in steps:
            chance = torch.Generator().manual_seed(step)
            crops = torch.randn(2, 3, *INPUT_HW, generator=chance)
            crop_xy = torch.rand(2, 2, 2, generator=chance) * 30
            batch = TrainBatch(crops, crop_xy, torch.ones(2, 2, dtype=torch.bool))
            train_epoch(self.model, [batch], self.optimizer, self.scheduler, target=TARGET)

    def save(self, store: CheckpointStore, progress: TrainState) -> Path:
        return store.save_checkpoint(
            progress.epoch,
            lambda folder: self.write(folder, progress),
            metrics={"epoch": progress.epoch, "train/loss": 0.5},
        )

    def pause(self, store: CheckpointStore, progress: TrainState) -> Path:
        """Save in the middle of the epoch that follows."""
        return store.save_checkpoint(
            progress.epoch + 1,
            lambda folder: self.write(folder, progress),
            metrics={},
            mid_epoch=True,
        )

    def write(self, folder: Path, progress: TrainState) -> FileEntries:
        return checkpoint.save_train_state(
            folder, self.model, self.optimizer, self.scheduler, progress
        )

    def load(self, folder: Path) -> TrainState:
        return checkpoint.load_train_state(folder, self.model, self.optimizer, self.scheduler)
