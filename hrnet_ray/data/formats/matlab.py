"""MATLAB files of version 5 (`save -v6`, `-v7`), read by scipy in a process of its own.

scipy trusts the structure of a file: a hostile one takes gigabytes (an empty text of 2^31 letters), or crashes the
process (cells within cells, 20,000 deep). So `matlab_child.py` calls it, with limits of memory and time.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hrnet_ray.data.annotations import require_file
from hrnet_ray.errors import DataError

_CHILD_SCRIPT = Path(__file__).with_name("matlab_child.py")

MAX_MEMORY_BYTES = 2 * 10**9
"""Address space of the child; only Linux enforces it. A generated file of MPII's size took 0.85 GB."""
MAX_JSON_BYTES = 100 * 10**6
"""What the child may answer, because it takes up to 16 times as much here."""
MAX_CPU_S = 300
"""CPU time of the child. A generated file of MPII's size took 14 s, reading it here included."""
MAX_WALL_S = 1200
"""The process may wait for a busy processor or disk."""


def load_mat_safe(path: Path, variable_names: Sequence[str], *, flag: str, squeeze: bool = False) -> dict[str, Any]:
    """Read variables as plain values: numbers, text, lists (of arrays) and dicts (of structs).

    Args:
        path: the file.
        variable_names: all must be there, each once.
        flag: the option that gave the file, for errors.
        squeeze: leave out dimensions of one element, so that an array of one struct is that struct.

    Raises:
        DataError: a variable is missing, or the file is damaged, takes more than the limits, is of another version, or
            has objects in it.
    """
    require_file(path, flag)
    _check_version(path)
    request = {
        "path": str(path),
        "variable_names": list(variable_names),
        "squeeze": squeeze,
        "max_bytes": MAX_MEMORY_BYTES,
        "max_json_bytes": MAX_JSON_BYTES,
        "max_cpu_s": MAX_CPU_S,
    }
    try:
        # -P: modules beside the script must not shadow those that it imports.
        command = [sys.executable, "-P", str(_CHILD_SCRIPT), json.dumps(request)]
        env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each thread would take address space
        child = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=env, timeout=MAX_WALL_S)
        if child.returncode:
            raise ValueError(_describe_failure(child))
        return json.loads(child.stdout)
    except (OSError, ValueError, RecursionError, subprocess.TimeoutExpired) as error:
        raise _make_unreadable_error(path, str(error)) from error


def _describe_failure(child: subprocess.CompletedProcess[bytes]) -> str:
    if child.returncode == -signal.SIGXCPU:
        return f"it takes more than {MAX_CPU_S} s"
    if child.returncode < 0:
        return f"scipy is ended by {signal.Signals(-child.returncode).name}"
    lines = child.stderr.decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "no reason given")


def _check_version(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(520)
    if start.startswith(b"MATLAB 7.3") or b"\x89HDF\r\n\x1a\n" in (start[:8], start[512:520]):
        raise DataError(
            "a MATLAB file of version 7.3, which is HDF5",
            str(path),
            "save it as version 7: in MATLAB load it, then save('name.mat', ..., '-v7')",
        )
    if start[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise _make_unreadable_error(path, "it is no MATLAB file of version 5")


def _make_unreadable_error(path: Path, reason: str) -> DataError:
    return DataError(
        "a MATLAB file that cannot be read",
        f"{path}: {reason}",
        "download it again, or save it again in MATLAB: save(..., '-v7')",
    )
