"""The pictures, and the frames of videos, that `hrnet-ray predict` looks at."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import check_file
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.headers import MAX_PIXELS
from hrnet_ray.data.video.reader import VIDEO_ENDINGS, Frame, Video
from hrnet_ray.errors import DataError
from hrnet_ray.runs.progress import counter, say
from hrnet_ray.text import printable


@dataclass(frozen=True)
class Shot:
    """A picture, or a frame of a video."""

    file: Path
    """Named from --pictures on: `train/a.jpg`."""
    picture: np.ndarray
    """RGB uint8 [H, W, 3]."""
    frame: Frame | None = None
    rate: Fraction = Fraction(25)
    """Of its video: frames a second."""

    @property
    def name(self) -> str:
        """`train/a.jpg`, or `clip.mp4#12`: frames are counted from 0."""
        name = self.file.as_posix()
        return name if self.frame is None else f"{name}#{self.frame.number}"


@dataclass
class Count:
    """Of pictures and of frames; `4 pictures and 300 frames`."""

    pictures: int = 0
    frames: int = 0

    def add(self, shot: Shot) -> None:
        self.frames += shot.frame is not None
        self.pictures += shot.frame is None

    def __bool__(self) -> bool:
        return bool(self.pictures or self.frames)

    def __str__(self) -> str:
        still, moving = f"{self.pictures:,} pictures", f"{self.frames:,} frames"
        if not self.frames:
            return still
        return f"{still} and {moving}" if self.pictures else moving


@dataclass
class Shots:
    """All that can be read below a folder, in the order of names; and what could not be."""

    root: Path
    names: Sequence[Path]
    unread: list[Path] = field(default_factory=list)
    in_part: list[Path] = field(default_factory=list)
    """Videos of which only a part could be read."""
    turned: list[str] = field(default_factory=list)
    """Pictures that ask to be shown turned."""

    @property
    def videos(self) -> list[Path]:
        return [name for name in self.names if is_video(name)]

    def __iter__(self) -> Iterator[Shot]:
        count, total = counter("pictures", ends=False), len(self.names) - len(self.videos)
        done = 0
        for name in self.names:
            if is_video(name):
                yield from self._video(name)
                continue
            yield from self._picture(name)
            done += 1
            count(done, total)

    def _picture(self, name: Path) -> Iterator[Shot]:
        try:
            picture, turned = codec.read_and_ask(self.root / name)
        except DataError as error:
            self._skip(name, error)
            return
        if turned:
            self.turned.append(name.as_posix())
        yield Shot(name, picture)

    def _video(self, name: Path) -> Iterator[Shot]:
        read, count = 0, counter(printable(name.name), ends=False)
        try:
            with Video(self.root / name) as video:
                for frame in video:
                    yield Shot(name, frame.picture, frame, video.rate)
                    read = frame.number + 1
                    count(read, video.frames_said)
        except DataError as error:
            self._skip(name, error)
            return
        count(read, read)
        if video.fault:
            (self.in_part if read else self.unread).append(name)
            say(f"{printable(name.as_posix())}: {video.fault}")

    def _skip(self, name: Path, error: DataError) -> None:
        self.unread.append(name)
        say(f"skipped {printable(name.as_posix())}: {error.what}")


def is_video(name: Path) -> bool:
    """By its ending."""
    return name.suffix.lower() in VIDEO_ENDINGS


def shots_of(path: Path, *, besides: Path | None = None) -> Shots:
    """A picture, a video, or those in a folder and below it; what lies in `besides` is left out.

    Raises:
        DataError: there are none.
    """
    if not path.is_dir():
        check_file(path, "--pictures")
        return Shots(path.parent, [Path(path.name)])
    found: list[Path] = []
    for folder, below, files in os.walk(path):
        below[:] = [name for name in below if Path(folder, name).resolve() != besides]
        found += [Path(folder, name).relative_to(path) for name in files]
    endings = (*codec.PICTURE_ENDINGS, *VIDEO_ENDINGS)
    names = sorted(name for name in found if name.suffix.lower() in endings)
    if not names:
        raise DataError("a folder without pictures", f"--pictures {path}", "give another one")
    return Shots(path, names)


def together(shots: Iterable[Shot], *, most: int) -> Iterator[list[Shot]]:
    """Up to `most` at once, or fewer large ones."""
    some: list[Shot] = []
    for shot in shots:
        some.append(shot)
        if len(some) == most or sum(one.picture.size for one in some) >= 3 * MAX_PIXELS:
            yield some
            some = []
    if some:
        yield some
