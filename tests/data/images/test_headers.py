import io
import os
import time
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from hrnet_ray.data.images import codec, headers
from hrnet_ray.data.images.headers import RejectReason
from tests.data.hostile import black_png, claiming, with_scans, with_segment

HW = (30, 41)
NOISE = np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)
END = b"\xff\xd9"


def made(kind: str, picture: np.ndarray = NOISE, **options: Any) -> bytes:
    """A file by Pillow, so that another hand than the decoder's has written it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def flipped_bmp() -> bytes:
    data = bytearray(made("BMP"))
    data[22:26] = (-HW[0]).to_bytes(4, "little", signed=True)
    return bytes(data)


def rgbx_bmp() -> bytes:
    """Channels in the other order, which the file itself states."""
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xFF, 0xFF00, 0xFF0000))
    sizes = b"".join(n.to_bytes(4, "little") for n in (40, HW[1], HW[0], 1 | 32 << 16, 3, HW[0] * HW[1] * 4))
    head = b"BM" + bytes(8) + (66).to_bytes(4, "little")
    return head + sizes + bytes(16) + masks + bytes(HW[0] * HW[1] * 4)


def os2_bmp() -> bytes:
    """The shorter header of 1987, with 24 bits a pixel."""
    head = b"BM" + bytes(8) + (26).to_bytes(4, "little") + (12).to_bytes(4, "little")
    sizes = b"".join(n.to_bytes(2, "little") for n in (HW[1], HW[0], 1, 24))
    return head + sizes + bytes(HW[0] * 124)


BASELINE = made("JPEG")
PROGRESSIVE = made("JPEG", progressive=True)
WHOLE = {
    "jpeg": BASELINE,
    "progressive jpeg": PROGRESSIVE,
    "jpeg with a comment": with_segment(BASELINE, 0xFE, b"\xff\xd9\xff\xc0\0\x0b\x08\0\1\0\1"),
    "jpeg with filling": BASELINE.replace(b"\xff\xc0", b"\xff\xff\xff\xc0", 1),
    "jpeg with half a JFIF segment": with_segment(BASELINE, 0xE0, b"JFIF\0"),
    "jpeg with half a colour profile": with_segment(BASELINE, 0xE2, b"ICC_PROFILE\0"),
    "jpeg with half a Photoshop segment": with_segment(BASELINE, 0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "png": made("PNG"),
    "webp": made("WEBP"),
    "webp without loss": made("WEBP", lossless=True),
    "webp with exif": made("WEBP", exif=Image.Exif().tobytes() + b"\0"),
    "tiff": made("TIFF"),
    "big endian tiff": made("TIFF", NOISE[..., 0].astype(">u2")),
    "bmp": made("BMP"),
    "bmp from the top": flipped_bmp(),
    "bmp of OS/2": os2_bmp(),
    "bmp with channel masks": rgbx_bmp(),
    "tiff of signed numbers": cv2.imencode(".tiff", NOISE.astype(np.int16))[1].tobytes(),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_header_tells_the_size_that_decoding_gives(name: str):
    data = WHOLE[name]

    decoded = codec.decode_image(data)

    assert decoded is not None
    assert headers.find_problem(data) is None
    assert headers.read_size_hw(data) == decoded.shape[:2] == HW


@pytest.mark.parametrize("name", WHOLE)
def test_no_beginning_of_a_file_is_taken_for_the_whole(name: str):
    data = WHOLE[name]
    reasons = [headers.find_problem(data[:length]) for length in range(len(data))]

    found = {None if fault is None else fault.reason for fault in reasons}

    assert reasons[0] == headers.RejectedImage(RejectReason.EMPTY, "0 bytes")
    if "tiff" in name:  # its end can be anywhere; OpenCV looks for what is missing
        assert found == {
            RejectReason.EMPTY,
            RejectReason.NOT_AN_IMAGE,
            RejectReason.TRUNCATED,
            None,
        }
        assert all(codec.decode_image(data[:length]) is None for length in range(len(data)))
    else:
        assert found == {RejectReason.EMPTY, RejectReason.NOT_AN_IMAGE, RejectReason.TRUNCATED}


@pytest.mark.parametrize("name", WHOLE)
def test_what_comes_after_the_end_is_left_alone(name: str):
    data = WHOLE[name]

    for junk in (b"\0", b"\xff", PROGRESSIVE, b"\xff\xda" * 1000):
        decoded = codec.decode_image(data + junk)
        assert decoded is not None
        assert (decoded == codec.decode_image(data)).all()


def test_a_jpeg_that_lost_its_end_is_not_saved_by_the_end_of_its_preview():
    with_preview = with_segment(BASELINE, 0xE1, b"Exif\0\0" + BASELINE)

    assert headers.find_problem(with_preview) is None
    refused = headers.find_problem(with_preview[:-2])

    assert refused is not None
    assert refused.reason == RejectReason.TRUNCATED
    assert refused.detail == f"a JPEG of 41 x 30 pixels in {len(with_preview) - 2:,} bytes"


@pytest.mark.parametrize(
    ("bomb", "size"),
    [
        (black_png(32_000), "a PNG of 32,000 x 32,000 pixels"),
        (claiming(BASELINE, size_hw=(65_500, 65_500)), "a JPEG of 65,500 x 65,500 pixels"),
        (claiming(PROGRESSIVE, size_hw=(20_000, 20_000)), "a JPEG of 20,000 x 20,000 pixels"),
        (claiming(BASELINE, size_hw=(8192, 8193)), "a JPEG of 8,193 x 8,192 pixels"),
    ],
    ids=["png", "65,500", "20,000", "one row too many"],
)
def test_a_bomb_is_refused_by_its_header(bomb: bytes, size: str):
    assert len(bomb) < 130_000
    began = time.perf_counter()
    decoded, refused = codec.decode_image(bomb), codec.explain_rejection(bomb)
    took_s = time.perf_counter() - began

    assert decoded is None
    assert refused.reason == RejectReason.TOO_MANY_PIXELS
    assert refused.detail == (f"{size} in {len(bomb):,} bytes; 67,108,864 pixels are decoded at most")
    assert took_s < 0.05


def test_opencv_is_told_the_same_limit():
    assert int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]) == headers.MAX_PIXELS


def test_a_size_that_no_file_of_so_few_bytes_can_have_is_not_believed():
    plain = made("JPEG", np.zeros((2000, 2000), np.uint8), progressive=True, optimize=True)
    wide = claiming(BASELINE, size_hw=(8000, 8000))

    assert len(plain) < 20_000
    assert codec.decode_image(plain) is not None
    assert codec.decode_image(wide) is None
    assert codec.explain_rejection(wide) == headers.RejectedImage(
        RejectReason.CORRUPT, f"a JPEG of 8,000 x 8,000 pixels in {len(wide):,} bytes"
    )


@pytest.mark.parametrize("size_hw", [(0, 41), (30, 0)])
def test_a_header_without_a_size_is_damaged(size_hw: tuple[int, int]):
    data = claiming(BASELINE, size_hw=size_hw)

    assert headers.read_size_hw(data) is None
    assert codec.explain_rejection(data) == headers.RejectedImage(
        RejectReason.CORRUPT, f"a JPEG of {len(data):,} bytes without a size"
    )


def test_a_hundred_scans_are_decoded_and_more_are_not():
    assert headers.find_problem(with_scans(PROGRESSIVE, 100)) is None
    assert codec.decode_image(with_scans(PROGRESSIVE, 100)) is not None
    for count in (101, 1500):
        bomb = with_scans(PROGRESSIVE, count)
        began = time.process_time()
        assert codec.decode_image(bomb) is None
        assert time.process_time() - began < 0.05
        refused = codec.explain_rejection(bomb)
        assert refused.reason == RejectReason.TOO_MANY_SCANS
        assert "; 100 scans are decoded at most" in refused.detail


def test_a_large_picture_may_have_fewer_scans():
    large = made("JPEG", np.zeros((6000, 8000), np.uint8), progressive=True)

    assert headers.find_problem(with_scans(large, 22)) is None  # 22 x 48 million
    refused = headers.find_problem(with_scans(large, 23))
    assert refused is not None
    assert refused.reason == RejectReason.TOO_MANY_SCANS


def test_scans_cannot_hide():
    bomb = with_scans(PROGRESSIVE, 101)
    second = bomb.index(b"\xff\xc4", bomb.index(b"\xff\xda"))
    grey = made("JPEG", NOISE[..., 0])
    one_by_one = BASELINE[: BASELINE.index(b"\xff\xda")] + 101 * grey[grey.index(b"\xff\xda") : -2] + END

    # An end within a comment; scans of one colour each, which need not be progressive.
    for data in (with_segment(bomb, 0xFE, END, at=second), one_by_one):
        refused = headers.find_problem(data)
        assert refused is not None
        assert refused.reason == RejectReason.TOO_MANY_SCANS


def test_a_canvas_is_checked_in_no_time():
    canvas = made("JPEG", np.random.default_rng(0).integers(0, 256, (224, 312, 3), np.uint8))
    assert len(canvas) > 40_000

    took_s = []
    for _ in range(300):
        began = time.perf_counter()
        assert headers.find_problem(canvas) is None
        took_s.append(time.perf_counter() - began)

    assert min(took_s) < 1e-4  # 13 microseconds, where nothing else runs


def with_orientation(kind: str, value: int) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a maker, before it"
    exif[0x0112] = value
    return made(kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(("value", "asks"), [(1, False), (2, True), (6, True), (8, True)])
def test_a_picture_that_asks_to_be_turned_is_known(kind: str, value: int, asks: bool):
    assert headers.has_exif_orientation(with_orientation(kind, value)) is asks


@pytest.mark.parametrize("name", WHOLE)
def test_a_picture_that_says_nothing_of_it_asks_for_nothing(name: str):
    assert not headers.has_exif_orientation(WHOLE[name])


def test_broken_exif_asks_for_nothing_or_something_and_never_fails():
    whole = with_orientation("JPEG", 6)
    start = whole.index(b"Exif")

    for cut in range(start, start + 80):
        assert headers.has_exif_orientation(whole[:cut]) in (False, True)
    assert not headers.has_exif_orientation(whole[: start + 12])
