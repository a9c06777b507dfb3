"""MATLAB files of version 5 (`save -v6`, `-v7`), looked through before scipy reads them.

scipy trusts the structure of a file: cells within cells, 20,000 deep, crash the process; an
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

from hrnet_ray.data.annotations import require_file
from hrnet_ray.errors import DataError

MAX_FILE_BYTES = 320 * 10**6
"""MPII's annotations unpack to about half of this."""
MAX_ELEMENTS = 6_000_000
"""Twice as many as MPII's annotations have."""
MAX_DEPTH = 20

_HEADER_BYTES, _TAG_BYTES, _CHUNK_BYTES = 128, 8, 1 << 22
_MATRIX_TYPE, _COMPRESSED_TYPE = 14, 15
_PLAIN_DATA_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18}  # types of stored data
_CELL_CLASS, _STRUCT_CLASS = 1, 2
_PLAIN_CLASSES = {4, *range(6, 16)}  # text and numbers
_COMPLEX_FLAG = 0x800


def load_mat_safe(path: Path, variable_names: Sequence[str], *, flag: str, **loadmat_kwargs: Any) -> dict[str, Any]:
    """Read these variables with `scipy.io.loadmat(..., **how)`.

    Raises:
        DataError: a variable is missing, or the file is damaged, claims more than it holds, is of
            another version, or has objects in it.
    """
    from scipy.io import loadmat

    require_file(path, flag)
    try:
        _validate_file(path, variable_names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of variables that are there twice; they are refused
            found = loadmat(path, variable_names=list(variable_names), **loadmat_kwargs)
        return {name: found[name] for name in variable_names}
    except DataError:
        raise
    except Exception as error:  # scipy raises its own mixture for damaged files
        raise DataError(
            "a MATLAB file that cannot be read",
            f"{path}: {type(error).__name__}: {error}",
            "download it again, or save it again in MATLAB: save(..., '-v7')",
        ) from error


def _validate_file(path: Path, variable_names: Sequence[str]) -> None:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES / 1e6:g} MB")
    raw = path.read_bytes()
    order = _detect_endianness(raw, path)
    at, missing = _HEADER_BYTES, set(variable_names)
    while at < len(raw):
        kind, size = struct.unpack_from(order + "2I", raw, at)
        if at + _TAG_BYTES + size > len(raw):
            raise ValueError(f"it ends too early: {size:,} bytes are promised at {at:,}")
        body = raw[at : at + _TAG_BYTES + size]
        if kind == _COMPRESSED_TYPE:
            body = _unpack_element(body[_TAG_BYTES:], order, variable_names)
        elif kind != _MATRIX_TYPE:
            raise ValueError(f"an element of type {kind} at {at:,}")
        if (name := _MatrixValidator(body, order).read_name()) in variable_names:
            if name not in missing:
                raise ValueError(f"{name} is there twice")
            missing.remove(name)
            _MatrixValidator(body, order).validate_variable()
        at += _TAG_BYTES + size
    if missing:
        raise ValueError(f"it has no {', '.join(sorted(missing))}")


def _detect_endianness(raw: bytes, path: Path) -> str:
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


def _unpack_element(packed: bytes, endianness: str, variable_names: Sequence[str]) -> bytes | bytearray:
    """The element that is packed here: all of it, or only its start where that suffices."""
    start = zlib.decompressobj().decompress(packed, 4096)
    if _MatrixValidator(start, endianness).read_name() not in variable_names:
        return start
    _, size = struct.unpack_from(endianness + "2I", start)
    if size + len(packed) > MAX_FILE_BYTES:
        raise ValueError(f"{size:,} bytes are promised where {MAX_FILE_BYTES:,} are the most")
    whole = bytearray()
    unpacker = zlib.decompressobj()
    while len(whole) < _TAG_BYTES + size:  # piece by piece: at once it takes twice the memory
        piece = unpacker.decompress(packed, min(_CHUNK_BYTES, _TAG_BYTES + size - len(whole)))
        if not piece:
            raise ValueError(f"{size:,} bytes are promised and {len(whole):,} are there")
        whole += piece
        packed = unpacker.unconsumed_tail
    return whole


class _MatrixHeader(NamedTuple):
    array_class: int
    is_complex: bool
    num_elements: int
    name: str
    data_offset: int
    """Where its content starts."""


