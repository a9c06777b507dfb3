"""MATLAB files of version 5 (`save -v6`, `-v7`), looked through before scipy reads them.

scipy believes what a file says of itself: cells within cells, 20,000 deep, end the process; an
empty text of 2^31 letters takes 8 GB. So every element is first checked to lie within the one
around it and to hold what it claims. Format: MathWorks, "MAT-File Format".
"""

import math
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hrnet_ray.data.annotations import check_file
from hrnet_ray.errors import DataError

MOST_BYTES = 320 * 10**6
"""MPII's annotations unpack to about half of this."""
MOST_ELEMENTS = 6_000_000
"""Twice as many as MPII's annotations have."""
MOST_DEEP = 20

_HEADER_BYTES, _TAG_BYTES, _PIECE_BYTES = 128, 8, 1 << 22
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS_AND_TEXT = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18}  # types of stored data
_CELL, _STRUCT = 1, 2
_LEAVES = {4, *range(6, 16)}  # text and numbers
_COMPLEX = 0x800


def load_matlab(path: Path, names: Sequence[str], *, flag: str, **how: Any) -> dict[str, Any]:
    """Read these variables with `scipy.io.loadmat(..., **how)`.

    Raises:
        DataError: a variable is missing, or the file is damaged, claims more than it holds, is of
            another version, or has objects in it.
    """
    from scipy.io import loadmat

    check_file(path, flag)
    try:
        _look_through(path, names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of variables that are there twice; they are refused
            found = loadmat(path, variable_names=list(names), **how)
        return {name: found[name] for name in names}
    except DataError:
        raise
    except Exception as error:  # scipy raises its own mixture for damaged files
        raise DataError(
            "a MATLAB file that cannot be read",
            f"{path}: {type(error).__name__}: {error}",
            "download it again, or save it again in MATLAB: save(..., '-v7')",
        ) from error


def _look_through(path: Path, names: Sequence[str]) -> None:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES / 1e6:g} MB")
    raw = path.read_bytes()
    order = _byte_order(raw, path)
    at, missing = _HEADER_BYTES, set(names)
    while at < len(raw):
        kind, size = struct.unpack_from(order + "2I", raw, at)
        if at + _TAG_BYTES + size > len(raw):
            raise ValueError(f"it ends too early: {size:,} bytes are promised at {at:,}")
        body = raw[at : at + _TAG_BYTES + size]
        if kind == _COMPRESSED:
            body = _unpacked(body[_TAG_BYTES:], order, names)
        elif kind != _MATRIX:
            raise ValueError(f"an element of type {kind} at {at:,}")
        if (name := _Walk(body, order).name()) in names:
            if name not in missing:
                raise ValueError(f"{name} is there twice")
            missing.remove(name)
            _Walk(body, order).check()
        at += _TAG_BYTES + size
    if missing:
        raise ValueError(f"it has no {', '.join(sorted(missing))}")


def _byte_order(raw: bytes, path: Path) -> str:
    if raw.startswith(b"MATLAB 7.3") or b"\x89HDF\r\n\x1a\n" in (raw[:8], raw[512:520]):
        raise DataError(
            "a MATLAB file of version 7.3, which is HDF5",
            str(path),
            "save it as version 7: in MATLAB load it, then save('name.mat', ..., '-v7')",
        )
    order = {b"IM": "<", b"MI": ">"}.get(raw[126:_HEADER_BYTES], "")
    if not order or struct.unpack_from(order + "H", raw, 124)[0] != 0x0100:
        raise ValueError("it is no MATLAB file of version 5")
    return order


def _unpacked(packed: bytes, order: str, names: Sequence[str]) -> bytes | bytearray:
    """The element that is packed here: all of it, or only its start if nobody asks for it."""
    start = zlib.decompressobj().decompress(packed, 4096)
    if _Walk(start, order).name() not in names:
        return start
    _, size = struct.unpack_from(order + "2I", start)
    if size + len(packed) > MOST_BYTES:
        raise ValueError(f"{size:,} bytes are promised where {MOST_BYTES:,} are the most")
    whole = bytearray()
    unpacker = zlib.decompressobj()
    while len(whole) < _TAG_BYTES + size:  # piece by piece: at once it takes twice the memory
        piece = unpacker.decompress(packed, min(_PIECE_BYTES, _TAG_BYTES + size - len(whole)))
        if not piece:
            raise ValueError(f"{size:,} bytes are promised and {len(whole):,} are there")
        whole += piece
        packed = unpacker.unconsumed_tail
    return whole


class _Header(NamedTuple):
    kind: int
    is_complex: bool
    count: int
    name: str
    body: int
    """Where its content starts."""


