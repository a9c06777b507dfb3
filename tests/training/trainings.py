"""A tiny training and its checkpoints, shared by several tests."""

from pathlib import Path

import torch
from torch import nn

from hrnet_ray.data.batch import TrainBatch
from hrnet_ray.pose.targets import HeatmapTargetConfig
from hrnet_ray.training import checkpoint
from hrnet_ray.training.checkpoint import TrainState
from hrnet_ray.training.checkpoint_store import CheckpointStore, FileEntries
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer
from tests.small_models import make_small_hrnet

INPUT_HW, HEATMAP_HW = (64, 32), (16, 8)
TARGET = HeatmapTargetConfig(input_hw=INPUT_HW, heatmap_hw=HEATMAP_HW, sigma=1.0)


class Training:
    """A model, its optimizer and its schedule, and any number of steps.

    A tiny one cannot train, but has all that is saved.
    """

    def __init__(self, *, seed: int, tiny: bool = False) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = nn.Linear(50, 90) if tiny else make_small_hrnet(2)
        self.optimizer = build_optimizer(self.model, optimizer_name="adamw", lr=1e-2, weight_decay=0.1)
        self.scheduler = build_lr_scheduler(
            self.optimizer,
            schedule="cosine",
            milestones=(),
            epochs=4,
            warmup_steps=3,
            steps_per_epoch=1,
        )

    def train(self, *steps: int) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            crops = torch.randn(2, 3, *INPUT_HW, generator=generator)
            crop_xy = torch.rand(2, 2, 2, generator=generator) * 30
            batch = TrainBatch(crops, crop_xy, torch.ones(2, 2, dtype=torch.bool))
            train_epoch(self.model, [batch], self.optimizer, self.scheduler, target=TARGET)

    def save(self, store: CheckpointStore, state: TrainState) -> Path:
        return store.save_checkpoint(
            state.epoch,
            lambda folder: self.write(folder, state),
            metrics={"epoch": state.epoch, "train/loss": 0.5},
        )

    def save_mid_epoch(self, store: CheckpointStore, state: TrainState) -> Path:
        """Save an interruption of the next epoch."""
        return store.save_checkpoint(
            state.epoch + 1,
            lambda folder: self.write(folder, state),
            metrics={},
            mid_epoch=True,
        )

    def write(self, folder: Path, state: TrainState) -> FileEntries:
        return checkpoint.save_train_state(folder, self.model, self.optimizer, self.scheduler, state)

    def load(self, folder: Path) -> TrainState:
        return checkpoint.load_train_state(folder, self.model, self.optimizer, self.scheduler)
