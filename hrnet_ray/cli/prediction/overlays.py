"""Images and videos with the poses of `hrnet-ray predict` drawn on them."""

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
    """Writes overlays into a folder, at the relative paths of their inputs."""

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
        """Draw the poses and write the image or frame. An image without poses gets no overlay.

        Raises:
            DataError: the file cannot be written.
        """
        if input_frame.relative_path != self._video:
            self._close_video()
        path = self._out / self._overlay_names[input_frame.relative_path]
        if input_frame.video_frame is None:
            if len(predictions.ids):
                codec.write_image(path, draw_overlay(input_frame.image, predictions, self._skeleton))
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
        """Finish the video, which moves it to its final path."""
        writer, self._video, self._writer = self._writer, None, None
        if writer:
            writer.close()


def draw_overlay(image: np.ndarray, predictions: KeypointPredictions, skeleton: Skeleton) -> np.ndarray:
    """Return a copy of the image with all poses drawn on it."""
    thickness = max(1, round(max(image.shape[:2]) / 320))
    for xy, scores in zip(predictions.image_xy.numpy(), predictions.scores.numpy(), strict=True):
        image = draw_pose(image, xy, scores > KEYPOINT_SCORE_THRESHOLD, skeleton, thickness=thickness)
    return image


def assign_overlay_names(relative_paths: Sequence[Path]) -> Mapping[Path, Path]:
    """Map `a.png` to `a.jpg`, or to `a.png.jpg` if an `a.jpg` exists too; videos likewise."""
    videos = [path for path in relative_paths if is_video(path)]
    images = [path for path in relative_paths if not is_video(path)]
    return {**_assign_names(images, IMAGE_SUFFIX), **_assign_names(videos, VIDEO_SUFFIX)}


def check_output_dir(out: Path, root: Path, relative_paths: Sequence[Path]) -> None:
    """Raise if an overlay would be written into a folder of the inputs.

    Raises:
        UsageError: such a folder exists.
    """
    folders = {path.parent for path in relative_paths}
    if {(root / at).resolve() for at in folders} & {(out / at).resolve() for at in folders}:
        raise UsageError(
            "--out must not contain the inputs: overlays would overwrite them",
            f"--out {out}",
            "give another folder",
        )


def _assign_names(relative_paths: Sequence[Path], suffix: str) -> Mapping[Path, Path]:
    uses = Counter(name for path in relative_paths for name in (path, path.with_suffix("")))
    return {
        path: Path(f"{path.with_suffix('') if uses[path.with_suffix('')] == 1 else path}{suffix}")
        for path in relative_paths
    }
