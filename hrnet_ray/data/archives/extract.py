"""Archives as they are downloaded (zip, tar, tar.gz), unpacked once and without harm."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hrnet_ray.data.annotations import check_file, make_folder
from hrnet_ray.data.archives.members import Opened, checked, chunks
from hrnet_ray.data.archives.safety import Limits
from hrnet_ray.errors import DataError

__all__ = ["Limits", "extract"]

MARKER = ".extracted.json"

Progress = Callable[[int, int], None]


def extract(
    archive: Path, into: Path, *, limits: Limits | None = None, progress: Progress | None = None
) -> list[Path]:
    """Unpack a whole archive into a folder of its own, and list the files.

    Nothing is written before every member was accepted. The files then go to a neighbour of
    `into`, which is renamed when it is complete: an extraction that was interrupted starts over,
    and one that is there already is not repeated. Files get the usual rights and times of new
    files. One archive is to be unpacked by one process at a time.

    Args:
        archive: zip, tar or tar.gz; its content decides, not its name.
        into: not there yet, or empty, or unpacked from the same archive.
        limits: what it may unpack to.
        progress: called with the number of files written, and of all.

    Raises:
        DataError: a member is refused, the archive is damaged, or the folder holds other things.
    """
    check_file(archive, "--archive")
    into = into.resolve()
    try:
        if not _is_there(archive, into):
            _extract(archive, into, limits or Limits(), progress)
        return _files(into)
    except OSError as error:
        raise DataError(
            "an archive that cannot be unpacked here",
            f"{archive} into {into}: {error.strerror or error}",
            "give a folder that can be written, on a disk with enough room",
        ) from error


def _extract(archive: Path, into: Path, limits: Limits, progress: Progress | None) -> None:
    files, total = _look_through(archive, limits)
    make_folder(into.parent, "the folder of")
    _check_space(into.parent, total)
    fresh = into.with_name(f".{into.name}.extracting")
    try:
        _remove(fresh)
        fresh.mkdir()
        _write(archive, fresh, limits, lambda done: progress and progress(done, files))
        about = {**_identity(archive), "files": len(_files(fresh))}
        (fresh / MARKER).write_text(json.dumps(about, indent=2))
        fresh.rename(into)
    finally:
        with suppress(OSError):
            _remove(fresh)


def _look_through(archive: Path, limits: Limits) -> tuple[int, int]:
    """Check every member; return the number of files and their bytes."""
    files = total = 0
    for _, member, _ in checked(archive, limits):
        files += member.kind == "file"
        total += member.size
    return files, total


def _write(archive: Path, folder: Path, limits: Limits, progress: Callable[[int], Any]) -> None:
    done = 0
    for parts, member, opened in checked(archive, limits):  # again: the file may have changed
        path = folder.joinpath(*parts)
        if member.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        _copy(opened, path, member.size, f"{archive}: {member.name!a}")
        done += 1
        progress(done)


def _copy(opened: Opened, path: Path, size: int, where: str) -> None:
    written = 0
    with path.open("xb") as file:  # x: never through what is there
        for chunk in chunks(opened, where):
            written += file.write(chunk)
    if written != size:
        raise DataError(
            "an archive of which a member is shorter than promised",
            f"{where}: {written:,} of {size:,} bytes",
            "download it again",
        )


def _is_there(archive: Path, into: Path) -> bool:
    """Whether `into` was unpacked from this very archive.

    Raises:
        DataError: it holds something else, or files were removed since.
    """
    if not into.exists() or (into.is_dir() and not any(into.iterdir())):
        return False
    known = _marker(into / MARKER)
    if not _same(known, archive):
        raise DataError(
            "a folder that holds something else",
            f"{into} was not unpacked from {archive}",
            "give another folder, or remove this one",
        )
    if len(_files(into)) < known["files"]:
        raise DataError(
            "an unpacked archive of which files are missing",
            f"{into}: {len(_files(into)):,} of {known['files']:,} are there",
            "remove the folder; it is then unpacked again",
        )
    return True


def _marker(path: Path) -> dict[str, Any]:
    try:
        marker = json.loads(path.read_bytes())
        return marker if isinstance(marker["files"], int) else {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _same(known: dict[str, Any], archive: Path) -> bool:
    about = archive.stat()
    if not known or known.get("bytes") != about.st_size:
        return False
    # Reading 13 GB to be sure takes half a minute; an unchanged time of writing will do.
    return known.get("time_ns") == about.st_mtime_ns or known.get("sha256") == _sha256(archive)


def _identity(archive: Path) -> dict[str, Any]:
    about = archive.stat()
    return {
        "archive": archive.name,
        "bytes": about.st_size,
        "time_ns": about.st_mtime_ns,
        "sha256": _sha256(archive),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    found = [Path(at) / name for at, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path != folder / MARKER)


def _check_space(folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder).free
    if total > free:
        raise DataError(
            "an archive that does not fit on the disk",
            f"{folder}: {total / 1e9:,.1f} GB to write, {free / 1e9:,.1f} GB free",
            "make room, or give a folder on another disk",
        )


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
