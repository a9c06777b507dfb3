"""Files of tensors from anywhere: read without running what they hold.

A pickle is only ever read with `weights_only=True`. These functions raise the errors that a damaged file
makes its reader raise (IndexError, struct.error, ...); the caller formats them.
"""

import json
import zipfile
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor


def load_pickle_weights_only(path: Path) -> Any:
    """Read a .pth file; let in, by name, the numpy numbers that old files keep their score in."""
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            _require_uncompressed(path)
    rebuild = np.float64(0).__reduce__()[0]  # its module moved in numpy 2
    numbers = [type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")]
    allowed = [np.dtype, rebuild, (rebuild, "numpy.core.multiarray.scalar"), *numbers]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, if it is the one that a config of ours beside it names."""
    wanted = _read_expected_sha256(path.with_name("config.json"))
    with path.open("rb") as file:
        if wanted and file_digest(file, "sha256").hexdigest() != wanted:
            raise ValueError("it is not the file that the config.json beside it was written for")
    return load_file(path)


def format_load_error(error: Exception) -> str:
    """Format in one line what is wrong, without torch's advice to load the file unsafely."""
    text = str(error).split("WeightsUnpickler error:")[-1].split("Please use")[0].strip()
    if "weights_only" in text:
        text = "it wants to run code, or is no file of torch's"
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


def _require_uncompressed(path: Path) -> None:
    """Refuse an archive that would grow when it is unpacked; torch writes none."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
        sum(entry.file_size for entry in entries) > path.stat().st_size
    ):
        raise ValueError("an archive that is larger inside than outside")


def _read_expected_sha256(config_path: Path) -> str | None:
    """The sha256 that a `config.json` of ours names; other people's name none."""
    try:
        content = json.loads(config_path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    digest = content.get("sha256") if isinstance(content, dict) else None
    return digest if isinstance(digest, str) else None
