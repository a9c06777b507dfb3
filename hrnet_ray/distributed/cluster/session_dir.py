"""Private session folders of the Ray instances that commands and tests start."""

import os
from contextlib import suppress
from pathlib import Path

PRIVATE_RAY_TMPDIRS = Path(f"/tmp/hrnet_ray-{os.getuid()}")
"""Parent of the session folders; short, because a socket path may have at most 107 bytes."""
ADDRESS_FILE = "ray/ray_current_cluster"
"""File with the address of the cluster of a session folder, which only `ray start` writes."""


def use_private_ray_tmpdir() -> None:
    """Set RAY_TMPDIR to a folder of this process, unless it is set already."""
    folder = PRIVATE_RAY_TMPDIRS / str(os.getpid())
    with suppress(OSError):
        PRIVATE_RAY_TMPDIRS.mkdir(mode=0o700, exist_ok=True)
        if PRIVATE_RAY_TMPDIRS.stat(follow_symlinks=False).st_uid == os.getuid():
            folder.mkdir(exist_ok=True)
            os.environ.setdefault("RAY_TMPDIR", str(folder))
            _write_address(folder, "")  # of an earlier process with this id


def write_address_file(address: str) -> None:
    """Write the address of the started Ray instance to its session folder.

    The cleanup of Ray Train looks for the instance of a run. With several instances on a machine it
    gives up or asks a wrong one, and the CPUs of stopped trials stay reserved.
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
