"""Sources of the boxes of `hrnet-ray predict`: whole image, file, detector or tracker."""

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
    """One box of the whole image; subclasses return boxes of a file, a detector or a tracker."""

    is_sequential = False
    """Whether the boxes of a frame depend on the poses of the frame before."""

    def get_boxes(self, input_frame: InputFrame) -> np.ndarray:
        """Return the boxes of a frame: float64 [N, 5] of x, y, width, height and score."""
        return np.append(make_full_image_box(input_frame.image), [[1.0]], axis=1)

    def has_frame_boxes(self, input_frame: InputFrame) -> bool:
        """Whether this single frame has boxes of its own."""
        return False

    def update(self, predictions: KeypointPredictions) -> None:
        """Take in the poses of the last frame."""

    def format_missing_message(self, frame_summary: str) -> str:
        """Format the note for inputs without a box."""
        return f"no boxes for {frame_summary}"


class FileBoxSource(BoxSource):
    """Boxes of a file."""

    def __init__(self, box_file: BoxFile, root: Path, file_name: str) -> None:
        self._box_file, self._root, self._file_name = box_file, root, file_name

    def get_boxes(self, input_frame: InputFrame) -> np.ndarray:
        number = None if input_frame.video_frame is None else input_frame.video_frame.index
        boxes = self._box_file.get_boxes(self._root / input_frame.relative_path, number)
        return NO_BOXES if boxes is None else boxes

    def has_frame_boxes(self, input_frame: InputFrame) -> bool:
        path = self._root / input_frame.relative_path
        frames = self._box_file.frame_boxes_by_path.get(path, {})
        return input_frame.video_frame is not None and input_frame.video_frame.index in frames

    def format_missing_message(self, frame_summary: str) -> str:
        return f"no boxes in {self._file_name} for {frame_summary}"


class DetectorBoxSource(BoxSource):
    """Boxes that a detector finds."""

    def __init__(self, detector: ObjectDetector) -> None:
        self._detector = detector

    def get_boxes(self, input_frame: InputFrame) -> np.ndarray:
        return self._detector(input_frame.image)

    def format_missing_message(self, frame_summary: str) -> str:
        return f"the detector found no boxes in {frame_summary}"


class TrackedBoxSource(BoxSource):
    """Boxes of another source in the first frame of a video, then boxes around the last poses.

    A frame with boxes of its own restarts the tracking from them.
    """

    is_sequential = True

    def __init__(self, initial_source: BoxSource) -> None:
        self._initial_source = initial_source
        self._video: Path | None = None
        self._tracker = BoxTracker(NO_BOXES)

    def get_boxes(self, input_frame: InputFrame) -> np.ndarray:
        video = input_frame.relative_path if input_frame.video_frame else None
        if video is None or video != self._video or self._initial_source.has_frame_boxes(input_frame):
            self._tracker = BoxTracker(self._initial_source.get_boxes(input_frame))
        self._video = video
        return self._tracker.boxes.copy()  # `update` changes them in place

    def update(self, predictions: KeypointPredictions) -> None:
        self._tracker.update_boxes(predictions)

    def format_missing_message(self, frame_summary: str) -> str:
        return self._initial_source.format_missing_message(frame_summary)
