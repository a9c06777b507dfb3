"""Read what an image file states before it is decoded, and find reasons not to decode it.

Decoders believe headers: 124 kB can ask for 3 GB, and a JPEG can ask to be read a thousand times.
Everything here reads a few bytes of a file, and looks through all of them only where it must.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

MAX_PIXELS = 2**26
"""Largest number of pixels, 8192 x 8192; OpenCV gets the same limit when it is imported."""
MAX_SCANS = 100
"""A progressive JPEG has about ten. Each, however short, leads over the whole image."""
MAX_SCANNED_PIXELS = 2**30
"""So a large image may have fewer: 16 where it has `MAX_PIXELS`. They take about a second."""

SizeHw = tuple[int, int]


class RejectReason(StrEnum):
    """Why an image was refused, in words that a column of a table can hold."""

    EMPTY = "empty file"
    NOT_AN_IMAGE = "not an image"
    TRUNCATED = "cut off"
    CORRUPT = "damaged"
    TOO_MANY_PIXELS = "too many pixels"
    TOO_MANY_SCANS = "too many scans"


@dataclass(frozen=True)
class RejectedImage:
    """An image that is not decoded: why, and what was found."""

    reason: RejectReason
    detail: str


class _ImageFormat(NamedTuple):
    name: str
    signature: re.Pattern[bytes]
    parse_size_hw: Callable[[bytes], SizeHw]
    """Raises struct.error where the header ends too early; (0, 0) where it makes no sense."""
    find_defect: Callable[[bytes, int], RejectReason | None]
    """What file and pixels show without decoding. Where nothing is found, a decoder may find more."""
    max_pixels_per_byte: float
    """Pixels that a byte can hold, however plain the image is."""


def read_size_hw(data: bytes) -> SizeHw | None:
    """Rows and columns as stored, from the header alone; None for bytes that have none."""
    kind = _detect_format(data)
    try:
        height, width = kind.parse_size_hw(data) if kind else (0, 0)
    except struct.error:
        return None
    return (height, width) if height and width else None


def find_problem(data: bytes) -> RejectedImage | None:
    """Find a reason not to decode these bytes; None where only decoding can show one."""
    if not data:
        return RejectedImage(RejectReason.EMPTY, "0 bytes")
    kind = _detect_format(data)
    if kind is None:
        return RejectedImage(
            RejectReason.NOT_AN_IMAGE,
            f"{len(data):,} bytes that start {data[:8]!r}; {_FORMAT_NAMES} are read",
        )
    try:
        height, width = kind.parse_size_hw(data)
        reason = _find_reject_reason(kind, data, height * width)
    except struct.error:
        return RejectedImage(RejectReason.TRUNCATED, f"a {kind.name} whose header ends at {len(data):,} bytes")
    return RejectedImage(reason, describe_image(data) + _LIMIT_HINTS.get(reason, "")) if reason else None


_LIMIT_HINTS = {
    RejectReason.TOO_MANY_PIXELS: f"; {MAX_PIXELS:,} pixels are decoded at most",
    RejectReason.TOO_MANY_SCANS: f"; {MAX_SCANS} scans are decoded at most, and fewer of large images",
}


def _find_reject_reason(image_format: _ImageFormat, data: bytes, num_pixels: int) -> RejectReason | None:
    if not num_pixels:
        return RejectReason.CORRUPT
    if num_pixels > MAX_PIXELS:
        return RejectReason.TOO_MANY_PIXELS
    reason = image_format.find_defect(data, num_pixels)
    if reason is None and num_pixels > image_format.max_pixels_per_byte * len(
        data
    ):  # a size that memory would be taken for
        return RejectReason.CORRUPT
    return reason


def clear_tiff_orientation(data: bytes) -> bytes:
    """The same image, if need be without the wish to be shown turned.

    Of all formats, only TIFF is rotated by OpenCV even when it is set not to.
    """
    if _detect_format(data) is not _TIFF_FORMAT:
        return data
    upright = bytearray(data)
    for tag, form, at in _iter_tiff_tags(data):
        if tag == _ORIENTATION_TAG:
            struct.pack_into(form, upright, at, 1)
    return bytes(upright)


def has_exif_orientation(data: bytes) -> bool:
    """Whether a JPEG or TIFF wants to be shown turned or mirrored (EXIF); here nothing is."""
    try:
        tags = _get_exif_tags(data)
        found = [struct.unpack_from(f, tags, at) for tag, f, at in _iter_tiff_tags(tags) if tag == _ORIENTATION_TAG]
    except struct.error:
        return False
    return found[:1] not in ([], [(1,)])


def _get_exif_tags(data: bytes) -> bytes:
    """Tags in the form of a TIFF. Raises struct.error where there are none."""
    if _detect_format(data) is _TIFF_FORMAT:
        return data
    for marker, at in _iter_jpeg_markers(data) if data.startswith(b"\xff\xd8") else ():
        if marker == _JPEG_APP1 and data.startswith(_EXIF_SIGNATURE, at + 2):
            return data[at + 2 + len(_EXIF_SIGNATURE) :]
        if marker == _JPEG_SCAN:
            break
    raise struct.error("no EXIF")


def describe_image(data: bytes) -> str:
    """Kind and sizes of an image that has a header: `a PNG of 40 x 30 pixels in 1,200 bytes`."""
    kind, size = _detect_format(data), read_size_hw(data)
    name = kind.name if kind else "file"
    if size is None:
        return f"a {name} of {len(data):,} bytes without a size"
    return f"a {name} of {size[1]:,} x {size[0]:,} pixels in {len(data):,} bytes"


def _detect_format(data: bytes) -> _ImageFormat | None:
    for kind in _IMAGE_FORMATS:
        if kind.signature.match(data):
            return kind
    return None


# --- JPEG

_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""Not 0xff00, which is data, nor 0xff01 and 0xffd0-0xffd7, which stand between data."""
_JPEG_START, _JPEG_END, _JPEG_SCAN, _JPEG_APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_EXIF_SIGNATURE = b"Exif\0\0"
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SEQUENTIAL_MARKERS = (0xC0, 0xC1)


