"""Video files to RGB frames, by FFmpeg (PyAV, `hrnet-ray[video]`).

Frames are rotated as players show them: people label and watch them in that orientation.
(Images are read as stored, because their labels count stored pixels.)
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.images.headers import MAX_PIXELS
from hrnet_ray.errors import DataError, UsageError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".wmv")
MIN_READ_FRACTION = 0.95
"""Tolerance on the stated duration, in seconds; the sound may be a little longer."""
_DEMUXER_OPTIONS = {
    # A playlist that calls itself a.mp4 would open other files, and addresses.
    "format_whitelist": "mov,matroska,avi,mpeg,mpegts,asf,m4v",
    "protocol_whitelist": "file",
}
_DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
_MIN_FPS, _MAX_FPS = 1, 240
_DURATION_PATTERN = re.compile(r"(\d+):(\d\d):(\d\d\.\d+)")


@dataclass(frozen=True)
class VideoFrame:
    """One image of a video."""

    index: int
    """From 0, in the order in which they are shown; what cannot be read is not counted."""
    time_s: float
    """From the beginning of the video."""
    image: np.ndarray
    """RGB uint8 [H, W, 3]."""


class VideoReader:
    """A video's frames, once, from the first one on.

    with Video(path) as video:
        for frame in video: ...
        if video.fault: ...         # why some of them did not come
    """

    fps: Fraction
    """Frames a second; where they come unevenly, the mean."""
    expected_frames: int
    """Approximate number of frames; 0 where the file does not state it."""
    read_problem: str | None

    def __init__(self, path: Path) -> None:
        """Raises DataError for what is no video, UsageError where PyAV is not installed."""
        self._av = import_pyav()
        try:  # absolute: `http:a.mp4` is a file's name
            self._container = self._av.open(str(path.absolute()), options=_DEMUXER_OPTIONS)
        except (self._av.FFmpegError, ValueError) as error:
            raise _make_unreadable_error(path, get_ffmpeg_error_message(error)) from error
        try:
            self._stream = self._select_video_stream(path)
        except DataError:
            self._container.close()
            raise
        rate = self._stream.average_rate or self._stream.guessed_rate or 25
        self.fps = Fraction(min(_MAX_FPS, max(_MIN_FPS, rate)))
        self._start_time_s = Fraction(self._container.start_time or 0, self._av.time_base)
        self._duration_s = self._get_duration_s()
        self.expected_frames = max(0, self._stream.frames or round(self._duration_s * self.fps))
        self.read_problem = None

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        """Iterate over every readable frame; `read_problem` reports whether some could not be read."""
        read, last, damaged = 0, 0.0, 0
        try:
            for packet in self._container.demux(self._stream):
                decoded = self._decode_packet(packet)
                damaged += decoded is None
                for found in decoded or ():
                    damaged += bool(found.is_corrupt)
                    last = self._get_frame_time_s(found, read)
                    yield VideoFrame(read, last, _convert_to_upright_rgb(found))
                    read += 1
        except self._av.FFmpegError:  # end of the file, or unreadable data: see `read_problem`
            damaged += 1
        self.read_problem = self._describe_read_problem(read, last, damaged)

    def _select_video_stream(self, path: Path) -> Any:
        """The stream that players show.

        Raises:
            DataError: there is none, it has too many pixels, or nothing here decodes it.
        """
        stream = self._container.streams.best("video")
        if stream is None:
            raise _make_unreadable_error(path, "no images in it")
        if stream.codec_context is None:
            raise _make_unreadable_error(path, "no decoder for its images")
        if stream.width * stream.height > MAX_PIXELS:
            size = f"{stream.width:,} x {stream.height:,}"
            raise _make_unreadable_error(path, f"{size} pixels; {MAX_PIXELS:,} are decoded at most")
        stream.codec_context.options = _DECODER_OPTIONS  # the size can change on the way
        stream.thread_type = "AUTO"
        return stream

    def _decode_packet(self, packet: Any) -> list[Any] | None:
        """Its frames; None where it is damaged, which the next one need not be."""
        try:
            return packet.decode()
        except self._av.FFmpegError:
            return None

    def _describe_read_problem(self, num_read: int, last_time_s: float, num_damaged: int) -> str | None:
        # By time: some files count frames that were dropped while they were made.
        if not num_read or last_time_s < MIN_READ_FRACTION * float(self._duration_s) - 2 / self.fps:
            about = f" of about {self.expected_frames:,}" if self.expected_frames > num_read else ""
            return f"{num_read:,} frames could be read{about}"
        return f"{num_damaged:,} of {num_read:,} frames are damaged or missing" if num_damaged else None

    def _get_duration_s(self) -> Fraction:
        """Duration of the video stream in seconds; 0 where the file does not state it."""
        stream, of_stream = (
            self._stream,
            _DURATION_PATTERN.match(self._stream.metadata.get("DURATION", "")),
        )
        if stream.duration and stream.time_base:
            return Fraction(stream.duration) * stream.time_base
        if of_stream:  # Matroska's; the whole file's has the sound's
            hours, minutes, seconds = of_stream.groups()
            return Fraction(seconds) + 60 * int(minutes) + 3600 * int(hours)
        return Fraction(self._container.duration or 0, self._av.time_base)

    def _get_frame_time_s(self, frame: Any, index: int) -> float:
        if frame.pts is None or frame.time_base is None:
            return float(index / self.fps)
        return max(0.0, float(frame.pts * frame.time_base - self._start_time_s))


def import_pyav() -> Any:
    """The package that reads and writes videos.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module("av")
    except ImportError as error:
        raise UsageError(
            "videos need PyAV, which cannot be imported",
            str(error),
            'pip install "hrnet-ray[video]", or leave the videos out',
        ) from error


def _convert_to_upright_rgb(frame: Any) -> np.ndarray:
    """The frame's pixels, turned and mirrored as its file asks."""
    pixels, turns = frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)
    if _is_mirrored(frame):
        pixels, turns = pixels[:, ::-1], turns + 2
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _is_mirrored(frame: Any) -> bool:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    (a, b), (c, d) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].tolist()
    return a * d < b * c


def get_ffmpeg_error_message(error: BaseException) -> str:
    """FFmpeg's or the system's word for what went wrong."""
    return getattr(error, "strerror", None) or type(error).__name__


def _make_unreadable_error(path: Path, reason: str) -> DataError:
    return DataError(
        f"a video that cannot be read: {reason}",
        str(path),
        "see whether a player shows it; `ffmpeg -i IN OUT.mp4` writes it anew",
    )
