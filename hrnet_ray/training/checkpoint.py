"""All that a run needs to go on where it was, bit for bit: one file, `state.pt`.

Tensors and plain numbers only, so it loads with `weights_only=True` and runs no code.
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

FREE_SPACE_FACTOR = (
    3  # checkpoints must fit on the disk before one is written: the run writes other things too
)


@dataclass(frozen=True, kw_only=True)
class PartialEpochState:
    """What has come of an epoch that was interrupted, on all workers."""

    losses_by_rank: list[Tensor]
    """By rank: of each step that is done."""
    skipped: Tensor
    """1 for each step that was left out, because its gradient was no number."""
    lr: float
    """At the epoch's first step."""
    seen_ids: list[list[int]]
    """Ids of the rows of each step."""
    corrupt_rows: list[tuple[str, int]]
    """Split and id of the rows that could not be read."""

    @property
    def num_steps(self) -> int:
        """How many are done."""
        return len(self.skipped)


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """How far a run has come."""

    epoch: int
    """The last finished one, counted from 0."""
    best_score: float = float("-inf")
    best_epoch: int = -1
    lr_factor: float = 1.0
    """What the learning rate is multiplied by since the run diverged."""
    partial_epoch: PartialEpochState | None = None
    """Of the epoch after that, where it was interrupted."""


@runtime_checkable
class StatefulComponent(Protocol):
    """Anything else that moves along with a training, such as averaged weights."""

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
    """Write the state into an existing folder; returns what its manifest has to say.

    Raises:
        OSError: the disk is full (or would soon be), or does not work.
    """
    state = {
        "model": unwrap_model(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"last_epoch": scheduler.last_epoch},
        "progress": {k: v for k, v in asdict(train_state).items() if v is not None},
        "also": {name: dict(part.state_dict()) for name, part in (extra_components or {}).items()},
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
    """Fill model, optimizer and scheduler from a checkpoint; they stay as they were if it is bad.

    Raises:
        DataError: the folder is damaged, or not of this model and optimizer.
    """
    verify_checkpoint(folder)
    try:
        state: dict[str, Any] = load_pickle_weights_only(folder / STATE_FILE)
        progress = _parse_train_state(state["progress"])
        last_step = int(state["scheduler"]["last_epoch"])
        extras = {name: state["also"][name] for name in extra_components or {}}
        _require_same_shapes(state["model"], unwrap_model(model).state_dict())
        optimizer.load_state_dict(state["optimizer"])  # looks before it changes anything
    except Exception as error:  # whoever can write the folder can write a manifest to match
        raise make_corrupt_checkpoint_error(
            folder, f"{STATE_FILE} does not fit ({format_load_error(error)})"
        ) from error
    unwrap_model(model).load_state_dict(state["model"])
    scheduler.last_epoch = last_step
    for name, part in (extra_components or {}).items():
        part.load_state_dict(extras[name])
    return progress


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model itself, without what DDP (where there are several workers) and compiling wrap."""
    for wrapper in ("module", "_orig_mod"):
        model = getattr(model, wrapper, model)
    return model


def _parse_train_state(state: Mapping[str, Any]) -> TrainState:
    if partial_epoch := state.get("partial_epoch"):
        state = {**state, "partial_epoch": PartialEpochState(**partial_epoch)}
    return TrainState(**state)


def _require_same_shapes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    differing = sorted(found.keys() ^ wanted.keys()) or [
        name for name, tensor in wanted.items() if found[name].shape != tensor.shape
    ]
    if differing:
        raise ValueError(f"it is of another net: {format_list(differing)}")


def _require_free_space(folder: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < FREE_SPACE_FACTOR * size_bytes:
        raise OSError(
            errno.ENOSPC,
            f"{free / 2**20:,.0f} MiB are free, {FREE_SPACE_FACTOR} checkpoints of {size_bytes / 2**20:,.0f} MiB "
            "must fit",
        )
