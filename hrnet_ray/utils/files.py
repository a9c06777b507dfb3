"""Whole files: atomic writes, checksums and stamps."""

import hashlib
import os
from pathlib import Path


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Replace a file; a reader sees the old content or the new one, never a part.

    Raises:
        OSError: the disk is full or read-only; the old file stays, and no partial file is left.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a UTF-8 text file; see `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode())


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content as 64 hex digits; the file is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def get_file_stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns; (0, 0) for a file that cannot be found."""
    try:
        stat = path.stat()
    except OSError:
        return (0, 0)
    return stat.st_size, stat.st_mtime_ns
