"""Images and video frames that `hrnet-ray predict` reads."""

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
    """An image, or a frame of a video."""

    relative_path: Path
    """Path of the file below --input: `train/a.jpg`."""
    image: np.ndarray
    """RGB uint8 [H, W, 3]."""
    video_frame: VideoFrame | None = None
    fps: Fraction = Fraction(25)
    """Frame rate of the video, in frames per second."""

    @property
    def name(self) -> str:
        """Name in the results: `train/a.jpg`, or `clip.mp4#12` with frames counted from 0."""
        name = self.relative_path.as_posix()
        return name if self.video_frame is None else f"{name}#{self.video_frame.index}"


@dataclass
class FrameCount:
    """Counts images and video frames; as text `4 images and 300 frames`."""

    num_images: int = 0
    num_video_frames: int = 0

    def add_frame(self, input_frame: InputFrame) -> None:
        self.num_video_frames += input_frame.video_frame is not None
        self.num_images += input_frame.video_frame is None

    def __bool__(self) -> bool:
        return bool(self.num_images or self.num_video_frames)

    def __str__(self) -> str:
        images, frames = f"{self.num_images:,} images", f"{self.num_video_frames:,} frames"
        if not self.num_video_frames:
            return images
        return f"{images} and {frames}" if self.num_images else frames


@dataclass
class InputReader:
    """Iterates over all images and video frames below a folder, in the order of their names.

    Files that cannot be read are skipped, printed and listed.
    """

    root: Path
    relative_paths: Sequence[Path]
    unreadable_files: list[Path] = field(default_factory=list)
    partial_videos: list[Path] = field(default_factory=list)
    """Videos that end before their expected last frame."""
    exif_rotated_images: list[str] = field(default_factory=list)
    """Images with an EXIF orientation, which is ignored."""

    @property
    def video_paths(self) -> list[Path]:
        return [path for path in self.relative_paths if is_video(path)]

    def __iter__(self) -> Iterator[InputFrame]:
        report_progress = make_progress_line("images", print_end=False)
        total = len(self.relative_paths) - len(self.video_paths)
        done = 0
        for path in self.relative_paths:
            if is_video(path):
                yield from self._read_video_frames(path)
                continue
            yield from self._read_image(path)
            done += 1
            report_progress(done, total)

    def _read_image(self, relative_path: Path) -> Iterator[InputFrame]:
        try:
            image, is_rotated = codec.read_image_with_orientation(self.root / relative_path)
        except DataError as error:
            self._skip_file(relative_path, error)
            return
        if is_rotated:
            self.exif_rotated_images.append(relative_path.as_posix())
        yield InputFrame(relative_path, image)

    def _read_video_frames(self, relative_path: Path) -> Iterator[InputFrame]:
        read = 0
        name = escape_control_chars(relative_path.name)
        report_progress = make_progress_line(name, print_end=False)
        try:
            with VideoReader(self.root / relative_path) as video:
                for frame in video:
                    yield InputFrame(relative_path, frame.image, frame, video.fps)
                    read = frame.index + 1
                    report_progress(read, video.expected_frames)
        except DataError as error:
            self._skip_file(relative_path, error)
            return
        report_progress(read, read)
        if video.read_problem:
            (self.partial_videos if read else self.unreadable_files).append(relative_path)
            print_line(f"{escape_control_chars(relative_path.as_posix())}: {video.read_problem}")

    def _skip_file(self, relative_path: Path, error: DataError) -> None:
        self.unreadable_files.append(relative_path)
        print_line(f"skipped {escape_control_chars(relative_path.as_posix())}: {error.what}")


def is_video(path: Path) -> bool:
    """Whether the file name has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def open_inputs(path: Path, *, exclude_dir: Path | None = None) -> InputReader:
    """Open an image, a video, or all of a folder and its subfolders except `exclude_dir`.

    Raises:
        DataError: the path does not exist, or the folder has neither images nor videos.
    """
    if not path.is_dir():
        require_file(path, "--input")
        return InputReader(path.parent, [Path(path.name)])
    files: list[Path] = []
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = [name for name in subfolders if Path(folder, name).resolve() != exclude_dir]
        files += [Path(folder, name).relative_to(path) for name in names]
    suffixes = (*codec.IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    relative_paths = sorted(file for file in files if file.suffix.lower() in suffixes)
    if not relative_paths:
        raise DataError(
            "--input must contain an image or a video, got a folder without any",
            f"--input {path}",
            "give another file or folder",
        )
    return InputReader(path, relative_paths)


def batch_frames(input_frames: Iterable[InputFrame], *, max_batch_size: int) -> Iterator[list[InputFrame]]:
    """Yield batches of at most `max_batch_size` frames; large images make a batch smaller."""
    batch: list[InputFrame] = []
    for frame in input_frames:
        batch.append(frame)
        if len(batch) == max_batch_size or sum(f.image.size for f in batch) >= 3 * MAX_PIXELS:
            yield batch
            batch = []
    if batch:
        yield batch
