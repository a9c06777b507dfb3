"""Hostile and damaged files, and those that MATLAB and scipy write."""

import resource
import struct
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from hrnet_ray.data.formats import matlab
from hrnet_ray.data.formats.matlab import load_mat_safe
from hrnet_ray.errors import DataError

MAX_BYTES = 500 * 10**6
"""Memory for the tests, where the reader has 2 GB."""
CELL, STRUCT, OBJECT, TEXT, DOUBLE, FUNCTION, OPAQUE = 1, 2, 3, 4, 6, 16, 17
HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"


def element(kind: int, data: bytes, *, claimed: int | None = None) -> bytes:
    size = len(data) if claimed is None else claimed
    return struct.pack("<2I", kind, size) + data + bytes(-len(data) % 8)


def array(
    kind: int,
    content: bytes = b"",
    *,
    name: bytes = b"",
    dims: tuple[int, ...] = (1, 1),
    claimed: int | None = None,
) -> bytes:
    about = element(6, struct.pack("<2I", kind, 0))
    about += element(5, struct.pack(f"<{len(dims)}i", *dims)) + element(1, name)
    return element(14, about + content, claimed=claimed)


def packed(data: bytes) -> bytes:
    data = zlib.compress(data)
    return struct.pack("<2I", 15, len(data)) + data


def saved(compress: bool = False, **variables: object) -> bytes:
    file = BytesIO()
    scipy.io.savemat(file, variables, do_compression=compress)
    return file.getvalue()


def variable(kind: int, content: bytes = b"", **how: object) -> bytes:
    return HEADER + array(kind, content, name=b"RELEASE", **how)  # pyright: ignore


def nested(levels: int) -> bytes:
    """Cells in cells in cells, written from the outside so that it takes no time."""
    inner = array(DOUBLE, element(9, bytes(8)))
    begin = array(CELL)[8:]
    sizes = [len(inner) + at * (8 + len(begin)) for at in range(levels - 1, 0, -1)]
    cells = b"".join(struct.pack("<2I", 14, size - 8 + len(begin)) + begin for size in sizes[1:])
    return variable(CELL, cells + struct.pack("<2I", 14, len(begin) + len(inner)) + begin + inner)


NAMES = element(5, struct.pack("<i", 8)) + element(1, b"a\0\0\0\0\0\0\0")
NO_NAMES = element(5, struct.pack("<i", 8)) + element(1, b"")
WHOLE = saved(RELEASE={"a": np.arange(50_000.0)})
HALF = 2**31 - 8
MEMORY = "it takes more than 500 MB of memory"
CRASH = "scipy is ended by SIGSEGV"

BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "no MATLAB file of version 5"),
    "text": (lambda: b"<html>404</html>" * 20, "no MATLAB file of version 5"),
    "version 4": (lambda: struct.pack("<5i", 0, 1, 1, 0, 2) + b"a\0" + bytes(200), "of version 5"),
    "version 7.3": (
        lambda: b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(384) + b"\x89HDF\r\n\x1a\n",
        "of version 7.3, which is HDF5",
    ),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(1000), "of version 7.3, which is HDF5"),
    "truncated": (lambda: WHOLE[: len(WHOLE) // 2], "could not read bytes"),
    "truncated in a tag": (lambda: WHOLE[:132], "could not read bytes"),
    "truncated and packed": (lambda: saved(True, RELEASE=np.eye(99))[:-20], "could not read bytes"),
    "torn pack": (
        lambda: HEADER + packed(array(DOUBLE, element(9, bytes(800)), name=b"RELEASE"))[:-9] * 2,
        "while decompressing",
    ),
    "no variable": (lambda: saved(other=1), "it has no RELEASE"),
    "twice": (lambda: saved(RELEASE=1) + saved(RELEASE=2)[128:], "it has RELEASE twice"),
    "object": (lambda: variable(OBJECT, element(1, b"inline") + NAMES), "could not read bytes"),
    "whole object": (lambda: variable(OBJECT, element(1, b"inline") + NAMES + double(5)), "it has a MatlabObject"),
    "function": (lambda: variable(FUNCTION, double(5)), "it has a MatlabFunction"),
    "opaque": (lambda: variable(OPAQUE), "cannot be read"),
    "object in a cell": (lambda: variable(CELL, array(OBJECT, NAMES)), "data type"),
    "sparse": (lambda: saved(RELEASE=scipy.sparse.eye_array(3).tocsc()), "it has a csc_"),
    "2 GB of file": (lambda: variable(DOUBLE, bytes(64), claimed=HALF), CRASH),
    "2 GB of pack": (lambda: HEADER + packed(array(DOUBLE, bytes(64), name=b"RELEASE", claimed=HALF)), CRASH),
    "2 GB of zeros": (lambda: many_zeros(600 * 10**6), MEMORY),
    "2 GB of numbers": (lambda: variable(DOUBLE, element(9, b"", claimed=HALF)), MEMORY),
    "2 GB of text": (lambda: variable(TEXT, element(16, b""), dims=(1, HALF)), MEMORY),
    "2 GB of cells": (lambda: variable(CELL, dims=(1, HALF)), MEMORY),
    "2 GB of structs": (lambda: variable(STRUCT, NAMES, dims=(1, HALF)), MEMORY),
    "structs of nothing": (lambda: variable(STRUCT, NO_NAMES, dims=(1, HALF)), MEMORY),
    "many dimensions": (lambda: variable(DOUBLE, dims=(2,) * 40), "malformed"),
    "negative": (lambda: variable(DOUBLE, element(9, bytes(8)), dims=(-1, -1)), "cannot be read"),
    "unknown type": (lambda: variable(DOUBLE, element(200, bytes(8))), CRASH),
    "deep": (lambda: nested(30_000), CRASH),
    "deep enough for Python": (lambda: nested(600), "RecursionError"),
    "many": (lambda: HEADER + packed(many_cells(10_000_000)), MEMORY),
    "much text": (lambda: saved(True, RELEASE=np.zeros((3000, 3000), np.uint8)), "more than 10 MB as text"),
}


def double(value: float) -> bytes:
    return array(DOUBLE, element(9, struct.pack("<d", value)))


def many_zeros(num_bytes: int) -> bytes:
    """A packed array of zeros, which is never whole in this process."""
    begin = array(
        DOUBLE, struct.pack("<2I", 9, num_bytes), name=b"RELEASE", dims=(1, num_bytes // 8), claimed=56 + num_bytes
    )
    packer, chunk = zlib.compressobj(1), bytes(10**6)
    parts = [packer.compress(begin), *(packer.compress(chunk) for _ in range(num_bytes // len(chunk))), packer.flush()]
    return HEADER + struct.pack("<2I", 15, sum(map(len, parts))) + b"".join(parts)


def many_cells(count: int) -> bytes:
    return array(CELL, struct.pack("<2I", 14, 0) * count, name=b"RELEASE", dims=(1, count))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the memory of a process")
@pytest.mark.parametrize("kind", BAD)
def test_a_hostile_file_is_refused_within_500_mb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr(matlab, "MAX_MEMORY_BYTES", MAX_BYTES)
    monkeypatch.setattr(matlab, "MAX_JSON_BYTES", MAX_BYTES // 50)
    build, reason = BAD[kind]
    path = tmp_path / "a.mat"
    path.write_bytes(build())

    with pytest.raises(DataError, match=reason) as refused:
        load_mat_safe(path, ["RELEASE"], flag="--annotations")

    assert str(path) in refused.value.where
    assert len(str(refused.value).splitlines()) == 3


def test_a_file_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matlab, "MAX_CPU_S", 1)
    path = tmp_path / "a.mat"
    path.write_bytes(HEADER + packed(many_cells(2_000_000)))

    with pytest.raises(DataError, match="it takes more than 1 s"):
        load_mat_safe(path, ["RELEASE"], flag="--annotations")


def test_the_limits_do_not_hold_for_this_process(tmp_path: Path):
    before = [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)]
    (tmp_path / "a.mat").write_bytes(saved(RELEASE=1))

    load_mat_safe(tmp_path / "a.mat", ["RELEASE"], flag="--annotations")

    assert before == [
        resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)
    ]


def test_version_7_3_says_how_to_save_it_again(tmp_path: Path):
    (tmp_path / "a.mat").write_bytes(BAD["version 7.3"][0]())

    with pytest.raises(DataError) as error:
        load_mat_safe(tmp_path / "a.mat", ["RELEASE"], flag="--annotations")

    assert str(error.value) == (
        "a MATLAB file of version 7.3, which is HDF5\n"
        f"  {tmp_path / 'a.mat'}\n"
        "  fix: save it as version 7: in MATLAB load it, then save('name.mat', ..., '-v7')"
    )


@pytest.mark.parametrize("compress", [False, True])
def test_what_scipy_and_matlab_write_is_read(tmp_path: Path, compress: bool):
    cells = np.empty((2, 2), object)
    cells[:] = [["text", "ünïcode ☃"], [np.arange(6.0).reshape(1, 2, 3), np.zeros((0, 0))]]
    structs = np.array([[(1, "a"), (2.5, "")]], dtype=[("x", object), ("long_name", object)])
    numbers = {
        f"n{at}": np.array([[1, 2]], kind) for at, kind in enumerate(["u1", "i2", "u4", "i8", "f4", "f8", "c16", "?"])
    }
    written = {"RELEASE": {"cells": cells, "structs": structs, **numbers}, "other": 5}
    (tmp_path / "a.mat").write_bytes(saved(compress, **written))

    found = load_mat_safe(tmp_path / "a.mat", ["RELEASE"], flag="-", squeeze=True)["RELEASE"]

    assert found["cells"] == [["text", "ünïcode ☃"], [[[0, 1, 2], [3, 4, 5]], []]]
    assert found["structs"] == [{"x": 1, "long_name": "a"}, {"x": 2.5, "long_name": []}]
    assert all(found[name] == [1, 2] for name in numbers if name not in ("n6", "n7"))
    assert found["n6"] == ["(1+0j)", "(2+0j)"]
    assert found["n7"] == [1, 1]


def test_a_file_of_another_byte_order_is_read(tmp_path: Path):
    (tmp_path / "a.mat").write_bytes(
        b"MATLAB 5.0 MAT-file".ljust(124)
        + b"\1\0MI"
        + struct.pack(">2I", 14, 64)
        + struct.pack(">4I", 6, 8, DOUBLE, 0)
        + struct.pack(">4I", 5, 8, 1, 1)
        + struct.pack(">2I", 1, 7)
        + b"RELEASE\0"
        + struct.pack(">2Id", 9, 8, 2.5)
    )

    found = load_mat_safe(tmp_path / "a.mat", ["RELEASE"], flag="-")

    assert found["RELEASE"] == [[2.5]]
