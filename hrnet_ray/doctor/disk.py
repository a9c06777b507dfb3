"""Where files go: run storage, the temporary folder, and what earlier Ray sessions left in it."""

import os
import shlex
import shutil
import tempfile
from pathlib import Path

import psutil

from hrnet_ray.distributed.cluster.session_dir import OWN_RAYS
from hrnet_ray.doctor.result import Finding

LEAST_DISK_GB = 5
FULLEST = 0.95  # Ray stops making objects on a disk that is fuller
MOST_LEFT_GB = 1.0
GB = 1e9


def storage(folder: Path) -> Finding:
    """Whether runs can be written there, and have room; a missing folder is not made."""
    place = existing(folder)
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
        return Finding("wrong", f"{place}: {error.strerror}", fix)
    return disk(place)


def disk(folder: Path) -> Finding:
    """Room where checkpoints or Ray's session go."""
    place = existing(folder)
    use = shutil.disk_usage(place)
    detail = f"{use.free / GB:.1f} of {use.total / GB:.1f} GB free at {place}"
    fix = f"du -xh {shlex.quote(str(place))} | sort -h | tail  # and delete what may go"
    if use.free < (1 - FULLEST) * use.total:
        return Finding("wrong", f"{detail}: Ray stops at {FULLEST:.0%} full", fix)
    if use.free / GB < LEAST_DISK_GB:
        return Finding("careful", f"{detail}: a run wants {LEAST_DISK_GB}", fix)
    return Finding("ok", detail)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def temporary() -> Path:
    """Where `ray start` puts its sessions' folder, `ray`."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def old_sessions(*folders: Path, most_gb: float = MOST_LEFT_GB) -> Finding:
    """What Ray sessions that no process of this machine belongs to have left behind."""
    folders = folders or (temporary() / "ray", *OWN_RAYS.glob("*/ray"))
    there = [folder for folder in folders if folder.is_dir()]
    if not there:
        return Finding("ok", f"no {folders[0]}")
    sizes = {path: _bytes(path) for folder in there for path in _ended(folder)}
    total = sum(sizes.values())
    where = " and ".join(sorted({str(_home_of(folder)) for folder in there}))
    detail = f"{len(sizes)} ended Ray sessions left {total / GB:.2f} GB in {where}"
    if total <= most_gb * GB:
        return Finding("ok", detail)
    largest = []
    for path in sorted(sizes, key=lambda path: -sizes[path]):  # no more than it takes
        if total <= most_gb * GB / 2:
            break
        largest.append(shlex.quote(str(path)))
        total -= sizes[path]
    return Finding("careful", detail, f"rm -r {' '.join(largest)}")


def _home_of(folder: Path) -> Path:
    """The folder to name: many Rays of ours lie in one."""
    return OWN_RAYS if OWN_RAYS in folder.parents else folder


def _ended(folder: Path) -> list[Path]:
    """Sessions that no process names on its command line, as all of a running one's do."""
    named = "\n".join(
        " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    )
    found = [path for path in folder.glob("session_2*") if path.is_dir() and not path.is_symlink()]
    return sorted(path for path in found if path.name not in named)


def _bytes(folder: Path) -> int:
    """Bytes of all files below, as the disk counts them: sockets and sparse files take none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:  # gone meanwhile
                continue
    return total
