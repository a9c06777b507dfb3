"""Video files to RGB frames and back, by FFmpeg (PyAV, `hrnet-ray[video]`).

Frames are turned as players show them: so they are seen by whoever labels or watches them.
(Pictures are read as stored, because their labels count stored pixels.)
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hrnet_ray.data.headers import MAX_PIXELS
from hrnet_ray.errors import DataError, UsageError

VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".wmv")
_READING = {
    # A playlist that calls itself a.mp4 would open other files, and addresses.
    "format_whitelist": "mov,matroska,avi,mpeg,mpegts,asf,m4v",
    "protocol_whitelist": "file",
}
_TICKS = 90_000  # to a second: what MPEG counts in, and every usual rate divides
_QUALITY = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
FEWEST = 0.98
"""Of the frames that a file says it has; its length is often known to a frame or two only."""


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    number: int
    """From 0, in the order in which they are shown."""
    seconds: float
    picture: np.ndarray
    """RGB uint8 [H, W, 3]."""


class Video:
    """A video's frames, once, from the first one on.

    with Video(path) as video:
        for frame in video: ...
        if video.fault: ...         # why some of them did not come
    """

    def __init__(self, path: Path) -> None:
        """Raises DataError for what is no video, UsageError where PyAV is not installed."""
        self._av = _av()
        self._path = path
        try:
            self._container = self._av.open(str(path), options=_READING)
        except (self._av.FFmpegError, ValueError) as error:
            raise _unreadable(path, error.__class__.__name__) from error
        streams = self._container.streams.video
        if not streams:
            self._container.close()
            raise _unreadable(path, "no pictures in it")
        self._stream = streams[0]
        self._stream.thread_type = "AUTO"
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        """Frames a second; of a phone's, the mean."""
        self.frames_said = self._stream.frames or round(self._seconds_said() * self.rate)
        """How many there should be; 0 where the file does not tell."""
        self.fault: str | None = None

    def __enter__(self) -> "Video":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        """Every frame that can be read; `fault` says whether some could not."""
        read, damaged = 0, 0
        try:
            for found in self._container.decode(self._stream):
                if found.width * found.height > MAX_PIXELS:
                    self.fault = f"{found.width} x {found.height} pixels from frame {read:,} on"
                    return
                damaged += bool(found.is_corrupt)
                yield Frame(read, self._seconds(found, read), _shown(found))
                read += 1
        except self._av.FFmpegError as error:
            self.fault = f"{type(error).__name__} after {read:,} frames"
            return
        if read < math.floor(self.frames_said * FEWEST) - 1:
            self.fault = f"{read:,} frames could be read of about {self.frames_said:,}"
        elif damaged:
            self.fault = f"{damaged:,} of {read:,} frames are damaged"

    def _seconds_said(self) -> Fraction:
        if self._stream.duration and self._stream.time_base:
            return Fraction(self._stream.duration) * self._stream.time_base
        return Fraction(self._container.duration or 0, self._av.time_base)

    def _seconds(self, found: Any, number: int) -> float:
        return float(number / self.rate) if found.time is None else found.time


class VideoWriter:
    """Writes drawn frames as an MP4 that browsers play, without sound.

    What was added before an error stays: the file then is that much shorter.
    """

    def __init__(self, path: Path, *, rate: Fraction) -> None:
        self._av, self._path, self._rate = _av(), path, rate
        self._part = path.with_name(f".{path.name}.part")
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, seconds: float, picture: np.ndarray) -> None:
        """Append RGB uint8 [H, W, 3]; the first one's size is the video's, but for an odd row.

        Raises:
            DataError: it cannot be written.
        """
        try:
            if self._container is None:
                self._begin(*picture.shape[:2])
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(self._stream.width, self._stream.height, format="yuv420p")
            self._last = max(self._last + 1, round(seconds * _TICKS))  # time never stands still
            frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
        except (OSError, self._av.FFmpegError) as error:
            raise self._not_written(error) from error

    def close(self) -> None:
        """Give it its name.

        Raises:
            DataError: it cannot be written.
        """
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            container.mux(self._stream.encode(None))
            container.close()
            os.replace(self._part, self._path)
        except (OSError, self._av.FFmpegError) as error:
            self._part.unlink(missing_ok=True)
            raise self._not_written(error) from error

    def _begin(self, height: int, width: int) -> None:
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._container = self._av.open(str(self._part), "w", format="mp4")
        codec = next(name for name in _QUALITY if name in self._av.codecs_available)
        self._stream = self._container.add_stream(codec, rate=self._rate, options=_QUALITY[codec])
        # 4:2:0 halves the colours' rows and columns.
        self._stream.width, self._stream.height = max(2, width // 2 * 2), max(2, height // 2 * 2)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)

    def _not_written(self, error: Exception) -> DataError:
        return DataError(
            f"a video that cannot be written ({type(error).__name__})",
            str(self._path),
            "check the folder and its disk, or leave the drawings out: --no-draw",
        )


def _shown(frame: Any) -> np.ndarray:
    """The frame's pixels, turned as its file asks."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        f"a video that cannot be read: {why}",
        str(path),
        "see whether a player shows it; `ffmpeg -i IN OUT.mp4` writes it anew",
    )


def _av() -> Any:
    try:
        return import_module("av")
    except ImportError as error:
        raise UsageError(
            "videos need PyAV, which is not installed",
            str(error),
            'pip install "hrnet-ray[video]"',
        ) from error
