"""The members of a zip, a tar or a tar.gz, one after the other, each checked before it is given."""

import gzip
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hrnet_ray.data.archives.safety import Limits, Member, Rules
from hrnet_ray.errors import DataError

CHUNK_BYTES = 1 << 20

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second: a zip of nothing
_BLOCK_BYTES = 512  # a tar is made of these, and ends with two of zeros
_HEADER_BYTES, _UTF8 = 30, 1 << 11  # of a member of a zip, before its name; and a flag in it

Opened = Callable[[], Any]
"""Opens a member; zipfile and tarfile give files of different types, both of bytes."""


def checked(archive: Path, limits: Limits) -> Iterator[tuple[tuple[str, ...], Member, Opened]]:
    """Give every file and folder: its path in parts, what it is, and how it is opened.

    Raises:
        DataError: a member that is refused, too much of anything, an archive that is damaged or
            ends too early; the last may come only after all that was before it.
    """
    rules = Rules(archive, limits, archive.stat().st_size)
    try:
        with archive.open("rb") as file:
            members = _zip(file, rules) if file.read(4) in _ZIP else _tar(file, rules)
            for member, opened in members:
                if parts := rules.path(member):
                    yield parts, member, opened
    except DataError:
        raise
    except Exception as error:  # both modules raise a mixture for damaged files
        raise _damaged(f"{archive}: {rules.at}", error) from error


def chunks(opened: Opened, where: str) -> Iterator[bytes]:
    """Give what a member holds.

    Raises:
        DataError: it is damaged.
    """
    try:
        with opened() as content:
            while chunk := content.read(CHUNK_BYTES):
                yield chunk
    except Exception as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> DataError:
    return DataError(
        "an archive that cannot be read to its end",
        f"{where}: {type(error).__name__}: {error}",
        "download it again; only zip, tar and tar.gz are known",
    )


def _zip(file: BinaryIO, rules: Rules) -> Iterator[tuple[Member, Opened]]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        _check_overlap(infos, archive.start_dir, rules)
        for info in infos:
            # orig_filename: `filename` ends at a NUL, which would hide the rest.
            member = Member(
                name=info.orig_filename,
                size=info.file_size,
                kind=_zip_kind(info),
                mode=info.external_attr >> 16,
                packed=info.compress_size,
            )
            yield member, lambda info=info: archive.open(info)


def _zip_kind(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "a member with a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression {info.compress_type}, which is not known"
    form = stat.S_IFMT(info.external_attr >> 16)
    if form == stat.S_IFLNK:
        return "a symbolic link"
    if form not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a device or a pipe"
    return "folder" if info.is_dir() else "file"


def _check_overlap(infos: list[zipfile.ZipInfo], end: int, rules: Rules) -> None:
    """Refuse members that share bytes: that is how 10 MB become 281 TB."""
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        coding = "utf-8" if info.flag_bits & _UTF8 else "cp437"
        name_bytes = len(info.orig_filename.encode(coding, errors="replace"))
        if info.header_offset + _HEADER_BYTES + name_bytes + info.compress_size > end:
            rules.at = ascii(info.orig_filename)
            rules.refuse("members that overlap")
        end = info.header_offset


def _tar(file: BinaryIO, rules: Rules) -> Iterator[tuple[Member, Opened]]:
    file.seek(0)
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = _Stream(gzip.GzipFile(fileobj=file) if packed else file)
    with tarfile.open(fileobj=stream, mode="r:") as archive:  # pyright: ignore
        while info := archive.next():
            archive.members.clear()  # tarfile remembers them all, and there may be millions
            member = Member(
                name=info.name, size=info.size, kind=_tar_kind(info), mode=info.mode, packed=None
            )
            yield member, lambda info=info: _opened(archive, info)
        _check_end(stream, rules)


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issym():
        return "a symbolic link"
    if info.islnk():
        return "a hard link"
    if info.isdev():
        return "a device or a pipe"
    if info.isdir():
        return "folder"
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse():
        return f"a member of kind {info.type!r}, which is not known"
    return "file"


def _opened(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Any:
    if second_wall := getattr(tarfile, "data_filter", None):  # not in the first Python 3.11
        second_wall(info, "/nowhere")
    return archive.extractfile(info)


def _check_end(stream: "_Stream", rules: Rules) -> None:
    """Refuse a tar that does not end as one: tarfile takes a damaged header for the end."""
    rules.at = "its end"
    if stream.last != bytes(_BLOCK_BYTES):
        raise tarfile.ReadError("it ends too early, or is damaged")
    while chunk := stream.read(CHUNK_BYTES):
        if chunk.count(0) != len(chunk):
            raise tarfile.ReadError("there is more behind its end")
        rules.unpacked(stream.tell(), rules.packed)


class _Stream:
    """A file that gives little at a time and remembers what it gave last."""

    def __init__(self, file: Any) -> None:
        self._file, self.last = file, b""

    def read(self, count: int) -> bytes:
        if not 0 <= count <= CHUNK_BYTES:  # a long name that claims gigabytes
            raise tarfile.ReadError(f"a header of {count:,} bytes")
        self.last = self._file.read(count)
        return self.last

    def seek(self, to: int) -> int:
        return self._file.seek(to)

    def tell(self) -> int:
        return self._file.tell()
