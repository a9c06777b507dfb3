"""The members of a zip, a tar or a tar.gz, one after the other, each checked before it is given."""

import gzip
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hrnet_ray.data.archives.safety import ArchiveMember, ExtractionLimits, MemberValidator
from hrnet_ray.errors import DataError

READ_CHUNK_BYTES = 1 << 20

_ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")  # the second: a zip of nothing
_TAR_BLOCK_BYTES = 512  # a tar is made of these, and ends with two of zeros
_ZIP_HEADER_BYTES, _ZIP_UTF8_FLAG = (
    30,
    1 << 11,
)  # of a member of a zip, before its name; and a flag in it

MemberOpener = Callable[[], Any]
"""Opens a member; zipfile and tarfile give files of different types, both of bytes."""


def iter_safe_members(
    archive: Path, limits: ExtractionLimits
) -> Iterator[tuple[tuple[str, ...], ArchiveMember, MemberOpener]]:
    """Give every file and folder: its path in parts, what it is, and how it is opened.

    Raises:
        DataError: a member that is refused, too much of anything, an archive that is damaged or
            ends too early; the last may come only after all that was before it.
    """
    rules = MemberValidator(archive, limits, archive.stat().st_size)
    try:
        with archive.open("rb") as file:
            members = (
                _iter_zip_members(file, rules) if file.read(4) in _ZIP_SIGNATURES else _iter_tar_members(file, rules)
            )
            for member, opened in members:
                if parts := rules.validate_member(member):
                    yield parts, member, opened
    except DataError:
        raise
    except Exception as error:  # both modules raise a mixture for damaged files
        raise _make_damaged_archive_error(f"{archive}: {rules.location}", error) from error


def read_member_chunks(open_member: MemberOpener, where: str) -> Iterator[bytes]:
    """Give what a member holds.

    Raises:
        DataError: it is damaged.
    """
    try:
        with open_member() as content:
            while chunk := content.read(READ_CHUNK_BYTES):
                yield chunk
    except Exception as error:
        raise _make_damaged_archive_error(where, error) from error


def _make_damaged_archive_error(where: str, error: Exception) -> DataError:
    return DataError(
        "an archive that cannot be read to its end",
        f"{where}: {type(error).__name__}: {error}",
        "download it again; only zip, tar and tar.gz are known",
    )


def _iter_zip_members(file: BinaryIO, validator: MemberValidator) -> Iterator[tuple[ArchiveMember, MemberOpener]]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        _check_zip_overlap(infos, archive.start_dir, validator)
        for info in infos:
            # orig_filename: `filename` ends at a NUL, which would hide the rest.
            member = ArchiveMember(
                name=info.orig_filename,
                size_bytes=info.file_size,
                kind=_get_zip_member_kind(info),
                mode=info.external_attr >> 16,
                compressed_bytes=info.compress_size,
            )
            yield member, lambda info=info: archive.open(info)


def _get_zip_member_kind(info: zipfile.ZipInfo) -> str:
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


def _check_zip_overlap(infos: list[zipfile.ZipInfo], end_offset: int, validator: MemberValidator) -> None:
    """Refuse members that share bytes: that is how 10 MB become 281 TB."""
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        coding = "utf-8" if info.flag_bits & _ZIP_UTF8_FLAG else "cp437"
        name_bytes = len(info.orig_filename.encode(coding, errors="replace"))
        if info.header_offset + _ZIP_HEADER_BYTES + name_bytes + info.compress_size > end_offset:
            validator.location = ascii(info.orig_filename)
            validator.reject_archive("members that overlap")
        end_offset = info.header_offset


def _iter_tar_members(file: BinaryIO, validator: MemberValidator) -> Iterator[tuple[ArchiveMember, MemberOpener]]:
    file.seek(0)
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = _BoundedTarStream(gzip.GzipFile(fileobj=file) if packed else file)
    with tarfile.open(fileobj=stream, mode="r:") as archive:  # pyright: ignore
        while info := archive.next():
            archive.members.clear()  # tarfile remembers them all, and there may be millions
            member = ArchiveMember(
                name=info.name,
                size_bytes=info.size,
                kind=_get_tar_member_kind(info),
                mode=info.mode,
                compressed_bytes=None,
            )
            yield member, lambda info=info: _open_tar_member(archive, info)
        _check_tar_end(stream, validator)


def _get_tar_member_kind(info: tarfile.TarInfo) -> str:
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


def _open_tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Any:
    if second_wall := getattr(tarfile, "data_filter", None):  # not in the first Python 3.11
        second_wall(info, "/nowhere")
    return archive.extractfile(info)


def _check_tar_end(stream: "_BoundedTarStream", validator: MemberValidator) -> None:
    """Refuse a tar that does not end as one: tarfile takes a damaged header for the end."""
    validator.location = "its end"
    if stream.last_read != bytes(_TAR_BLOCK_BYTES):
        raise tarfile.ReadError("it ends too early, or is damaged")
    while chunk := stream.read(READ_CHUNK_BYTES):
        if chunk.count(0) != len(chunk):
            raise tarfile.ReadError("there is more behind its end")
        validator.check_unpacked_size(stream.tell(), validator.archive_bytes)


class _BoundedTarStream:
    """A file that gives little at a time and remembers what it gave last."""

    def __init__(self, file: Any) -> None:
        self._file, self.last_read = file, b""

    def read(self, count: int) -> bytes:
        if not 0 <= count <= READ_CHUNK_BYTES:  # a long name that claims gigabytes
            raise tarfile.ReadError(f"a header of {count:,} bytes")
        self.last_read = self._file.read(count)
        return self.last_read

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()
