"""Files that are small and ask for much, byte by byte."""

import struct
import zlib
from collections.abc import Iterator


def with_orientation(jpeg: bytes, value: int = 6) -> bytes:
    """The same JPEG, whose EXIF says that it wants to be shown turned by a quarter."""
    tag = struct.pack(">HHIHH", 0x0112, 3, 1, value, 0)  # orientation, one SHORT
    return with_segment(jpeg, 0xE1, b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + tag + bytes(4))


def with_segment(jpeg: bytes, marker: int, payload: bytes, *, at: int = 2) -> bytes:
    segment = bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload
    return jpeg[:at] + segment + jpeg[at:]


def claiming(jpeg: bytes, *, size_hw: tuple[int, int]) -> bytes:
    """The same JPEG, whose header tells of another size."""
    at = next(at for marker, at in segments(jpeg) if marker in (0xC0, 0xC2))
    return jpeg[: at + 5] + struct.pack(">HH", *size_hw) + jpeg[at + 9 :]


def with_scans(progressive: bytes, count: int) -> bytes:
    """A progressive JPEG of so many scans: its last one comes again and again."""
    found = list(segments(progressive))
    scans = [n for n, (marker, _) in enumerate(found) if marker == 0xDA]
    first = scans[-1]
    while found[first - 1][0] == 0xC4:  # the table that the scan is written with
        first -= 1
    again = progressive[found[first][1] : -2]
    return progressive[:-2] + again * (count - len(scans)) + progressive[-2:]


def segments(jpeg: bytes) -> Iterator[tuple[int, int]]:
    """Markers of a sound JPEG, and where they stand."""
    at = 2
    while at < len(jpeg):
        if jpeg[at] != 0xFF or jpeg[at + 1] == 0 or 0xD0 <= jpeg[at + 1] <= 0xD7:
            at += 1  # data of a scan
            continue
        yield jpeg[at + 1], at
        at += 2 + (struct.unpack_from(">H", jpeg, at + 2)[0] if jpeg[at + 1] != 0xD9 else 0)


def black_png(side: int) -> bytes:
    """A PNG of one bit a pixel: kilobytes that take hundreds of megabytes to decode."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    line, packer = bytes(1 + (side + 7) // 8), zlib.compressobj(9)
    lines = b"".join([*(packer.compress(line) for _ in range(side)), packer.flush()])
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
