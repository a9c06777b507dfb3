"""Test the CSV of a video."""

import csv
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.cli.prediction.csv_writer import VideoCsvWriter
from hrnet_ray.data.video.reader import VideoFrame
from hrnet_ray.errors import ClusterError, DataError
from hrnet_ray.skeletons import Skeleton

OTTER = Skeleton(name="otter", keypoints=("=nose", "a,b"), bones=())
FRAME = VideoFrame(7, 1 / 3, np.zeros((4, 6, 3), np.uint8))


def test_a_pose_is_a_row(tmp_path: Path):
    table = VideoCsvWriter(tmp_path / "day" / "clip.mp4.csv", OTTER)
    boxes = np.array([[1, 2, 3, 4.5, 0.5], [0.00049, 0, 5, 6, 1]])
    points = np.array([[[1.23456, -2, 0.9], [3, 4, 0.1]], [[5, 6, 1], [7, 8, 1]]], np.float32)

    table.add_frame(FRAME, boxes, points, np.array([0.45678, 1.0]))
    table.add_frame(FRAME, boxes[:0], points[:0], np.zeros(0))
    table.close()

    with (tmp_path / "day" / "clip.mp4.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:8] == ["frame", "seconds", "pose", "score", "box_x", "box_y", "box_w", "box_h"]
    assert head[8:11] == ["'=nose_x", "'=nose_y", "'=nose_score"]  # no spreadsheet runs it
    assert head[11:] == ["a,b_x", "a,b_y", "a,b_score"]
    assert rows[0][:8] == ["7", "0.333333", "0", "0.4568", "1.0", "2.0", "3.0", "4.5"]
    assert rows[0][8:] == ["1.235", "-2.0", "0.9", "3.0", "4.0", "0.1"]
    assert rows[1][2:5] == ["1", "1.0", "0.0"]
    assert len(rows) == 2


def test_a_csv_that_cannot_be_written_is_an_error(tmp_path: Path):
    (tmp_path / "clip.mp4.csv").mkdir()
    with pytest.raises(ClusterError, match="a storage that does not work"):
        VideoCsvWriter(tmp_path / "clip.mp4.csv", OTTER)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a folder that cannot be made"):
        VideoCsvWriter(tmp_path / "file" / "clip.mp4.csv", OTTER)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
def test_a_full_disk_is_an_error(tmp_path: Path):
    (tmp_path / "clip.mp4.csv").symlink_to("/dev/full")
    table = VideoCsvWriter(tmp_path / "clip.mp4.csv", OTTER)
    table.add_frame(FRAME, np.ones((1, 5)), np.ones((1, 2, 3)), np.ones(1))

    with pytest.raises(ClusterError, match="No space left"):
        table.close()

    table = VideoCsvWriter(tmp_path / "clip.mp4.csv", OTTER)
    with pytest.raises(ClusterError, match="No space left"):
        table.add_frame(FRAME, np.ones((1000, 5)), np.ones((1000, 2, 3)), np.ones(1000))