class _MatrixValidator:
    """Goes through one variable, element by element, as scipy will."""

    def __init__(self, raw: bytes | bytearray, endianness: str) -> None:
        self._raw, self._elements_left = raw, MAX_ELEMENTS
        self._tag_struct, self._plain_array_struct = (
            struct.Struct(endianness + "2I"),
            struct.Struct(endianness + "14I"),
        )
        self._endianness = endianness

    def read_name(self) -> str:
        return self._read_header(_TAG_BYTES).name

    def validate_variable(self) -> None:
        end = self._validate_matrix(0, 0)
        if end > len(self._raw):
            raise ValueError("it ends too early")

    def _validate_matrix(self, offset: int, depth: int) -> int:
        """Check the matrix whose tag is at `at`; return where it ends."""
        kind, size = self._tag_struct.unpack_from(self._raw, offset)
        self._elements_left -= 1
        if kind != _MATRIX_TYPE:
            raise ValueError(f"an element of type {kind} where an array is wanted, at {offset:,}")
        if depth > MAX_DEPTH or self._elements_left < 0:
            raise ValueError(f"more than {MAX_DEPTH} levels or {MAX_ELEMENTS:,} elements")
        offset += _TAG_BYTES
        if size == 0:
            return offset
        end = offset + size
        header = self._read_header(offset)
        if header.array_class in (_CELL_CLASS, _STRUCT_CLASS):
            offset, children = self._find_children(header)
            for _ in range(children):
                offset = self._skip_plain_array(offset) or self._validate_matrix(offset, depth + 1)
        elif header.array_class in _PLAIN_CLASSES:
            offset = self._validate_numbers(header, end)
        else:
            raise ValueError(f"an object, a function or a sparse array (class {header.array_class})")
        if offset != end:  # scipy would go on from `at`, where we cannot vouch for what is there
            raise ValueError(f"an array of {size:,} bytes that ends {offset - end:+,} bytes off")
        return end

    def _skip_plain_array(self, offset: int) -> int:
        """Where this ends, if it is a plain nameless array of two dimensions, as most are; else 0.

        It accepts nothing that `_matrix` refuses, in half the time.
        """
        if offset + self._plain_array_struct.size > len(self._raw):
            return 0
        kind, size, _, _, flags, _, *rest = self._plain_array_struct.unpack_from(self._raw, offset)
        dims, dims_size, rows, columns, name, name_size, data, bytes_ = rest
        if data >> 16:
            data, bytes_, padded = data & 0xFFFF, data >> 16, 0
        else:
            padded = bytes_ + -bytes_ % 8
        usual = (
            (kind, size, dims, dims_size) == (_MATRIX_TYPE, 48 + padded, 5, 8)
            and (flags & 0xFF) in _PLAIN_CLASSES
            and not flags & _COMPLEX_FLAG
            and not name >> 16
            and name_size == 0
            and data in _PLAIN_DATA_TYPES
            and max(rows, columns) < 1 << 31  # beyond it they are below zero
            and rows * columns <= bytes_ <= max(4, padded)
            and self._elements_left > 0
        )
        self._elements_left -= usual
        return offset + _TAG_BYTES + size if usual else 0

    def _find_children(self, header: _MatrixHeader) -> tuple[int, int]:
        """Where the arrays in a cell or a struct start, and their number."""
        if header.array_class == _CELL_CLASS:
            return header.data_offset, header.num_elements
        _, size, data, at = self._read_data_tag(header.data_offset)
        if size != 4:
            raise ValueError("a struct whose names have no length")
        (length,) = struct.unpack_from(self._endianness + "i", self._raw, data)
        _, size, _, at = self._read_data_tag(at)
        if length < 1 or size % length or (size == 0 and header.num_elements > 1):
            raise ValueError(f"a struct of {header.num_elements:,} with {size} bytes of names")
        return at, header.num_elements * (size // length)

    def _validate_numbers(self, header: _MatrixHeader, end: int) -> int:
        at = header.data_offset
        for _ in range(1 + header.is_complex):
            kind, size, _, at = self._read_data_tag(at)
            if kind not in _PLAIN_DATA_TYPES or header.num_elements > size or at > end:
                raise ValueError(f"{header.num_elements:,} numbers of type {kind} in {size:,} bytes")
        return at

    def _read_header(self, offset: int) -> _MatrixHeader:
        flags, _ = self._tag_struct.unpack_from(self._raw, offset + _TAG_BYTES)
        kind, size, data, offset = self._read_data_tag(offset + 2 * _TAG_BYTES)
        if kind != 5 or size % 4 or not 8 <= size <= 128:
            raise ValueError("an array without dimensions")
        dims = struct.unpack_from(f"{self._endianness}{size // 4}i", self._raw, data)
        if min(dims) < 0:
            raise ValueError(f"an array of dimensions {dims}")
        _, size, data, offset = self._read_data_tag(offset)
        name = self._raw[data : data + size].decode("latin-1")
        return _MatrixHeader(flags & 0xFF, bool(flags & _COMPLEX_FLAG), math.prod(dims), name, offset)

    def _read_data_tag(self, offset: int) -> tuple[int, int, int, int]:
        """Of the data whose tag is at `at`: type, bytes, where they start, what follows them."""
        kind, size = self._tag_struct.unpack_from(self._raw, offset)
        if small := kind >> 16:  # up to four bytes lie within the tag
            if small > 4:
                raise ValueError(f"{small} bytes within a tag at {offset:,}")
            return kind & 0xFFFF, small, offset + 4, offset + _TAG_BYTES
        return kind, size, offset + _TAG_BYTES, offset + _TAG_BYTES + size + -size % 8
