import io
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import RejectedImage, RejectReason
from hrnet_ray.errors import DataError
from tests.data.hostile import black_png, with_orientation

RED, GREEN = (255, 0, 0), (0, 255, 0)


def noise(*, size_hw: tuple[int, int] = (30, 40)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def test_a_written_png_is_read_back_pixel_by_pixel_in_rgb(tmp_path: Path):
    picture = noise()
    picture[0, :2] = RED, GREEN

    codec.write_image(tmp_path / "new folder" / "a.png", picture)

    assert (codec.read_image(tmp_path / "new folder" / "a.png") == picture).all()
    assert cv2.imread(str(tmp_path / "new folder" / "a.png"))[0, 0].tolist() == [0, 0, 255]


def test_a_red_jpeg_stays_red():
    picture = np.full((16, 24, 3), RED, np.uint8)

    decoded = codec.decode_image(codec.encode_jpeg(picture))

    assert decoded is not None
    assert decoded.shape == (16, 24, 3)
    assert np.abs(decoded.astype(int) - picture).max() <= 1


def test_the_way_a_camera_was_held_is_ignored():
    data = with_orientation(codec.encode_jpeg(noise()))

    decoded = codec.decode_image(data)

    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (40, 30, 3)
    assert decoded is not None
    assert (decoded == codec.decode_image(codec.encode_jpeg(noise()))).all()


@pytest.mark.parametrize(
    "stored",
    [
        noise()[..., :1].repeat(3, axis=2)[..., 0],
        np.dstack([noise()[..., :1].repeat(3, axis=2), noise()[..., 1]]),
        noise()[..., :1].repeat(3, axis=2).astype(np.uint16) * 257,
    ],
    ids=["grey", "with transparency", "16 bits"],
)
def test_every_kind_of_png_becomes_rgb_of_8_bits(stored: np.ndarray):
    decoded = codec.decode_image(cv2.imencode(".png", stored)[1].tobytes())

    assert decoded is not None
    assert decoded.dtype == np.uint8
    assert (decoded == noise()[..., :1].repeat(3, axis=2)).all()


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("kept", [0.4, 0.99])
def test_a_picture_that_is_cut_off_is_none(ending: str, kept: float):
    data = cv2.imencode(ending, noise())[1].tobytes()

    assert codec.decode_image(data) is not None
    assert codec.decode_image(data[: int(len(data) * kept)]) is None


def test_a_small_file_that_would_fill_the_memory_is_none():
    code = (
        "import sys, hrnet_ray.data.records, hrnet_ray.visualization.drawing\n"
        "from hrnet_ray.data.images import codec\n"
        "read = sys.stdin.buffer.read\n"
        "big, small = (codec.decode_image(read(size)) for size in (int(sys.argv[1]), -1))\n"
        "print(big is None, small is None)"
    )
    large, small = black_png(8200), black_png(100)
    assert len(large) < 50_000

    # This process has set the limit already, and a child would inherit it.
    env = {key: value for key, value in os.environ.items() if not key.startswith("OPENCV")}
    command = [sys.executable, "-c", code, str(len(large))]
    told = subprocess.run(command, input=large + small, capture_output=True, env=env)

    assert told.stdout.split() == [b"True", b"False"]


def whole() -> bytes:
    return codec.encode_jpeg(noise())


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", RejectReason.EMPTY, "0 bytes"),
        (
            b"<html><body>404",
            RejectReason.NOT_AN_IMAGE,
            "15 bytes that start b'<html><b'; JPEG, PNG, WebP, TIFF, BMP are read",
        ),
        (whole()[:10], RejectReason.TRUNCATED, "a JPEG whose header ends at 10 bytes"),
        (
            whole()[:-2],
            RejectReason.TRUNCATED,
            f"a JPEG of 40 x 30 pixels in {len(whole()) - 2:,} bytes",
        ),
        (
            whole()[:-200],
            RejectReason.TRUNCATED,
            f"a JPEG of 40 x 30 pixels in {len(whole()) - 200:,} bytes",
        ),
        (
            whole().replace(b"\xff\xdb", b"\xff\xfe"),  # its tables become comments
            RejectReason.CORRUPT,
            f"a JPEG of 40 x 30 pixels in {len(whole()):,} bytes",
        ),
        (
            black_png(8200),
            RejectReason.TOO_MANY_PIXELS,
            f"a PNG of 8,200 x 8,200 pixels in {len(black_png(8200)):,} bytes; 67,108,864 pixels are decoded at most",
        ),
    ],
    ids=["empty", "page", "10 bytes", "no end", "cut", "no tables", "large"],
)
def test_bytes_that_are_no_whole_picture_are_refused_for_a_reason(data: bytes, reason: RejectReason, detail: str):
    assert codec.decode_image(data) is None
    assert codec.explain_rejection(data) == RejectedImage(reason, detail)
    assert codec.decode_or_reject(data) == RejectedImage(reason, detail)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_not_turned_either(orientation: int):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise()).save(file, "TIFF", exif=exif)

    opened = codec.decode_or_reject(file.getvalue())

    assert isinstance(opened, np.ndarray)
    assert (opened == noise()).all()


