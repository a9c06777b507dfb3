"""Weight files that run a command when they are unpickled without checks, in all known forms."""

import collections
import io
import os
import pickle
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Maker = Callable[[Path, Path], None]
"""Writes a file (first path) that creates a marker file (second path) when it is unpickled."""


class Trap:
    """An object that calls `function(*args)` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.call


def shell(marker: Path) -> Trap:
    return Trap(os.system, f"touch '{marker}'")


def python(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


def weights() -> dict[str, Any]:
    return {"conv1.weight": torch.zeros(2, 2), "bn1.weight": torch.ones(2)}


def _saved(content: Callable[[Path], Any], **how: Any) -> Maker:
    return lambda path, marker: torch.save(content(marker), path, **how)


def _raw(protocol: int) -> Maker:
    return lambda path, marker: path.write_bytes(pickle.dumps(shell(marker), protocol)) and None


def _legacy_tar(path: Path, marker: Path) -> None:
    """Write the tar format of torch before version 0.1.10."""
    with tarfile.open(path, "w:") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(shell(marker), 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def _torchscript(path: Path, marker: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    with path.open("ab") as file:
        file.write(pickle.dumps(shell(marker)))


def _objects_in_numpy(marker: Path) -> Any:
    return weights() | {"perf": np.array([shell(marker)], dtype=object)}


def _named_by_hand(path: Path, marker: Path) -> None:
    """Write a pickle by hand that names `os.system`."""
    path.write_bytes(f"cposix\nsystem\n(Vtouch '{marker}'\ntR.".encode())


def _behind_torchs_own_function(marker: Path) -> Any:
    """Return weights with an allowed function of torch that calls its argument."""
    rebuild = torch._tensor._rebuild_from_type_v2
    args = (f"touch '{marker}'",)
    return weights() | {"x": Trap(rebuild, os.system, torch.Tensor, args, {})}


PAYLOADS: dict[str, Maker] = {
    "os.system": _saved(shell),
    "builtins.eval in the weights": _saved(lambda s: weights() | {"x": Trap(eval, python(s))}),
    "builtins.exec, nested": _saved(
        lambda s: {"state_dict": weights(), "meta": {"deep": [{"er": Trap(exec, python(s))}]}}
    ),
    "in the optimizer": _saved(
        lambda s: {
            "model": weights(),
            "optimizer": {"state": {0: {"step": shell(s)}}, "param_groups": []},
        }
    ),
    "subprocess, before zip": _saved(
        lambda s: weights() | {"x": Trap(subprocess.check_call, ["touch", str(s)])},
        _use_new_zipfile_serialization=False,
    ),
    "legacy tar": _legacy_tar,
    "raw pickle, protocol 0": _raw(0),
    "raw pickle, protocol 4": _raw(4),
    "torchscript": _torchscript,
    "numpy array of objects": _saved(_objects_in_numpy),
    "defaultdict": _saved(lambda s: collections.OrderedDict(a=collections.defaultdict(list, {"b": shell(s)}))),
    "named by hand": _named_by_hand,
    "behind torch's own function": _saved(_behind_torchs_own_function),
    "as an attribute of a tensor": _saved(
        lambda s: weights() | {"x": Trap(nn.Parameter, torch.ones(1), state={"a": shell(s)})}
    ),
}
HARMLESS = {"torchscript"}
"""Files that run no code even without checks: torch.load passes them to a loader without pickle."""
