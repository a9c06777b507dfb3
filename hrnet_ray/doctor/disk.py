"""Checks of run storage, the temporary folder, and leftovers of earlier Ray sessions."""

import os
import shlex
import shutil
import tempfile
from pathlib import Path

import psutil

from hrnet_ray.distributed.cluster.session_dir import PRIVATE_RAY_TMPDIRS
from hrnet_ray.doctor.result import CheckResult

MIN_DISK_GB = 5
"""Free GB that a run needs."""
MAX_DISK_USED_FRACTION = 0.95
"""Used fraction of a disk above which Ray creates no objects."""
MAX_SESSION_LEFTOVER_GB = 1.0
"""GB of ended Ray sessions above which the check warns."""
BYTES_PER_GB = 1e9


def check_storage(folder: Path) -> CheckResult:
    """Check write permission and free space of the run storage, without creating it."""
    place = find_nearest_existing_dir(folder)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        quoted = shlex.quote(str(place))
        fix = f'sudo chown "$USER" {quoted} && chmod u+rwx {quoted}'
        if not place.is_dir():
            fix = f"mv {quoted} {shlex.quote(f'{place}.aside')}"
        return CheckResult("wrong", f"{place}: {error.strerror}", fix)
    return check_disk_space(place)


def check_disk_space(folder: Path) -> CheckResult:
    """Check the free space for checkpoints or for Ray sessions."""
    place = find_nearest_existing_dir(folder)
    use = shutil.disk_usage(place)
    detail = f"{use.free / BYTES_PER_GB:.1f} of {use.total / BYTES_PER_GB:.1f} GB free at {place}"
    fix = f"du -xh {shlex.quote(str(place))} | sort -h | tail  # then delete what you no longer need"
    if use.free < (1 - MAX_DISK_USED_FRACTION) * use.total:
        return CheckResult("wrong", f"{detail}: Ray stops at {MAX_DISK_USED_FRACTION:.0%} full", fix)
    if use.free / BYTES_PER_GB < MIN_DISK_GB:
        return CheckResult("careful", f"{detail}: a run needs {MIN_DISK_GB}", fix)
    return CheckResult("ok", detail)


def find_nearest_existing_dir(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def get_ray_tmpdir() -> Path:
    """Return the folder in which `ray start` creates the folder `ray` with its sessions."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def check_stale_sessions(*folders: Path, max_gb: float = MAX_SESSION_LEFTOVER_GB) -> CheckResult:
    """Check the disk usage of Ray sessions without a running process."""
    folders = folders or (get_ray_tmpdir() / "ray", *PRIVATE_RAY_TMPDIRS.glob("*/ray"))
    existing = [folder for folder in folders if folder.is_dir()]
    if not existing:
        return CheckResult("ok", f"no {folders[0]}")
    sizes = {path: _measure_disk_usage(path) for folder in existing for path in _find_ended_sessions(folder)}
    total = sum(sizes.values())
    where = " and ".join(sorted({str(_get_display_dir(folder)) for folder in existing}))
    detail = f"{len(sizes)} ended Ray sessions left {total / BYTES_PER_GB:.2f} GB in {where}"
    if total <= max_gb * BYTES_PER_GB:
        return CheckResult("ok", detail)
    largest = []
    for path in sorted(sizes, key=lambda path: -sizes[path]):
        if total <= max_gb * BYTES_PER_GB / 2:
            break
        largest.append(shlex.quote(str(path)))
        total -= sizes[path]
    return CheckResult("careful", detail, f"rm -r {' '.join(largest)}")


def _get_display_dir(folder: Path) -> Path:
    """Return the folder to print: the common parent for private session folders."""
    return PRIVATE_RAY_TMPDIRS if PRIVATE_RAY_TMPDIRS in folder.parents else folder


def _find_ended_sessions(folder: Path) -> list[Path]:
    """Find sessions that no process names on its command line, as all processes of a session do."""
    command_lines = "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    sessions = [path for path in folder.glob("session_2*") if path.is_dir() and not path.is_symlink()]
    return sorted(path for path in sessions if path.name not in command_lines)


def _measure_disk_usage(folder: Path) -> int:
    """Sum the disk blocks of all files below, in bytes; sockets and sparse files take none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:  # deleted in the meantime
                continue
    return total