class _Walk:
    """Goes through one variable, element by element, as scipy will."""

    def __init__(self, raw: bytes | bytearray, order: str) -> None:
        self._raw, self._left = raw, MOST_ELEMENTS
        self._pair, self._usual = struct.Struct(order + "2I"), struct.Struct(order + "14I")
        self._order = order

    def name(self) -> str:
        return self._header(_TAG_BYTES).name

    def check(self) -> None:
        end = self._matrix(0, 0)
        if end > len(self._raw):
            raise ValueError("it ends too early")

    def _matrix(self, at: int, deep: int) -> int:
        """Check the matrix whose tag is at `at`; return where it ends."""
        kind, size = self._pair.unpack_from(self._raw, at)
        self._left -= 1
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} where an array is wanted, at {at:,}")
        if deep > MOST_DEEP or self._left < 0:
            raise ValueError(f"more than {MOST_DEEP} levels or {MOST_ELEMENTS:,} elements")
        at += _TAG_BYTES
        if size == 0:
            return at
        end = at + size
        header = self._header(at)
        if header.kind in (_CELL, _STRUCT):
            at, children = self._children(header)
            for _ in range(children):
                at = self._leaf(at) or self._matrix(at, deep + 1)
        elif header.kind in _LEAVES:
            at = self._numbers(header, end)
        else:
            raise ValueError(f"an object, a function or a sparse array (class {header.kind})")
        if at != end:  # scipy would go on from `at`, where we cannot vouch for what is there
            raise ValueError(f"an array of {size:,} bytes that ends {at - end:+,} bytes off")
        return end

    def _leaf(self, at: int) -> int:
        """Where this ends, if it is a plain nameless array of two dimensions, as most are; else 0.

        It accepts nothing that `_matrix` refuses, in half the time.
        """
        if at + self._usual.size > len(self._raw):
            return 0
        kind, size, _, _, flags, _, *rest = self._usual.unpack_from(self._raw, at)
        dims, dims_size, rows, columns, name, name_size, data, bytes_ = rest
        if data >> 16:
            data, bytes_, padded = data & 0xFFFF, data >> 16, 0
        else:
            padded = bytes_ + -bytes_ % 8
        usual = (
            (kind, size, dims, dims_size) == (_MATRIX, 48 + padded, 5, 8)
            and (flags & 0xFF) in _LEAVES
            and not flags & _COMPLEX
            and not name >> 16
            and name_size == 0
            and data in _NUMBERS_AND_TEXT
            and max(rows, columns) < 1 << 31  # beyond it they are below zero
            and rows * columns <= bytes_ <= max(4, padded)
            and self._left > 0
        )
        self._left -= usual
        return at + _TAG_BYTES + size if usual else 0

    def _children(self, header: _Header) -> tuple[int, int]:
        """Where the arrays in a cell or a struct start, and their number."""
        if header.kind == _CELL:
            return header.body, header.count
        _, size, data, at = self._data(header.body)
        if size != 4:
            raise ValueError("a struct whose names have no length")
        (length,) = struct.unpack_from(self._order + "i", self._raw, data)
        _, size, _, at = self._data(at)
        if length < 1 or size % length or (size == 0 and header.count > 1):
            raise ValueError(f"a struct of {header.count:,} with {size} bytes of names")
        return at, header.count * (size // length)

    def _numbers(self, header: _Header, end: int) -> int:
        at = header.body
        for _ in range(1 + header.is_complex):
            kind, size, _, at = self._data(at)
            if kind not in _NUMBERS_AND_TEXT or header.count > size or at > end:
                raise ValueError(f"{header.count:,} numbers of type {kind} in {size:,} bytes")
        return at

    def _header(self, at: int) -> _Header:
        flags, _ = self._pair.unpack_from(self._raw, at + _TAG_BYTES)
        kind, size, data, at = self._data(at + 2 * _TAG_BYTES)
        if kind != 5 or size % 4 or not 8 <= size <= 128:
            raise ValueError("an array without dimensions")
        dims = struct.unpack_from(f"{self._order}{size // 4}i", self._raw, data)
        if min(dims) < 0:
            raise ValueError(f"an array of dimensions {dims}")
        _, size, data, at = self._data(at)
        name = self._raw[data : data + size].decode("latin-1")
        return _Header(flags & 0xFF, bool(flags & _COMPLEX), math.prod(dims), name, at)

    def _data(self, at: int) -> tuple[int, int, int, int]:
        """Of the data whose tag is at `at`: type, bytes, where they start, what follows them."""
        kind, size = self._pair.unpack_from(self._raw, at)
        if small := kind >> 16:  # up to four bytes lie within the tag
            if small > 4:
                raise ValueError(f"{small} bytes within a tag at {at:,}")
            return kind & 0xFFFF, small, at + 4, at + _TAG_BYTES
        return kind, size, at + _TAG_BYTES, at + _TAG_BYTES + size + -size % 8
