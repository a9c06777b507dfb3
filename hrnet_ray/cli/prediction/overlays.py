"""The poses that `hrnet-ray predict` found, drawn: a picture for a picture, a video for a video."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hrnet_ray.cli.prediction.inputs import InputFrame, is_video
from hrnet_ray.data.images import codec
from hrnet_ray.data.video.writer import VideoWriter
from hrnet_ray.errors import UsageError
from hrnet_ray.metrics.predictions import KEYPOINT_SCORE_THRESHOLD, KeypointPredictions
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.visualization.drawing import draw_pose

IMAGE_SUFFIX, VIDEO_SUFFIX = ".jpg", ".mp4"


class OverlayWriter:
    """Lie in a folder as what they were drawn on lies in its own."""

    def __init__(self, out: Path, relative_paths: Sequence[Path], skeleton: Skeleton) -> None:
        self._out, self._skeleton = out, skeleton
        self._overlay_names = assign_overlay_names(relative_paths)
        self._video: Path | None = None
        self._writer: VideoWriter | None = None

    def __enter__(self) -> "OverlayWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._close_video()

    def add_frame(self, input_frame: InputFrame, predictions: KeypointPredictions) -> None:
        """Draw the poses; a picture without any has no drawing, a frame is in its video anyway.

        Raises:
            DataError: it cannot be written.
        """
        if input_frame.relative_path != self._video:
            self._close_video()
        path = self._out / self._overlay_names[input_frame.relative_path]
        if input_frame.video_frame is None:
            if len(predictions.ids):
                codec.write_image(
                    path, draw_overlay(input_frame.image, predictions, self._skeleton)
                )
            return
        if self._writer is None:
            self._video, self._writer = (
                input_frame.relative_path,
                VideoWriter(path, fps=input_frame.fps),
            )
        self._writer.add_frame(
            input_frame.video_frame.time_s,
            draw_overlay(input_frame.image, predictions, self._skeleton),
        )

    def _close_video(self) -> None:
        """Give the video its name."""
        writer, self._video, self._writer = self._writer, None, None
        if writer:
            writer.close()


def draw_overlay(
    image: np.ndarray, predictions: KeypointPredictions, skeleton: Skeleton
) -> np.ndarray:
    """A copy of the picture with all poses on it."""
    thickness = max(1, round(max(image.shape[:2]) / 320))
    for xy, scores in zip(predictions.image_xy.numpy(), predictions.scores.numpy(), strict=True):
        image = draw_pose(
            image, xy, scores > KEYPOINT_SCORE_THRESHOLD, skeleton, thickness=thickness
        )
    return image


def assign_overlay_names(relative_paths: Sequence[Path]) -> Mapping[Path, Path]:
    """`a.jpg` for `a.png`, or `a.png.jpg` where there is an `a.jpg` as well; videos likewise."""
    moving = [name for name in relative_paths if is_video(name)]
    still = [name for name in relative_paths if not is_video(name)]
    return {**_assign_names(still, IMAGE_SUFFIX), **_assign_names(moving, VIDEO_SUFFIX)}


def check_output_dir(out: Path, root: Path, relative_paths: Sequence[Path]) -> None:
    """Refuse a folder that has some of the pictures.

    Raises:
        UsageError: it does.
    """
    folders = {name.parent for name in relative_paths}
    if {(root / at).resolve() for at in folders} & {(out / at).resolve() for at in folders}:
        raise UsageError(
            "the drawings would be written over the pictures",
            f"--out {out}",
            "give another folder",
        )


def _assign_names(relative_paths: Sequence[Path], suffix: str) -> Mapping[Path, Path]:
    wanted = Counter(form for name in relative_paths for form in (name, name.with_suffix("")))
    return {
        name: Path(f"{name.with_suffix('') if wanted[name.with_suffix('')] == 1 else name}{suffix}")
        for name in relative_paths
    }
