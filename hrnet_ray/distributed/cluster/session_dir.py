"""Where a Ray that a command (or a test) starts for itself keeps its sockets and logs."""

import os
from contextlib import suppress
from pathlib import Path

PRIVATE_RAY_TMPDIRS = Path(f"/tmp/hrnet_ray-{os.getuid()}")
"""A folder for each; short, because a socket's path may have 107 bytes."""
ADDRESS_FILE = "ray/ray_current_cluster"
"""Where Ray looks for the cluster of a folder; only `ray start` leaves a note there."""


def use_private_ray_tmpdir() -> None:
    """Give the Ray that is about to start a folder of its own, unless somebody has chosen one."""
    folder = PRIVATE_RAY_TMPDIRS / str(os.getpid())
    with suppress(OSError):
        PRIVATE_RAY_TMPDIRS.mkdir(mode=0o700, exist_ok=True)
        if PRIVATE_RAY_TMPDIRS.stat(follow_symlinks=False).st_uid == os.getuid():
            folder.mkdir(exist_ok=True)
            os.environ.setdefault("RAY_TMPDIR", str(folder))
            _write_address(folder, "")  # of a process that had this number before


def write_address_file(address: str) -> None:
    """Leave the address of the Ray that has started in its folder.

    Ray Train's cleaner asks whether a run is still there, and looks for a Ray to ask: with several
    on a machine it gives up, or asks a wrong one; then CPUs of trials that were stopped stay taken.
    """
    folder = PRIVATE_RAY_TMPDIRS / str(os.getpid())
    if os.environ.get("RAY_TMPDIR") == str(folder):
        _write_address(folder, address)


def _write_address(folder: Path, address: str) -> None:
    path = folder / ADDRESS_FILE
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if address:
            path.write_text(address, encoding="utf-8")
