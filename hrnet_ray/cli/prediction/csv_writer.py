"""The poses of a video as a table: a row for each pose of each frame."""

import csv
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import ensure_dir
from hrnet_ray.data.storage import make_storage_error
from hrnet_ray.data.video.reader import VideoFrame
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.text import escape_csv_cell

FRAME_COLUMNS = ("frame", "seconds", "pose", "score", "box_x", "box_y", "box_w", "box_h")
"""Before those of each keypoint."""
KEYPOINT_COLUMNS = ("x", "y", "score")


class VideoCsvWriter:
    """A CSV file that grows with the video: what was found stays, however that ends."""

    def __init__(self, path: Path, skeleton: Skeleton) -> None:
        """Raises DataError or ClusterError where the file cannot be written."""
        self.path = path
        ensure_dir(path.parent, "--out")
        try:
            self._file = path.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise make_storage_error(str(path), error) from error
        self._csv_writer = csv.writer(self._file)
        of_keypoints = [
            f"{name}_{what}" for name in skeleton.keypoints for what in KEYPOINT_COLUMNS
        ]
        self._write_row([*FRAME_COLUMNS, *map(escape_csv_cell, of_keypoints)])

    def add_frame(
        self, frame: VideoFrame, boxes: np.ndarray, points: np.ndarray, scores: np.ndarray
    ) -> None:
        """Write the poses of a frame: boxes [N, 5], points [N, K, 3], and how sure each is [N].

        Raises:
            ClusterError: the disk is full.
        """
        when = [frame.index, round(frame.time_s, 6)]
        for at, score in enumerate(scores.tolist()):
            box, keypoints = boxes[at, :4].tolist(), points[at].ravel().tolist()
            numbers = [round(number, 3) for number in (*box, *keypoints)]
            self._write_row([*when, at, round(score, 4), *numbers])

    def close(self) -> None:
        """Nothing follows.

        Raises:
            ClusterError: the disk is full.
        """
        try:
            self._file.close()
        except OSError as error:
            raise make_storage_error(str(self.path), error) from error

    def _write_row(self, cells: list[object]) -> None:
        try:
            self._csv_writer.writerow(cells)
        except OSError as error:
            raise make_storage_error(str(self.path), error) from error