def test_a_jpeg_for_the_press_is_opened_in_its_colours():
    red, file = np.full((16, 24, 3), RED, np.uint8), io.BytesIO()
    Image.fromarray(red).convert("CMYK").save(file, "JPEG", quality=95)

    opened = codec.decode_or_reject(file.getvalue())

    assert isinstance(opened, np.ndarray)
    assert opened.shape == red.shape
    assert np.abs(opened.astype(int) - red).max() <= 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "page.jpg").write_bytes(b"<html>")

    with pytest.raises(DataError) as missing:
        codec.read_image(tmp_path / "a.jpg")
    with pytest.raises(DataError) as folder:
        codec.read_image(tmp_path)
    with pytest.raises(DataError) as page:
        codec.read_image(tmp_path / "page.jpg")

    assert str(missing.value) == (
        f"an image that cannot be opened\n  {tmp_path}/a.jpg: No such file or directory\n  fix: check the path"
    )
    assert folder.value.where == f"{tmp_path}: Is a directory"
    assert str(page.value) == (
        "an image that cannot be read: not an image\n"
        f"  {tmp_path}/page.jpg: 6 bytes that start b'<html>'; "
        "JPEG, PNG, WebP, TIFF, BMP are read\n"
        "  fix: replace it"
    )


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()

    for path in (tmp_path / "a.jpgg", tmp_path / "file" / "a.jpg"):
        with pytest.raises(DataError, match="an image that cannot be written") as refused:
            codec.write_image(path, noise())
        assert refused.value.where == str(path)


def test_a_name_that_is_no_utf8_is_a_name_too(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")

    codec.write_image(path, noise())

    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9.png"]
    assert (codec.read_image(path) == noise()).all()
    with pytest.raises(DataError, match="an image that cannot be written"):
        codec.write_image(tmp_path / os.fsdecode(b"a.jp\xe9"), noise())


def test_half_a_picture_does_not_stay_where_the_whole_has_no_room(tmp_path: Path):
    code = (
        "import resource, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from hrnet_ray.data.images import codec\n"
        "from hrnet_ray.errors import DataError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: codec.write_image(Path(sys.argv[1]), np.zeros((40, 60, 3), np.uint8))\n"
        "except DataError as error: print(error.what)\n"
    )

    command = [sys.executable, "-c", code, str(tmp_path / "a.bmp")]
    told = subprocess.run(command, capture_output=True, text=True)

    assert told.stdout == "an image that cannot be written\n"
    assert list(tmp_path.iterdir()) == []


def test_a_smaller_picture_is_the_mean_of_what_it_covers_and_its_matrix_says_where():
    picture = noise(size_hw=(4, 6))

    smaller, into = codec.resize_image(picture, size_hw=(2, 2))

    means = picture.reshape(2, 2, 2, 3, 3).mean(axis=(1, 3))
    assert np.abs(smaller - means).max() <= 0.5
    # Columns 0-2 become column 0, so column 1 is its middle; rows 0 and 1 become row 0.
    assert (into @ [1, 0.5, 1]).tolist() == pytest.approx([0, 0, 1], abs=1e-15)
    assert (into @ [4, 2.5, 1]).tolist() == pytest.approx([1, 1, 1])


def test_a_fingerprint_is_sha256():
    assert codec.hash_bytes(b"abc").startswith("ba7816bf8f01cfea")
