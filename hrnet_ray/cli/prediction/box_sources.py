"""Where poses are looked for: in the whole picture, in given boxes, or in a detector's."""

from pathlib import Path

import numpy as np

from hrnet_ray.cli.prediction.box_file import BoxFile
from hrnet_ray.cli.prediction.inputs import InputFrame
from hrnet_ray.inference.box_tracker import BoxTracker
from hrnet_ray.inference.detectors.detector import ObjectDetector
from hrnet_ray.inference.predictor import make_full_image_box
from hrnet_ray.metrics.predictions import KeypointPredictions

NO_BOXES = np.zeros((0, 5))


class BoxSource:
    """The box of the whole picture; its children know better ones."""

    is_sequential = False
    """The next shot's boxes depend on what is found in this one's."""

    def get_boxes(self, input_frame: InputFrame) -> np.ndarray:
        """Where to look: float64 [N, 5] of x, y, w, h and how sure the box is."""
        return np.append(make_full_image_box(input_frame.image), [[1.0]], axis=1)

    def has_frame_boxes(self, input_frame: InputFrame) -> bool:
        """Whether somebody gave boxes for just this frame."""
        return False

    def update(self, predictions: KeypointPredictions) -> None:
        """Learn what was found in the boxes of the last shot."""

    def format_missing_message(self, frame_summary: str) -> str:
        """What to say of shots without a box."""
        return f"there is no box on {frame_summary}"


class FileBoxSource(BoxSource):
    """Those of a file."""

    def __init__(self, box_file: BoxFile, root: Path, file_name: str) -> None:
        self._box_file, self._root, self._file_name = box_file, root, file_name

    def get_boxes(self, input_frame: InputFrame) -> np.ndarray:
        number = None if input_frame.video_frame is None else input_frame.video_frame.index
        found = self._box_file.get_boxes(self._root / input_frame.relative_path, number)
        return NO_BOXES if found is None else found

    def has_frame_boxes(self, input_frame: InputFrame) -> bool:
        own = self._box_file.frame_boxes_by_path.get(self._root / input_frame.relative_path, {})
        return input_frame.video_frame is not None and input_frame.video_frame.index in own

    def format_missing_message(self, frame_summary: str) -> str:
        return f"{frame_summary} have no boxes in {self._file_name}"


class DetectorBoxSource(BoxSource):
    """Those that a detector finds."""

    def __init__(self, detector: ObjectDetector) -> None:
        self._detector = detector

    def get_boxes(self, input_frame: InputFrame) -> np.ndarray:
        return self._detector(input_frame.image)

    def format_missing_message(self, frame_summary: str) -> str:
        return f"the detector found nothing on {frame_summary}"


class TrackedBoxSource(BoxSource):
    """Those of another kind, moving along with their poses from frame to frame of a video.

    A frame that was given boxes of its own begins anew with these.
    """

    is_sequential = True

    def __init__(self, initial_source: BoxSource) -> None:
        self._initial_source = initial_source
        self._video: Path | None = None
        self._tracker = BoxTracker(NO_BOXES)

    def get_boxes(self, input_frame: InputFrame) -> np.ndarray:
        video = input_frame.relative_path if input_frame.video_frame else None
        if (
            video is None
            or video != self._video
            or self._initial_source.has_frame_boxes(input_frame)
        ):
            self._tracker = BoxTracker(self._initial_source.get_boxes(input_frame))
        self._video = video
        return self._tracker.boxes.copy()  # `saw` moves them

    def update(self, predictions: KeypointPredictions) -> None:
        self._tracker.update_boxes(predictions)

    def format_missing_message(self, frame_summary: str) -> str:
        return self._initial_source.format_missing_message(frame_summary)
