"""What an archive may hold. One member that could do harm is named, and all is refused.

Archives come from the internet: a member may lead out of its folder, be a link or a device, hide
its name, or unpack to more than a disk holds. No known data set has any of these, so the whole
archive is refused rather than one member left out.
"""

import re
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

from hrnet_ray.errors import DataError

_MAX_NAME_BYTES = 255  # the longest name of a file on the usual file systems
_DRIVE_LETTER = re.compile(r"[A-Za-z]:")
_BIDI_CONTROL_CHARS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_REPACK_HINT = "do not use this archive; download it again from its authors, or pack it again"


@dataclass(frozen=True, kw_only=True)
class ExtractionLimits:
    """What an archive may unpack to."""

    max_files: int = 2_000_000
    max_total_bytes: int = 100 * 10**9
    max_compression_ratio: float = 200.0
    """Unpacked bytes for one byte of the archive (of a zip: for one of any member as well) ..."""
    ratio_check_min_bytes: int = 100 * 10**6
    """... where more than this is unpacked: a small JSON file may well shrink 500 times."""


class ArchiveMember(NamedTuple):
    """One entry of an archive, of either kind."""

    name: str
    size_bytes: int
    kind: str
    """`file`, `folder`, or what it is instead."""
    mode: int
    compressed_bytes: int | None
    """Its size in a zip; a tar is packed as a whole."""


@dataclass
class MemberValidator:
    """The rules, and what they remember from one member to the next."""

    archive: Path
    limits: ExtractionLimits
    archive_bytes: int
    """Its bytes."""
    location: str = "its start"
    num_members: int = 0
    total_bytes: int = 0
    seen_paths: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """How each path was written, and whether it is a file; keys are the same for any case."""

    def validate_member(self, member: ArchiveMember) -> tuple[str, ...]:
        """The parts of a member's path, none for the folder of all itself."""
        self.location = ascii(member.name)
        if why := _find_name_problem(member.name) or _find_kind_problem(member):
            self.reject_archive(why)
        self._count_member(member)
        parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
        if not parts and member.kind == "file":
            self.reject_archive("a file without a name")
        self._check_path_conflicts(parts, is_file=member.kind == "file")
        return parts

    def reject_archive(self, reason: str) -> NoReturn:
        raise DataError(
            f"an archive that is refused: {reason}",
            f"{self.archive}: {self.location}",
            _REPACK_HINT,
        )

    def check_unpacked_size(self, unpacked_bytes: int, compressed_bytes: int) -> None:
        """Refuse a size that no honest archive of so many bytes has."""
        limits = self.limits
        if unpacked_bytes > limits.max_total_bytes:
            self.reject_archive(f"it unpacks to more than {limits.max_total_bytes / 1e9:,.1f} GB")
        if (
            unpacked_bytes > limits.ratio_check_min_bytes
            and unpacked_bytes > limits.max_compression_ratio * compressed_bytes
        ):
            self.reject_archive(
                f"it unpacks to more than {limits.max_compression_ratio:g} times its size "
                f"({compressed_bytes:,} bytes to {unpacked_bytes:,})"
            )

    def _count_member(self, member: ArchiveMember) -> None:
        self.num_members += 1
        if self.num_members > self.limits.max_files:
            self.reject_archive(f"it has more than {self.limits.max_files:,} members")
        if member.size_bytes < 0:
            self.reject_archive("a size below zero")
        if member.compressed_bytes is not None:
            self.check_unpacked_size(member.size_bytes, member.compressed_bytes)
        self.total_bytes += member.size_bytes
        self.check_unpacked_size(self.total_bytes, self.archive_bytes)

    def _check_path_conflicts(self, parts: tuple[str, ...], *, is_file: bool) -> None:
        """Refuse what would be written over on some file system, if not on this one."""
        for end in range(1, len(parts) + 1):
            path, file = "/".join(parts[:end]), is_file and end == len(parts)
            key = unicodedata.normalize("NFC", path).casefold()
            if key not in self.seen_paths:
                self.seen_paths[key] = (path, file)
                continue
            known, known_file = self.seen_paths[key]
            if known != path:
                self.reject_archive(f"a name that differs from {known!a} by case only")
            if file and known_file:
                self.reject_archive("the same name twice")
            if file or known_file:
                self.reject_archive(f"{path!a} is a file and a folder")


def _find_name_problem(name: str) -> str:
    if name.startswith("/"):
        return "a name from the root of the disk"
    parts = name.split("/")
    if any(_DRIVE_LETTER.match(part) for part in parts):
        return "a name with a drive letter"
    if "\\" in name:
        return "a name with a backslash, which is a folder on Windows"
    if ".." in parts:
        return "a name that leads out of its folder"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "a name with characters that cannot be shown"
    if not _BIDI_CONTROL_CHARS.isdisjoint(name):
        return "a name that changes the direction of writing"
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        return f"a name longer than {_MAX_NAME_BYTES} bytes"
    return ""


def _find_kind_problem(member: ArchiveMember) -> str:
    if member.kind not in ("file", "folder"):
        return member.kind
    if member.kind == "file" and member.mode & (stat.S_ISUID | stat.S_ISGID):
        return "a file that runs with another user's rights (setuid)"
    return ""  # a folder's rights are never applied, and setgid is usual on shared disks
