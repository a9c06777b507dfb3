"""The pictures, and the frames of videos, that `hrnet-ray predict` looks at."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import require_file
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.headers import MAX_PIXELS
from hrnet_ray.data.video.reader import VIDEO_SUFFIXES, VideoFrame, VideoReader
from hrnet_ray.errors import DataError
from hrnet_ray.runs.progress import make_progress_line, print_line
from hrnet_ray.text import escape_control_chars


@dataclass(frozen=True)
class InputFrame:
    """A picture, or a frame of a video."""

    relative_path: Path
    """Named from --input on: `train/a.jpg`."""
    image: np.ndarray
    """RGB uint8 [H, W, 3]."""
    video_frame: VideoFrame | None = None
    fps: Fraction = Fraction(25)
    """Of its video: frames a second."""

    @property
    def name(self) -> str:
        """`train/a.jpg`, or `clip.mp4#12`: frames are counted from 0."""
        name = self.relative_path.as_posix()
        return name if self.video_frame is None else f"{name}#{self.video_frame.index}"


@dataclass
class FrameCount:
    """Of pictures and of frames; `4 pictures and 300 frames`."""

    num_images: int = 0
    num_video_frames: int = 0

    def add_frame(self, input_frame: InputFrame) -> None:
        self.num_video_frames += input_frame.video_frame is not None
        self.num_images += input_frame.video_frame is None

    def __bool__(self) -> bool:
        return bool(self.num_images or self.num_video_frames)

    def __str__(self) -> str:
        still, moving = f"{self.num_images:,} pictures", f"{self.num_video_frames:,} frames"
        if not self.num_video_frames:
            return still
        return f"{still} and {moving}" if self.num_images else moving


@dataclass
class InputReader:
    """All that can be read below a folder, in the order of names; and what could not be."""

    root: Path
    relative_paths: Sequence[Path]
    unreadable_files: list[Path] = field(default_factory=list)
    partial_videos: list[Path] = field(default_factory=list)
    """Videos of which only a part could be read."""
    exif_rotated_images: list[str] = field(default_factory=list)
    """Pictures that ask to be shown turned."""

    @property
    def video_paths(self) -> list[Path]:
        return [name for name in self.relative_paths if is_video(name)]

    def __iter__(self) -> Iterator[InputFrame]:
        count, total = (
            make_progress_line("pictures", print_end=False),
            len(self.relative_paths) - len(self.video_paths),
        )
        done = 0
        for name in self.relative_paths:
            if is_video(name):
                yield from self._read_video_frames(name)
                continue
            yield from self._read_image(name)
            done += 1
            count(done, total)

    def _read_image(self, relative_path: Path) -> Iterator[InputFrame]:
        try:
            picture, turned = codec.read_image_with_orientation(self.root / relative_path)
        except DataError as error:
            self._skip_file(relative_path, error)
            return
        if turned:
            self.exif_rotated_images.append(relative_path.as_posix())
        yield InputFrame(relative_path, picture)

    def _read_video_frames(self, relative_path: Path) -> Iterator[InputFrame]:
        read, count = (
            0,
            make_progress_line(escape_control_chars(relative_path.name), print_end=False),
        )
        try:
            with VideoReader(self.root / relative_path) as video:
                for frame in video:
                    yield InputFrame(relative_path, frame.image, frame, video.fps)
                    read = frame.index + 1
                    count(read, video.expected_frames)
        except DataError as error:
            self._skip_file(relative_path, error)
            return
        count(read, read)
        if video.read_problem:
            (self.partial_videos if read else self.unreadable_files).append(relative_path)
            print_line(f"{escape_control_chars(relative_path.as_posix())}: {video.read_problem}")

    def _skip_file(self, relative_path: Path, error: DataError) -> None:
        self.unreadable_files.append(relative_path)
        print_line(f"skipped {escape_control_chars(relative_path.as_posix())}: {error.what}")


def is_video(path: Path) -> bool:
    """By its ending."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def open_inputs(path: Path, *, exclude_dir: Path | None = None) -> InputReader:
    """A picture, a video, or those in a folder and below it; what lies in `besides` is left out.

    Raises:
        DataError: there are none.
    """
    if not path.is_dir():
        require_file(path, "--input")
        return InputReader(path.parent, [Path(path.name)])
    found: list[Path] = []
    for folder, below, files in os.walk(path):
        below[:] = [name for name in below if Path(folder, name).resolve() != exclude_dir]
        found += [Path(folder, name).relative_to(path) for name in files]
    endings = (*codec.IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    names = sorted(name for name in found if name.suffix.lower() in endings)
    if not names:
        raise DataError("a folder without pictures", f"--input {path}", "give another one")
    return InputReader(path, names)


def batch_frames(
    input_frames: Iterable[InputFrame], *, max_batch_size: int
) -> Iterator[list[InputFrame]]:
    """Up to `most` at once, or fewer large ones."""
    some: list[InputFrame] = []
    for shot in input_frames:
        some.append(shot)
        if len(some) == max_batch_size or sum(one.image.size for one in some) >= 3 * MAX_PIXELS:
            yield some
            some = []
    if some:
        yield some
