"""RGB frames to video files, by FFmpeg (PyAV, `hrnet-ray[video]`)."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.video.reader import pyav, reason_of
from hrnet_ray.errors import DataError

_WRITING = {
    # It is playable however far it came: with a full disk, or a killed process.
    "movflags": "hybrid_fragmented",
    "frag_duration": "1000000",
}
_QUALITY = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
_TICKS = 60_000
"""To a second: times of all usual rates, and MPEG-4 counts no finer than 65,535."""


class VideoWriter:
    """Writes drawn frames as an MP4 that browsers play, without sound.

    What was added before an error stays: the file then is that much shorter.
    """

    def __init__(self, path: Path, *, rate: Fraction) -> None:
        self._av, self._path, self._rate = pyav(), path, rate
        self._part = path.with_name(f".{path.name}.part")
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, seconds: float, picture: np.ndarray) -> None:
        """Append RGB uint8 [H, W, 3]; the first one's size is the video's, but for an odd row.

        Raises:
            DataError: it cannot be written. The writer is closed then.
        """
        try:
            if self._container is None:
                self._container = self._begun(*picture.shape[:2])
            self._last = max(self._last + 1, round(seconds * _TICKS))  # time never stands still
            self._container.mux(self._stream.encode(self._frame(picture)))
        except (OSError, ValueError, self._av.FFmpegError) as error:
            self._give_up()
            raise self._not_written(error) from error

    def close(self) -> None:
        """Give it its name.

        Raises:
            DataError: it cannot be written.
        """
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode(None))
            container, self._container = self._container, None
            container.close()
            os.replace(self._part, self._path)
        except (OSError, ValueError, self._av.FFmpegError) as error:
            self._give_up()
            raise self._not_written(error) from error

    def _begun(self, height: int, width: int) -> Any:
        self._part.parent.mkdir(parents=True, exist_ok=True)
        where = str(self._part.absolute())
        container = self._av.open(where, "w", format="mp4", options=_WRITING)
        codec = next(name for name in _QUALITY if name in self._av.codecs_available)
        self._stream = container.add_stream(codec, rate=self._rate, options=_QUALITY[codec])
        # 4:2:0 halves the colours' rows and columns.
        self._stream.width, self._stream.height = max(2, width // 2 * 2), max(2, height // 2 * 2)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        return container

    def _frame(self, picture: np.ndarray) -> Any:
        """As the encoder takes it; an odd row or column goes, another size is scaled."""
        height, width = self._stream.height, self._stream.width
        if (picture.shape[0] - height, picture.shape[1] - width) in ((0, 1), (1, 0), (1, 1)):
            picture = picture[:height, :width]
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(width, height, format="yuv420p")
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        return frame

    def _give_up(self) -> None:
        """Keep what was written: a name costs no space."""
        container, self._container = self._container, None
        with suppress(OSError, ValueError, self._av.FFmpegError):
            if container is not None:
                container.close()
        with suppress(OSError):
            if self._part.stat().st_size:
                os.replace(self._part, self._path)
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _not_written(self, error: Exception) -> DataError:
        return DataError(
            f"a video that cannot be written: {reason_of(error)}",
            str(self._path),
            "check the folder and its disk, or leave the drawings out: --no-draw",
        )
