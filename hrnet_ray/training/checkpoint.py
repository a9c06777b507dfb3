"""The state of a training in one file, `state.pt`: enough to resume it bit for bit.

It holds tensors and plain numbers only, so it loads with `weights_only=True` and runs no code.
"""

import errno
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hrnet_ray.errors import format_list
from hrnet_ray.models.safe_loading import format_load_error, load_pickle_weights_only
from hrnet_ray.training.checkpoint_store import (
    STATE_FILE,
    FileEntries,
    HashingWriter,
    make_corrupt_checkpoint_error,
    verify_checkpoint,
)
from hrnet_ray.utils.tensors import iter_tensors

FREE_SPACE_FACTOR = 3
"""Checkpoints that must fit on the disk before one is written: the run writes other files too."""


@dataclass(frozen=True, kw_only=True)
class PartialEpochState:
    """State of an interrupted epoch, gathered from all ranks."""

    losses_by_rank: list[Tensor]
    """Loss of each finished step, by rank."""
    skipped: Tensor
    """1 for each step that was skipped because of a NaN or Inf gradient, else 0."""
    lr: float
    """Learning rate of the epoch's first step."""
    seen_ids: list[list[int]]
    """Ids of the rows of each step, of all ranks."""
    corrupt_rows: list[tuple[str, int]]
    """Split and id of the rows that could not be decoded."""

    @property
    def num_steps(self) -> int:
        """Number of finished steps."""
        return len(self.skipped)


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Progress of a run. Epochs count from 1."""

    epoch: int
    """Last finished epoch; 0 before the first."""
    best_score: float = float("-inf")
    best_epe_px: float = float("inf")
    """End-point error of the best model, which breaks ties of the score."""
    best_loss: float = float("inf")
    """Validation loss of the best model, which breaks ties of both."""
    best_epoch: int = 0
    """Epoch of the best model on disk; 0 if there is none."""
    lr_factor: float = 1.0
    """Factor on the learning rate; below 1 after a divergence."""
    partial_epoch: PartialEpochState | None = None
    """State of the epoch after `epoch`, if it was interrupted."""


@runtime_checkable
class StatefulComponent(Protocol):
    """Further state of a training, such as the EMA."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def save_train_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    train_state: TrainState,
    *,
    extra_components: Mapping[str, StatefulComponent] | None = None,
) -> FileEntries:
    """Write the state into an existing folder; returns the entries for its manifest.

    Raises:
        OSError: the disk is full, nearly full, or broken.
    """
    state = {
        "model": unwrap_model(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"last_epoch": scheduler.last_epoch},
        "progress": {k: v for k, v in asdict(train_state).items() if v is not None},
        "also": {name: dict(component.state_dict()) for name, component in (extra_components or {}).items()},
    }
    _require_free_space(folder, sum(tensor.nbytes for tensor in iter_tensors(state)))
    sink = HashingWriter(folder / STATE_FILE)
    try:
        torch.save(state, sink)  # pyright: ignore[reportArgumentType]
        return {STATE_FILE: sink.close()}
    except RuntimeError:
        if sink.write_error:
            raise sink.write_error from None
        raise
    finally:
        sink.close_ignoring_errors()


def load_train_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    extra_components: Mapping[str, StatefulComponent] | None = None,
) -> TrainState:
    """Restore model, optimizer and scheduler; if the checkpoint is corrupt, they do not change.

    Raises:
        DataError: the checkpoint is corrupt, or of another model or optimizer.
    """
    verify_checkpoint(folder)
    try:
        state: dict[str, Any] = load_pickle_weights_only(folder / STATE_FILE)
        progress = _parse_train_state(state["progress"])
        last_step = int(state["scheduler"]["last_epoch"])
        extras = {name: state["also"][name] for name in extra_components or {}}
        _require_same_shapes(state["model"], unwrap_model(model).state_dict())
        optimizer.load_state_dict(state["optimizer"])  # validates before it changes anything
    except Exception as error:  # a matching manifest proves no origin
        raise make_corrupt_checkpoint_error(
            folder, f"{STATE_FILE} does not fit ({format_load_error(error)})"
        ) from error
    unwrap_model(model).load_state_dict(state["model"])
    scheduler.last_epoch = last_step
    for name, component in (extra_components or {}).items():
        component.load_state_dict(extras[name])
    return progress


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of DDP and torch.compile."""
    for wrapper in ("module", "_orig_mod"):
        model = getattr(model, wrapper, model)
    return model


def _parse_train_state(state: Mapping[str, Any]) -> TrainState:
    if partial_epoch := state.get("partial_epoch"):
        state = {**state, "partial_epoch": PartialEpochState(**partial_epoch)}
    return TrainState(**state)


def _require_same_shapes(saved: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
    differing = sorted(saved.keys() ^ model.keys()) or [
        name for name, tensor in model.items() if saved[name].shape != tensor.shape
    ]
    if differing:
        raise ValueError(f"it is of another model: {format_list(differing)}")


def _require_free_space(folder: Path, size_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < FREE_SPACE_FACTOR * size_bytes:
        raise OSError(
            errno.ENOSPC,
            f"{free_bytes / 2**20:,.0f} MiB are free, "
            f"{FREE_SPACE_FACTOR} checkpoints of {size_bytes / 2**20:,.0f} MiB must fit",
        )
