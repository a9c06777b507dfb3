"""Read tensor files from untrusted sources without running their code.

Pickles are read with `weights_only=True` only. A damaged file may raise any error of its reader
(IndexError, struct.error, ...); the caller formats it.
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
    """Read a .pth file. Besides tensors, only numpy scalars are allowed: old files store scores so."""
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            _require_uncompressed(path)
    rebuild = np.float64(0).__reduce__()[0]  # its module was renamed in numpy 2
    numbers = [type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")]
    allowed = [np.dtype, rebuild, (rebuild, "numpy.core.multiarray.scalar"), *numbers]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, and compare it with the sha256 of a config.json beside it."""
    expected_sha256 = _read_expected_sha256(path.with_name("config.json"))
    with path.open("rb") as file:
        if expected_sha256 and file_digest(file, "sha256").hexdigest() != expected_sha256:
            raise ValueError("its sha256 differs from that in the config.json beside it")
    return load_file(path)


def format_load_error(error: Exception) -> str:
    """Format a load error in one line, without torch's advice to load the file unsafely."""
    text = str(error).split("WeightsUnpickler error:")[-1].split("Please use")[0].strip()
    if "weights_only" in text:
        text = "it runs code when loaded, or is not a torch file"
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


def _require_uncompressed(path: Path) -> None:
    """Refuse an archive that expands when unpacked (a zip bomb); torch does not compress."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
        sum(entry.file_size for entry in entries) > path.stat().st_size
    ):
        raise ValueError("the archive has compressed or overlapping entries")


def _read_expected_sha256(config_path: Path) -> str | None:
    """Return the sha256 in a `config.json` of this project, or None for other files."""
    try:
        content = json.loads(config_path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    digest = content.get("sha256") if isinstance(content, dict) else None
    return digest if isinstance(digest, str) else None
