"""Archives as they are downloaded (zip, tar, tar.gz), unpacked once and without harm."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hrnet_ray.data.annotations import ensure_dir, require_file
from hrnet_ray.data.archives.members import MemberOpener, iter_safe_members, read_member_chunks
from hrnet_ray.data.archives.safety import ExtractionLimits
from hrnet_ray.errors import DataError

__all__ = ["ExtractionLimits", "extract_archive"]

MARKER_NAME = ".extracted.json"

ProgressCallback = Callable[[int, int], None]


def extract_archive(
    archive: Path,
    into: Path,
    *,
    limits: ExtractionLimits | None = None,
    progress: ProgressCallback | None = None,
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
    require_file(archive, "--archive")
    into = into.resolve()
    try:
        if not _is_already_extracted(archive, into):
            _extract_to_new_dir(archive, into, limits or ExtractionLimits(), progress)
        return _list_files(into)
    except OSError as error:
        raise DataError(
            "an archive that cannot be unpacked here",
            f"{archive} into {into}: {error.strerror or error}",
            "give a folder that can be written, on a disk with enough room",
        ) from error


def _extract_to_new_dir(archive: Path, into: Path, limits: ExtractionLimits, progress: ProgressCallback | None) -> None:
    files, total = _scan_members(archive, limits)
    ensure_dir(into.parent, "the folder of")
    _check_disk_space(into.parent, total)
    fresh = into.with_name(f".{into.name}.extracting")
    try:
        _remove_dir(fresh)
        fresh.mkdir()
        _write_members(archive, fresh, limits, lambda done: progress and progress(done, files))
        about = {**_get_archive_identity(archive), "files": len(_list_files(fresh))}
        (fresh / MARKER_NAME).write_text(json.dumps(about, indent=2))
        fresh.rename(into)
    finally:
        with suppress(OSError):
            _remove_dir(fresh)


def _scan_members(archive: Path, limits: ExtractionLimits) -> tuple[int, int]:
    """Check every member; return the number of files and their bytes."""
    files = total = 0
    for _, member, _ in iter_safe_members(archive, limits):
        files += member.kind == "file"
        total += member.size_bytes
    return files, total


def _write_members(archive: Path, folder: Path, limits: ExtractionLimits, progress: Callable[[int], Any]) -> None:
    done = 0
    for parts, member, opened in iter_safe_members(archive, limits):  # again: the file may have changed
        path = folder.joinpath(*parts)
        if member.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        _copy_member(opened, path, member.size_bytes, f"{archive}: {member.name!a}")
        done += 1
        progress(done)


def _copy_member(open_member: MemberOpener, path: Path, expected_bytes: int, where: str) -> None:
    written = 0
    with path.open("xb") as file:  # x: never through what is there
        for chunk in read_member_chunks(open_member, where):
            written += file.write(chunk)
    if written != expected_bytes:
        raise DataError(
            "an archive of which a member is shorter than promised",
            f"{where}: {written:,} of {expected_bytes:,} bytes",
            "download it again",
        )


def _is_already_extracted(archive: Path, into: Path) -> bool:
    """Whether `into` was unpacked from this very archive.

    Raises:
        DataError: it holds something else, or files were removed since.
    """
    if not into.exists() or (into.is_dir() and not any(into.iterdir())):
        return False
    known = _read_marker(into / MARKER_NAME)
    if not _is_same_archive(known, archive):
        raise DataError(
            "a folder that holds something else",
            f"{into} was not unpacked from {archive}",
            "give another folder, or remove this one",
        )
    if len(_list_files(into)) < known["files"]:
        raise DataError(
            "an unpacked archive of which files are missing",
            f"{into}: {len(_list_files(into)):,} of {known['files']:,} are there",
            "remove the folder; it is then unpacked again",
        )
    return True


def _read_marker(path: Path) -> dict[str, Any]:
    try:
        marker = json.loads(path.read_bytes())
        return marker if isinstance(marker["files"], int) else {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _is_same_archive(marker: dict[str, Any], archive: Path) -> bool:
    about = archive.stat()
    if not marker or marker.get("bytes") != about.st_size:
        return False
    # Reading 13 GB to be sure takes half a minute; an unchanged time of writing will do.
    return marker.get("time_ns") == about.st_mtime_ns or marker.get("sha256") == _hash_file(archive)


def _get_archive_identity(archive: Path) -> dict[str, Any]:
    about = archive.stat()
    return {
        "archive": archive.name,
        "bytes": about.st_size,
        "time_ns": about.st_mtime_ns,
        "sha256": _hash_file(archive),
    }


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _list_files(folder: Path) -> list[Path]:
    found = [Path(at) / name for at, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path != folder / MARKER_NAME)


def _check_disk_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise DataError(
            "an archive that does not fit on the disk",
            f"{folder}: {needed_bytes / 1e9:,.1f} GB to write, {free / 1e9:,.1f} GB free",
            "make room, or give a folder on another disk",
        )


def _remove_dir(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
