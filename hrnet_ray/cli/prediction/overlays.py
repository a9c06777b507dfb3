"""The poses that `hrnet-ray predict` found, drawn: a picture for a picture, a video for a video."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hrnet_ray.cli.prediction.inputs import Shot, is_video
from hrnet_ray.data.images import codec
from hrnet_ray.data.video.writer import VideoWriter
from hrnet_ray.errors import UsageError
from hrnet_ray.metrics.predictions import CONFIDENT, Predictions
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.visualization.drawing import draw_pose

PICTURE, VIDEO = ".jpg", ".mp4"


class Drawings:
    """Lie in a folder as what they were drawn on lies in its own."""

    def __init__(self, out: Path, names: Sequence[Path], skeleton: Skeleton) -> None:
        self._out, self._skeleton = out, skeleton
        self._names = drawing_names(names)
        self._video: Path | None = None
        self._writer: VideoWriter | None = None

    def __enter__(self) -> "Drawings":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def add(self, shot: Shot, found: Predictions) -> None:
        """Draw the poses; a picture without any has no drawing, a frame is in its video anyway.

        Raises:
            DataError: it cannot be written.
        """
        if shot.file != self._video:
            self._end()
        path = self._out / self._names[shot.file]
        if shot.frame is None:
            if len(found.ids):
                codec.write(path, drawn(shot.picture, found, self._skeleton))
            return
        if self._writer is None:
            self._video, self._writer = shot.file, VideoWriter(path, rate=shot.rate)
        self._writer.add(shot.frame.seconds, drawn(shot.picture, found, self._skeleton))

    def _end(self) -> None:
        """Give the video its name."""
        writer, self._video, self._writer = self._writer, None, None
        if writer:
            writer.close()


def drawn(picture: np.ndarray, found: Predictions, skeleton: Skeleton) -> np.ndarray:
    """A copy of the picture with all poses on it."""
    thickness = max(1, round(max(picture.shape[:2]) / 320))
    for xy, scores in zip(found.image_xy.numpy(), found.scores.numpy(), strict=True):
        picture = draw_pose(picture, xy, scores > CONFIDENT, skeleton, thickness=thickness)
    return picture


def drawing_names(names: Sequence[Path]) -> Mapping[Path, Path]:
    """`a.jpg` for `a.png`, or `a.png.jpg` where there is an `a.jpg` as well; videos likewise."""
    moving = [name for name in names if is_video(name)]
    still = [name for name in names if not is_video(name)]
    return {**_names(still, PICTURE), **_names(moving, VIDEO)}


def check_out(out: Path, root: Path, names: Sequence[Path]) -> None:
    """Refuse a folder that has some of the pictures.

    Raises:
        UsageError: it does.
    """
    folders = {name.parent for name in names}
    if {(root / at).resolve() for at in folders} & {(out / at).resolve() for at in folders}:
        raise UsageError(
            "the drawings would be written over the pictures",
            f"--out {out}",
            "give another folder",
        )


def _names(names: Sequence[Path], ending: str) -> Mapping[Path, Path]:
    wanted = Counter(form for name in names for form in (name, name.with_suffix("")))
    return {
        name: Path(f"{name.with_suffix('') if wanted[name.with_suffix('')] == 1 else name}{ending}")
        for name in names
    }
