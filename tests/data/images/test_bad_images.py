"""A thousand images, as folders from strangers are: some bad, some odd, most of them good."""

import csv
import io
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import RejectReason
from hrnet_ray.data.manifest import DatasetManifest, read_split
from tests.data.hostile import black_png, claiming, with_orientation, with_scans
from tests.data.paws import instance, labels, written

HW = (48, 64)
GOOD, EACH = 880, 20
NOISE = np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)
PAGE = b"<!DOCTYPE html><html><body>404 not found</body></html>"

BAD: dict[str, tuple[Callable[[bytes, int], bytes], RejectReason]] = {
    "empty": (lambda jpeg, at: b"", RejectReason.EMPTY),
    "half": (lambda jpeg, at: jpeg[: len(jpeg) // 2], RejectReason.TRUNCATED),
    "without_end": (lambda jpeg, at: jpeg[:-2], RejectReason.TRUNCATED),
    "page": (lambda jpeg, at: PAGE, RejectReason.NOT_AN_IMAGE),
    "ten_bytes": (lambda jpeg, at: jpeg[:10], RejectReason.TRUNCATED),
    "random": (lambda jpeg, at: np.random.default_rng(at).bytes(2000), RejectReason.NOT_AN_IMAGE),
}
"""What became of a JPEG, the how-manyeth of its kind, and the reason that it is refused for."""


def jpeg(at: int, *options: int) -> bytes:
    """One of many, each another."""
    noise = np.random.default_rng(at).integers(0, 256, (*HW, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", noise, options)[1].tobytes()


def pillow(kind: str, picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def bad_files() -> dict[str, tuple[bytes, RejectReason]]:
    """Each name with its bytes and the reason that they must be refused for: 120, and ten bombs."""
    found = {
        f"{name}_{at:02d}.jpg": (spoil(jpeg(at), at), reason)
        for name, (spoil, reason) in BAD.items()
        for at in range(EACH)
    }
    progressive = jpeg(0, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    black = pillow("BMP", Image.new("1", (8, 8)))
    bombs = {
        "large.png": black_png(32_000),
        "smaller.png": black_png(8_200),
        "large.bmp": black[:18] + struct.pack("<ii", 65_536, -65_536) + black[26:],
        "wide.jpg": claiming(jpeg(0), size_hw=(1_025, 65_500)),
        "65_500.jpg": claiming(jpeg(0), size_hw=(65_500, 65_500)),
        "20_000.jpg": claiming(jpeg(0), size_hw=(20_000, 20_000)),
        "65_535.jpg": claiming(progressive, size_hw=(65_535, 65_535)),
        "9_000.jpg": claiming(progressive, size_hw=(9_000, 9_000)),
    }
    scans = {f"scans_{count}.jpg": with_scans(progressive, count) for count in (101, 1500)}
    found |= {name: (data, RejectReason.TOO_MANY_PIXELS) for name, data in bombs.items()}
    return found | {name: (data, RejectReason.TOO_MANY_SCANS) for name, data in scans.items()}


def odd_files() -> dict[str, bytes]:
    """Images that are not as most are, and are good all the same."""
    sixteen = cv2.imencode(".png", NOISE[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    colour = Image.fromarray(NOISE)
    return {
        "press.jpg": pillow("JPEG", colour.convert("CMYK")),
        "grey.jpg": pillow("JPEG", colour.convert("L")),
        "grey.png": pillow("PNG", colour.convert("L")),
        "sixteen.png": sixteen,
        "clear.png": pillow("PNG", colour.convert("RGBA")),
        "palette.png": pillow("PNG", colour.quantize(16)),
        "turned.jpg": with_orientation(jpeg(0)),
        "progressive.jpg": jpeg(0, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "junk.jpg": jpeg(0) + b"\0 written by a camera",
        "a_png.jpg": pillow("PNG", colour),
    }


@pytest.fixture(scope="module")
def bad() -> dict[str, tuple[bytes, RejectReason]]:
    return bad_files()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bad: dict[str, tuple[bytes, RejectReason]]) -> Path:
    """All files, the bad ones among the good ones."""
    images = tmp_path_factory.mktemp("strangers") / "images"
    images.mkdir()
    files = {f"good_{at:03d}.jpg": jpeg(at) for at in range(GOOD)}
    files |= {name: data for name, (data, _) in bad.items()} | odd_files()
    for name, data in files.items():
        (images / name).write_bytes(data)
    return images


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[DatasetManifest, float]:
    """The data set of all that is good, and by how many MB its making let this process grow."""
    names = sorted(path.name for path in folder.iterdir())
    np.random.default_rng(0).shuffle(names)
    before = peak_mb()
    manifest = written(folder, labels(*(instance(id, name) for id, name in enumerate(names))), skip_corrupt=True)
    return manifest, peak_mb() - before


def peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def test_every_bad_picture_is_named_with_its_reason(made, folder: Path, bad):
    with (folder.parent / "out" / "skipped.csv").open(newline="", encoding="utf-8") as file:
        skipped = list(csv.DictReader(file))

    assert len(skipped) == len(bad) == 6 * EACH + 10
    assert {line["item"]: line["reason"] for line in skipped} == {name: reason for name, (_, reason) in bad.items()}
    assert all(line["split"] == "train" and line["detail"] for line in skipped)


def test_every_good_picture_is_used_and_nothing_is_lost(made):
    manifest, _ = made
    split = manifest.splits["train"]

    assert split.rows == GOOD + len(odd_files())
    assert (split.read, split.skipped) == (split.rows + 130, 130)
    used = read_split(manifest, "train")["image"].to_pylist()
    assert len(set(used)) == len(used) == split.rows
    assert set(odd_files()) <= set(used)


def test_bombs_take_no_memory(made):
    assert made[1] < 500


def test_odd_pictures_are_opened_as_they_are_stored():
    for name, data in odd_files().items():
        opened = codec.decode_or_reject(data)
        assert isinstance(opened, np.ndarray), name
        assert opened.shape == (*HW, 3), name
        assert opened.dtype == np.uint8, name
        if name in ("sixteen.png", "clear.png", "a_png.jpg"):  # nothing was lost in writing
            assert (opened == NOISE).all(), name
