"""RGB frames to video files, by FFmpeg (PyAV, `hrnet-ray[video]`)."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.video.reader import get_ffmpeg_error_message, import_pyav
from hrnet_ray.errors import DataError

_CONTAINER_OPTIONS = {
    # It is playable however far it came: with a full disk, or a killed process.
    "movflags": "hybrid_fragmented",
    "frag_duration": "1000000",
}
_CODEC_OPTIONS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
_TICKS_PER_S = 60_000
"""To a second: times of all usual rates, and MPEG-4 counts no finer than 65,535."""


class VideoWriter:
    """Writes drawn frames as an MP4 that browsers play, without sound.

    What was added before an error stays: the file then is that much shorter.
    """

    def __init__(self, path: Path, *, fps: Fraction) -> None:
        self._av, self._path, self._fps = import_pyav(), path, fps
        self._partial_path = path.with_name(f".{path.name}.part")
        self._container: Any = None
        self._stream: Any = None
        self._last_pts = -1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_frame(self, time_s: float, image: np.ndarray) -> None:
        """Append RGB uint8 [H, W, 3]; the first one's size is the video's, but for an odd row.

        Raises:
            DataError: it cannot be written. The writer is closed then.
        """
        try:
            if self._container is None:
                self._container = self._open_container(*image.shape[:2])
            self._last_pts = max(self._last_pts + 1, round(time_s * _TICKS_PER_S))  # time never stands still
            self._container.mux(self._stream.encode(self._make_encoder_frame(image)))
        except (OSError, ValueError, self._av.FFmpegError) as error:
            self._save_partial_file()
            raise self._make_write_error(error) from error

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
            os.replace(self._partial_path, self._path)
        except (OSError, ValueError, self._av.FFmpegError) as error:
            self._save_partial_file()
            raise self._make_write_error(error) from error

    def _open_container(self, height: int, width: int) -> Any:
        self._partial_path.parent.mkdir(parents=True, exist_ok=True)
        where = str(self._partial_path.absolute())
        container = self._av.open(where, "w", format="mp4", options=_CONTAINER_OPTIONS)
        codec = next(name for name in _CODEC_OPTIONS if name in self._av.codecs_available)
        self._stream = container.add_stream(codec, rate=self._fps, options=_CODEC_OPTIONS[codec])
        # 4:2:0 halves the colours' rows and columns.
        self._stream.width, self._stream.height = max(2, width // 2 * 2), max(2, height // 2 * 2)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)
        return container

    def _make_encoder_frame(self, image: np.ndarray) -> Any:
        """As the encoder takes it; an odd row or column goes, another size is scaled."""
        height, width = self._stream.height, self._stream.width
        if (image.shape[0] - height, image.shape[1] - width) in ((0, 1), (1, 0), (1, 1)):
            image = image[:height, :width]
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = frame.reformat(width, height, format="yuv420p")
        frame.pts, frame.time_base = self._last_pts, Fraction(1, _TICKS_PER_S)
        return frame

    def _save_partial_file(self) -> None:
        """Keep what was written: a name costs no space."""
        container, self._container = self._container, None
        with suppress(OSError, ValueError, self._av.FFmpegError):
            if container is not None:
                container.close()
        with suppress(OSError):
            if self._partial_path.stat().st_size:
                os.replace(self._partial_path, self._path)
        with suppress(OSError):
            self._partial_path.unlink(missing_ok=True)

    def _make_write_error(self, error: Exception) -> DataError:
        return DataError(
            f"a video that cannot be written: {get_ffmpeg_error_message(error)}",
            str(self._path),
            "check the folder and its disk, or leave the drawings out: --no-draw",
        )
