"""All that a run needs to go on after its epoch: one folder, vouched for by its manifest.

state.pt        tensors and plain numbers only, so it loads with weights_only=True
MANIFEST.json   written last: sizes and sha256. A folder without it was never finished
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hrnet_ray.errors import DataError

STATE, MANIFEST = "state.pt", "MANIFEST.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    epoch: int
    """The last finished one, counted from 0."""
    best: float = float("-inf")
    best_epoch: int = -1


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    progress: Progress,
) -> None:
    """Write a checkpoint into an existing folder."""
    state = {
        "model": bare(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"last_epoch": scheduler.last_epoch},
        "progress": vars(progress),
    }
    path = folder / STATE
    torch.save(state, path)
    entry = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = {"format": 1, "epoch": progress.epoch, "files": {STATE: entry}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def load(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> Progress:
    """Fill model, optimizer and scheduler from a checkpoint.

    Raises:
        DataError: the folder is not what `save` wrote.
    """
    verify(folder)
    state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    bare(model).load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.last_epoch = state["scheduler"]["last_epoch"]
    return Progress(**state["progress"])


def verify(folder: Path) -> None:
    """Compare a checkpoint with its manifest.

    Raises:
        DataError: it is unfinished or damaged.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        whole = _sha256(folder / STATE) == files[STATE]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise DataError(
            "a checkpoint that is unfinished or damaged",
            str(folder),
            "remove this folder and give the same command again: the run goes on before it",
        )


def bare(model: nn.Module) -> nn.Module:
    """The model itself; DDP wraps it only where there are several workers."""
    return getattr(model, "module", model)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