def _iter_jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker, and where its segment starts. Leaps over segments: a preview has markers too."""
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        yield marker, at
        if marker not in (_JPEG_START, _JPEG_END):
            at += max(2, int.from_bytes(data[at : at + 2], "big"))


def _parse_jpeg_size_hw(data: bytes) -> SizeHw:
    for marker, at in _iter_jpeg_markers(data):
        if marker in _JPEG_FRAME_MARKERS:
            return struct.unpack_from(">HH", data, at + 3)
        if marker in (_JPEG_SCAN, _JPEG_END):
            return 0, 0
    raise struct.error("no frame")


def _find_jpeg_defect(data: bytes, num_pixels: int) -> RejectReason | None:
    """A missing end, or too many scans. Data may follow the end: some cameras write there."""
    scans_left = min(MAX_SCANS, MAX_SCANNED_PIXELS // num_pixels)
    in_one_scan = b""  # the count of components of a frame that may come in one scan
    for marker, at in _iter_jpeg_markers(data):
        if marker in _JPEG_SEQUENTIAL_MARKERS:
            in_one_scan = data[at + 7 : at + 8]
        elif marker == _JPEG_END:
            return None
        elif marker == _JPEG_SCAN:
            if not scans_left:
                return RejectReason.TOO_MANY_SCANS
            scans_left -= 1
            if data[at + 2 : at + 3] == in_one_scan:  # decoders refuse a second one
                end = bytes((0xFF, _JPEG_END))
                whole = data.endswith(end) or data.find(end, at) > 0
                return None if whole else RejectReason.TRUNCATED
    return RejectReason.TRUNCATED


# --- PNG, BMP, WebP, TIFF


def _parse_png_size_hw(data: bytes) -> SizeHw:
    name, width, height = struct.unpack_from(">4sII", data, 12)
    return (height, width) if name == b"IHDR" else (0, 0)


def _find_png_defect(data: bytes, num_pixels: int) -> RejectReason | None:
    """Chunks that do not lead to the last one."""
    at = 8
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if name == b"IEND":
            break
    else:
        return RejectReason.TRUNCATED
    return None if at <= len(data) else RejectReason.TRUNCATED


_BMP_OS2_HEADER_BYTES = 12
_BMP_UNPACKED = (0, 3, 6)  # pixels as they are, without and with channel masks


def _parse_bmp_size_hw(data: bytes) -> SizeHw:
    short = struct.unpack_from("<I", data, 14) == (_BMP_OS2_HEADER_BYTES,)
    width, height = struct.unpack_from("<HH" if short else "<ii", data, 18)
    return abs(height), abs(width)  # a negative height means that the top row comes first


def _find_bmp_defect(data: bytes, num_pixels: int) -> RejectReason | None:
    """Fewer bytes than rows of pixels take that are not packed."""
    start, header = struct.unpack_from("<II", data, 10)
    if header == _BMP_OS2_HEADER_BYTES:
        bits, compression = struct.unpack_from("<H", data, 24)[0], 0
    else:
        bits, compression = struct.unpack_from("<HI", data, 28)
    height, width = _parse_bmp_size_hw(data)
    row_bytes = (width * bits + 31) // 32 * 4
    return RejectReason.TRUNCATED if compression in _BMP_UNPACKED and start + height * row_bytes > len(data) else None


def _parse_webp_size_hw(data: bytes) -> SizeHw:
    name = struct.unpack_from("4s", data, 12)[0]
    if name == b"VP8L":  # 14 bits each, after a byte that is always 0x2f
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if name == b"VP8 ":  # the two bits above each size give the scaling for display
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if name == b"VP8X":  # 24 bits each
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
        return (high_h << 16 | low_h) + 1, (high_w << 16 | low_w) + 1
    return 0, 0


def _find_webp_defect(data: bytes, num_pixels: int) -> RejectReason | None:
    length = struct.unpack_from("<I", data, 4)[0]
    return RejectReason.TRUNCATED if 8 + length > len(data) else None


_TIFF_WIDTH_TAG, _TIFF_HEIGHT_TAG, _ORIENTATION_TAG = 256, 257, 274


def _iter_tiff_tags(data: bytes) -> Iterator[tuple[int, str, int]]:
    """The tags of the first page, each with the format of its value and where that stands."""
    order = "<" if data[:2] == b"II" else ">"
    first = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, first)[0]
    for at in range(first + 2, first + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH8x", data, at)
        yield tag, order + ("H" if kind == 3 else "I"), at + 8


def _parse_tiff_size_hw(data: bytes) -> SizeHw:
    sizes = {_TIFF_HEIGHT_TAG: 0, _TIFF_WIDTH_TAG: 0}
    for tag, form, at in _iter_tiff_tags(data):
        if not sizes.get(tag, 1):  # the first of its kind is the one that counts
            sizes[tag] = struct.unpack_from(form, data, at)[0]
    return sizes[_TIFF_HEIGHT_TAG], sizes[_TIFF_WIDTH_TAG]


def _skip_defect_check(data: bytes, num_pixels: int) -> None:
    """The decoder finds out."""


_TIFF_FORMAT = _ImageFormat("TIFF", re.compile(rb"II\*\0|MM\0\*"), _parse_tiff_size_hw, _skip_defect_check, math.inf)
_IMAGE_FORMATS = (
    _ImageFormat("JPEG", re.compile(rb"\xff\xd8\xff"), _parse_jpeg_size_hw, _find_jpeg_defect, 1024),
    _ImageFormat("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _parse_png_size_hw, _find_png_defect, 8 * 1032),
    _ImageFormat(
        "WebP",
        re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
        _parse_webp_size_hw,
        _find_webp_defect,
        math.inf,
    ),
    _TIFF_FORMAT,
    _ImageFormat("BMP", re.compile(rb"BM"), _parse_bmp_size_hw, _find_bmp_defect, math.inf),
)
_FORMAT_NAMES = ", ".join(kind.name for kind in _IMAGE_FORMATS)
