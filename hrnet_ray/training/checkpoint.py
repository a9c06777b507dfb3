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

from hrnet_ray.errors import shortened
from hrnet_ray.models.safe_loading import reason, unpickle
from hrnet_ray.training.checkpoint_store import STATE, Entries, Sink, damaged, verify
from hrnet_ray.utils.tensors import tensors_in

ROOM = 3  # checkpoints must fit on the disk before one is written: the run writes other things too


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What has come of an epoch that was interrupted, on all workers."""

    losses: list[Tensor]
    """By rank: of each step that is done."""
    bad: Tensor
    """1 for each step that was left out, because its gradient was no number."""
    lr: float
    """At the epoch's first step."""
    met: list[list[int]]
    """Ids of the rows of each step."""
    rotten: list[tuple[str, int]]
    """Split and id of the rows that could not be read."""

    @property
    def steps(self) -> int:
        """How many are done."""
        return len(self.bad)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    epoch: int
    """The last finished one, counted from 0."""
    best: float = float("-inf")
    best_epoch: int = -1
    rate: float = 1.0
    """What the learning rate is multiplied by since the run diverged."""
    begun: Begun | None = None
    """Of the epoch after that, where it was interrupted."""


@runtime_checkable
class Stateful(Protocol):
    """Anything else that moves along with a training, such as averaged weights."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    progress: Progress,
    *,
    also: Mapping[str, Stateful] | None = None,
) -> Entries:
    """Write the state into an existing folder; returns what its manifest has to say.

    Raises:
        OSError: the disk is full (or would soon be), or does not work.
    """
    state = {
        "model": bare(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"last_epoch": scheduler.last_epoch},
        "progress": {k: v for k, v in asdict(progress).items() if v is not None},
        "also": {name: dict(part.state_dict()) for name, part in (also or {}).items()},
    }
    _require_room(folder, sum(tensor.nbytes for tensor in tensors_in(state)))
    sink = Sink(folder / STATE)
    try:
        torch.save(state, sink)  # pyright: ignore[reportArgumentType]
        return {STATE: sink.close()}
    except RuntimeError:
        if sink.error:
            raise sink.error from None
        raise
    finally:
        sink.drop()


def load(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    also: Mapping[str, Stateful] | None = None,
) -> Progress:
    """Fill model, optimizer and scheduler from a checkpoint; they stay as they were if it is bad.

    Raises:
        DataError: the folder is damaged, or not of this model and optimizer.
    """
    verify(folder)
    try:
        state: dict[str, Any] = unpickle(folder / STATE)
        progress = _progress(state["progress"])
        last_step = int(state["scheduler"]["last_epoch"])
        extras = {name: state["also"][name] for name in also or {}}
        _require_same(state["model"], bare(model).state_dict())
        optimizer.load_state_dict(state["optimizer"])  # looks before it changes anything
    except Exception as error:  # whoever can write the folder can write a manifest to match
        raise damaged(folder, f"{STATE} does not fit ({reason(error)})") from error
    bare(model).load_state_dict(state["model"])
    scheduler.last_epoch = last_step
    for name, part in (also or {}).items():
        part.load_state_dict(extras[name])
    return progress


def bare(model: nn.Module) -> nn.Module:
    """The model itself, without what DDP (where there are several workers) and compiling wrap."""
    for wrapper in ("module", "_orig_mod"):
        model = getattr(model, wrapper, model)
    return model


def _progress(state: Mapping[str, Any]) -> Progress:
    begun = {"begun": Begun(**state["begun"])} if "begun" in state else {}
    return Progress(**{**state, **begun})


def _require_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    differing = sorted(found.keys() ^ wanted.keys()) or [
        name for name, tensor in wanted.items() if found[name].shape != tensor.shape
    ]
    if differing:
        raise ValueError(f"it is of another net: {shortened(differing)}")


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < ROOM * size:
        raise OSError(
            errno.ENOSPC,
            f"{free / 2**20:,.0f} MiB are free, {ROOM} checkpoints of {size / 2**20:,.0f} MiB "
            "must fit",
        )
