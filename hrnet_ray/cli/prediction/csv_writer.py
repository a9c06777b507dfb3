"""The poses of a video as a table: a row for each pose of each frame."""

import csv
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import make_folder
from hrnet_ray.data.storage import storage_error
from hrnet_ray.data.video.reader import Frame
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.text import cell

COLUMNS = ("frame", "seconds", "pose", "score", "box_x", "box_y", "box_w", "box_h")
"""Before those of each keypoint."""
OF_KEYPOINT = ("x", "y", "score")


class Table:
    """A CSV file that grows with the video: what was found stays, however that ends."""

    def __init__(self, path: Path, skeleton: Skeleton) -> None:
        """Raises DataError or ClusterError where the file cannot be written."""
        self.path = path
        make_folder(path.parent, "--out")
        try:
            self._file = path.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise storage_error(str(path), error) from error
        self._rows = csv.writer(self._file)
        of_keypoints = [f"{name}_{what}" for name in skeleton.keypoints for what in OF_KEYPOINT]
        self._write([*COLUMNS, *map(cell, of_keypoints)])

    def add(self, frame: Frame, boxes: np.ndarray, points: np.ndarray, scores: np.ndarray) -> None:
        """Write the poses of a frame: boxes [N, 5], points [N, K, 3], and how sure each is [N].

        Raises:
            ClusterError: the disk is full.
        """
        when = [frame.number, round(frame.seconds, 6)]
        for at, score in enumerate(scores.tolist()):
            box, keypoints = boxes[at, :4].tolist(), points[at].ravel().tolist()
            numbers = [round(number, 3) for number in (*box, *keypoints)]
            self._write([*when, at, round(score, 4), *numbers])

    def close(self) -> None:
        """Nothing follows.

        Raises:
            ClusterError: the disk is full.
        """
        try:
            self._file.close()
        except OSError as error:
            raise storage_error(str(self.path), error) from error

    def _write(self, cells: list[object]) -> None:
        try:
            self._rows.writerow(cells)
        except OSError as error:
            raise storage_error(str(self.path), error) from error
