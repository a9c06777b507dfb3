"""C extensions, compiled for the local processor on first use (about one second).

The library is not kept on disk, so it cannot become stale or be replaced.
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
    """The extension cannot be built on this machine; the message states the reason."""


@functools.cache
def build_extension(source: Path) -> ctypes.CDLL:
    """Compile a C file and load it. The environment variable `CC` names the compiler.

    Raises:
        ExtensionUnavailable: there is no compiler, or it fails.
    """
    if sys.platform != "linux":
        raise ExtensionUnavailable(f"not supported on {sys.platform}")
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        raise ExtensionUnavailable("no C compiler")
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as folder:
        library = Path(folder) / "routine.so"
        command = [compiler, *COMPILER_FLAGS, str(source), "-o", str(library), "-lm"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
            if result.returncode:
                raise ExtensionUnavailable((result.stderr.strip().splitlines() or [compiler])[0])
            return ctypes.CDLL(str(library))  # stays loaded after its file is deleted
        except (OSError, subprocess.SubprocessError) as error:
            raise ExtensionUnavailable(f"{type(error).__name__}: {error}") from error
