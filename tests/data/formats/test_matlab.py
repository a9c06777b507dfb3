"""S14 of the plan, and what scipy alone would die of. Every file is opened in a small process."""

import json
import struct
import subprocess
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

MOST_MB = 500
FEW = 10_000  # elements, where six million take seconds
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

BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "no MATLAB file of version 5"),
    "text": (lambda: b"<html>404</html>" * 20, "no MATLAB file of version 5"),
    "version 4": (lambda: struct.pack("<5i", 0, 1, 1, 0, 2) + b"a\0" + bytes(200), "of version 5"),
    "version 7.3": (
        lambda: b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(384) + b"\x89HDF\r\n\x1a\n",
        "of version 7.3, which is HDF5",
    ),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(1000), "of version 7.3, which is HDF5"),
    "truncated": (lambda: WHOLE[: len(WHOLE) // 2], "it ends too early"),
    "truncated in a tag": (lambda: WHOLE[:132], "cannot be read"),
    "truncated and packed": (lambda: saved(True, RELEASE=np.eye(99))[:-20], "it ends too early"),
    "torn pack": (
        lambda: HEADER + packed(array(DOUBLE, element(9, bytes(800)), name=b"RELEASE"))[:-9] * 2,
        "cannot be read",
    ),
    "no variable": (lambda: saved(other=1), "it has no RELEASE"),
    "twice": (lambda: saved(RELEASE=1) + saved(RELEASE=2)[128:], "RELEASE is there twice"),
    "object": (lambda: variable(OBJECT, element(1, b"inline") + NAMES), r"an object, .*class 3"),
    "function": (lambda: variable(FUNCTION, array(DOUBLE)), "class 16"),
    "opaque": (lambda: variable(OPAQUE), "class 17"),
    "object in a cell": (lambda: variable(CELL, array(OBJECT, NAMES)), "class 3"),
    "2 GB of file": (lambda: variable(DOUBLE, bytes(64), claimed=HALF), "ends too early"),
    "2 GB of pack": (
        lambda: HEADER + packed(array(DOUBLE, bytes(64), name=b"RELEASE", claimed=HALF)),
        "bytes are promised",
    ),
    "2 GB of zeros": (
        lambda: HEADER + packed(array(DOUBLE, element(9, bytes(10**6)), name=b"RELEASE", claimed=MOST - 10**6)),
        "bytes are promised",
    ),
    "2 GB of numbers": (lambda: variable(DOUBLE, element(9, b"", claimed=HALF)), "cannot be read"),
    "2 GB of text": (
        lambda: variable(TEXT, element(16, b""), dims=(1, HALF)),
        "2,147,483,640 numbers of type 16 in 0 bytes",
    ),
    "2 GB of cells": (lambda: variable(CELL, dims=(1, HALF)), "cannot be read"),
    "2 GB of structs": (lambda: variable(STRUCT, NAMES, dims=(1, HALF)), "cannot be read"),
    "structs of nothing": (
        lambda: variable(STRUCT, NO_NAMES, dims=(1, HALF)),
        "a struct of 2,147,483,640 with 0 bytes of names",
    ),
    "many dimensions": (lambda: variable(DOUBLE, dims=(2,) * 40), "without dimensions"),
    "negative": (lambda: variable(DOUBLE, element(9, bytes(8)), dims=(-1, -1)), "of dimensions"),
    "unknown type": (lambda: variable(DOUBLE, element(200, bytes(8))), "of type 200"),
    "deep": (lambda: nested(30_000), "more than 20 levels"),
    "many": (lambda: HEADER + packed(many_cells()), "10,000 elements"),
    "beside": (
        lambda: variable(CELL, array(DOUBLE, element(9, bytes(8)) + bytes(16))),
        "that ends -16 bytes off",
    ),
}
MOST = matlab.MAX_FILE_BYTES


def many_cells() -> bytes:
    count = FEW + 1
    return array(CELL, struct.pack("<2I", 14, 0) * count, name=b"RELEASE", dims=(1, count))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited in Linux's way")
def test_a_bad_file_is_told_of_within_500_mb(tmp_path: Path):
    """All in one process, which ends at its limit: 31 processes would take as many seconds."""
    for kind, (build, _) in BAD.items():
        (tmp_path / f"{kind}.mat").write_bytes(build())
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, str(MOST_MB), str(FEW), str(tmp_path), *BAD],
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 0, done.stderr
    *told, peak_mb = map(json.loads, done.stdout.splitlines())
    for (what, where), (kind, (_, why)) in zip(told, BAD.items(), strict=True):
        with pytest.raises(DataError, match=why):
            raise DataError(what, where, "")
        assert f"{kind}.mat" in where
    assert peak_mb < MOST_MB


IN_LITTLE_MEMORY = r"""
import json, re, resource, sys
from pathlib import Path
import scipy.io
from hrnet_ray.data.formats import matlab
from hrnet_ray.errors import DataError

most_mb, matlab.MAX_ELEMENTS, folder, *kinds = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + most_mb * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for kind in kinds:
    try:
        matlab.load_mat_safe(Path(folder) / f"{kind}.mat", ["RELEASE"], flag="--annotations")
        print(json.dumps(["accepted", kind]), flush=True)
    except DataError as error:
        print(json.dumps([error.what, error.where]), flush=True)
status = Path("/proc/self/status").read_text()  # a child's ru_maxrss begins with its parent's
print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)
"""


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

    found = load_mat_safe(tmp_path / "a.mat", ["RELEASE"], flag="-", simplify_cells=True)["RELEASE"]

    assert found["cells"][0].tolist() == ["text", "ünïcode ☃"]
    assert found["cells"][1, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert [item["x"] for item in found["structs"]] == [1, 2.5]
    assert all(found[name].tolist() == [1, 2] for name in numbers if name != "n7")


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

    assert found["RELEASE"].tolist() == [[2.5]]
