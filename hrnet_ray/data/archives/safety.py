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

_NAME_BYTES = 255  # the longest name of a file on the usual file systems
_DRIVE = re.compile(r"[A-Za-z]:")
_TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_PACK_AGAIN = "do not use this archive; download it again from its authors, or pack it again"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may unpack to."""

    files: int = 2_000_000
    total_bytes: int = 100 * 10**9
    ratio: float = 200.0
    """Unpacked bytes for one byte of the archive (of a zip: for one of any member as well) ..."""
    ratio_from_bytes: int = 100 * 10**6
    """... where more than this is unpacked: a small JSON file may well shrink 500 times."""


class Member(NamedTuple):
    """One entry, whatever the kind of archive."""

    name: str
    size: int
    kind: str
    """`file`, `folder`, or what it is instead."""
    mode: int
    packed: int | None
    """Its size in a zip; a tar is packed as a whole."""


@dataclass
class Rules:
    """The rules, and what they remember from one member to the next."""

    archive: Path
    limits: Limits
    packed: int
    """Its bytes."""
    at: str = "its start"
    count: int = 0
    total: int = 0
    seen: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """How each path was written, and whether it is a file; keys are the same for any case."""

    def path(self, member: Member) -> tuple[str, ...]:
        """The parts of a member's path, none for the folder of all itself."""
        self.at = ascii(member.name)
        if why := _bad_name(member.name) or _bad_kind(member):
            self.refuse(why)
        self._count(member)
        parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
        if not parts and member.kind == "file":
            self.refuse("a file without a name")
        self._remember(parts, is_file=member.kind == "file")
        return parts

    def refuse(self, why: str) -> NoReturn:
        raise DataError(
            f"an archive that is refused: {why}", f"{self.archive}: {self.at}", _PACK_AGAIN
        )

    def unpacked(self, size: int, packed: int) -> None:
        """Refuse a size that no honest archive of so many bytes has."""
        limits = self.limits
        if size > limits.total_bytes:
            self.refuse(f"it unpacks to more than {limits.total_bytes / 1e9:,.1f} GB")
        if size > limits.ratio_from_bytes and size > limits.ratio * packed:
            self.refuse(
                f"it unpacks to more than {limits.ratio:g} times its size ({packed:,} bytes to "
                f"{size:,})"
            )

    def _count(self, member: Member) -> None:
        self.count += 1
        if self.count > self.limits.files:
            self.refuse(f"it has more than {self.limits.files:,} members")
        if member.size < 0:
            self.refuse("a size below zero")
        if member.packed is not None:
            self.unpacked(member.size, member.packed)
        self.total += member.size
        self.unpacked(self.total, self.packed)

    def _remember(self, parts: tuple[str, ...], *, is_file: bool) -> None:
        """Refuse what would be written over on some file system, if not on this one."""
        for end in range(1, len(parts) + 1):
            path, file = "/".join(parts[:end]), is_file and end == len(parts)
            key = unicodedata.normalize("NFC", path).casefold()
            if key not in self.seen:
                self.seen[key] = (path, file)
                continue
            known, known_file = self.seen[key]
            if known != path:
                self.refuse(f"a name that differs from {known!a} by case only")
            if file and known_file:
                self.refuse("the same name twice")
            if file or known_file:
                self.refuse(f"{path!a} is a file and a folder")


def _bad_name(name: str) -> str:
    if name.startswith("/"):
        return "a name from the root of the disk"
    parts = name.split("/")
    if any(_DRIVE.match(part) for part in parts):
        return "a name with a drive letter"
    if "\\" in name:
        return "a name with a backslash, which is a folder on Windows"
    if ".." in parts:
        return "a name that leads out of its folder"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "a name with characters that cannot be shown"
    if not _TURNING.isdisjoint(name):
        return "a name that changes the direction of writing"
    if any(len(part.encode()) > _NAME_BYTES for part in parts):
        return f"a name longer than {_NAME_BYTES} bytes"
    return ""


def _bad_kind(member: Member) -> str:
    if member.kind not in ("file", "folder"):
        return member.kind
    if member.kind == "file" and member.mode & (stat.S_ISUID | stat.S_ISGID):
        return "a file that runs with another user's rights (setuid)"
    return ""  # a folder's rights are never applied, and setgid is usual on shared disks
