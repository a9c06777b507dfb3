"""Small videos for the tests: a white bar that moves two pixels a frame, a red corner, and grain.

The grain makes frames as large as real ones, beside what else is in a file.
"""

import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HW = (48, 64)


def moving(count: int, hw: tuple[int, int] = HW) -> Iterator[np.ndarray]:
    """The frames: the bar of frame n covers the columns from 2 n to 2 n + 3."""
    for number in range(count):
        picture = np.full((*hw, 3), 20, np.uint8)
        picture[: hw[0] // 4, : hw[1] // 4] = (220, 20, 20)
        grain = np.random.default_rng(number).integers(20, 90, (hw[0] // 2 - 8, hw[1] // 4, 3))
        picture[: hw[0] // 2 - 8, hw[1] // 2 : hw[1] // 2 + hw[1] // 4] = grain
        picture[hw[0] // 2 :, 2 * number : 2 * number + 4] = 250
        yield picture


def place_of(picture: np.ndarray) -> int:
    """The number of the frame that its bar tells."""
    below = picture[picture.shape[0] // 2 + 2 :].mean(axis=(0, 2))
    return round(float(np.average(np.arange(len(below)), weights=below.clip(60) - 60) - 1.5) / 2)


def clip(
    path: Path,
    *,
    frames: int = 24,
    hw: tuple[int, int] = HW,
    codec: str = "mpeg4",
    times: Sequence[float] | None = None,
) -> Path:
    """Write a video of 25 frames a second, or with each frame at its time."""
    with av.open(str(path), "w") as file:
        finer = {"qmax": "4"} if codec == "mpeg4" else {}
        stream = file.add_stream(codec, rate=25, options={"g": "6", **finer})
        stream.width, stream.height, stream.pix_fmt = hw[1], hw[0], "yuv420p"
        per_second = 1000 if times else 25
        stream.codec_context.time_base = Fraction(1, per_second)
        for number, picture in enumerate(moving(frames, hw)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            seconds = times[number] if times else number / 25
            frame.pts, frame.time_base = round(seconds * per_second), Fraction(1, per_second)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def sound(path: Path) -> Path:
    """Write a file that has nothing to see."""
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def turned(path: Path, abcd: tuple[int, int, int, int]) -> Path:
    """Write into an MP4 how it is to be shown: (x, y) of a frame at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in abcd)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut_off(path: Path, share: float = 0.5) -> Path:
    """Leave only the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def holed(path: Path, share: float = 0.6, size: int = 400) -> Path:
    """Put zeros into the middle of a file."""
    data = bytearray(path.read_bytes())
    at = int(len(data) * share)
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    return path
