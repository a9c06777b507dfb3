"""Routines in C, compiled for the processor at hand when they are first asked for: a second.

Nothing is kept on disk, so nothing becomes stale, and no other library can take its place.
"""

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COMPILE_TIMEOUT_S = 60
COMPILER_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")


class ExtensionUnavailable(Exception):
    """The extension cannot be built here; the message states the reason."""


@functools.cache
def build_extension(source: Path) -> ctypes.CDLL:
    """Compile a C file and load it; `CC` names the compiler.

    Raises:
        NoRoutine: no compiler, or none that can.
    """
    if sys.platform != "linux":
        raise ExtensionUnavailable(f"not on {sys.platform}")
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        raise ExtensionUnavailable("no C compiler")
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as folder:
        library = Path(folder) / "routine.so"
        command = [compiler, *COMPILER_FLAGS, str(source), "-o", str(library), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
            if done.returncode:
                raise ExtensionUnavailable((done.stderr.strip().splitlines() or [compiler])[0])
            return ctypes.CDLL(str(library))  # stays when its file goes
        except (OSError, subprocess.SubprocessError) as error:
            raise ExtensionUnavailable(f"{type(error).__name__}: {error}") from error
