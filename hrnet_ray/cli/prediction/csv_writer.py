"""CSV table of the poses of a video: one row per pose and frame."""

import csv
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import ensure_dir
from hrnet_ray.data.storage import make_storage_error
from hrnet_ray.data.video.reader import VideoFrame
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.text import escape_csv_cell

FRAME_COLUMNS = ("frame", "seconds", "pose", "score", "box_x", "box_y", "box_w", "box_h")
"""Columns before those of the keypoints."""
KEYPOINT_COLUMNS = ("x", "y", "score")


class VideoCsvWriter:
    """Writes a CSV row by row, so that an interrupted command keeps the rows so far."""

    def __init__(self, path: Path, skeleton: Skeleton) -> None:
        """Create the file and write the header.

        Raises:
            DataError: the folder cannot be created.
            ClusterError: the file cannot be written.
        """
        self.path = path
        ensure_dir(path.parent, "--out")
        try:
            self._file = path.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise make_storage_error(str(path), error) from error
        self._csv_writer = csv.writer(self._file)
        keypoint_headers = [f"{name}_{column}" for name in skeleton.keypoints for column in KEYPOINT_COLUMNS]
        self._write_row([*FRAME_COLUMNS, *map(escape_csv_cell, keypoint_headers)])

    def add_frame(self, frame: VideoFrame, boxes: np.ndarray, points: np.ndarray, scores: np.ndarray) -> None:
        """Write the poses of a frame: boxes [N, 5], points [N, K, 3] of (x, y, score), scores [N].

        Raises:
            ClusterError: the disk is full.
        """
        time = [frame.index, round(frame.time_s, 6)]
        for pose, score in enumerate(scores.tolist()):
            box, keypoints = boxes[pose, :4].tolist(), points[pose].ravel().tolist()
            values = [round(value, 3) for value in (*box, *keypoints)]
            self._write_row([*time, pose, round(score, 4), *values])

    def close(self) -> None:
        """Flush and close the file.

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
