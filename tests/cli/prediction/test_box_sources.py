"""Test the sources of boxes, frame by frame."""

import json
from pathlib import Path

import numpy as np
import torch

from hrnet_ray.cli.prediction.box_file import load_box_file
from hrnet_ray.cli.prediction.box_sources import BoxSource, FileBoxSource, TrackedBoxSource
from hrnet_ray.cli.prediction.inputs import InputFrame
from hrnet_ray.data.video.reader import VideoFrame
from hrnet_ray.metrics.predictions import KeypointPredictions

BOX, OTHER = [10, 20, 30, 20], [5, 6, 40, 30]
IMAGE = np.zeros((48, 64, 3), np.uint8)
WHOLE_IMAGE = [[0, 0, 63, 47, 1]]


def make_image(name: str = "a.jpg") -> InputFrame:
    return InputFrame(Path(name), IMAGE)


def make_frame(number: int, name: str = "a.mp4") -> InputFrame:
    return InputFrame(Path(name), IMAGE, VideoFrame(number, number / 25, IMAGE))


def make_pose(x: float, y: float) -> KeypointPredictions:
    """A pose of two points, 20 pixels apart."""
    xy = torch.tensor([[[x, y], [x + 20, y]]], dtype=torch.float32)
    return KeypointPredictions(torch.zeros(1, dtype=torch.int64), xy, torch.ones(1, 2))


def make_file_source(folder: Path, document: dict) -> FileBoxSource:
    (folder / "boxes.json").write_text(json.dumps(document))
    paths = [folder / name for name in ("a.jpg", "a.mp4", "b.mp4")]
    return FileBoxSource(load_box_file(folder / "boxes.json", paths), folder, "boxes.json")


def test_by_default_the_box_is_the_whole_image():
    assert BoxSource().get_boxes(make_image()).tolist() == BoxSource().get_boxes(make_frame(3)).tolist() == WHOLE_IMAGE


def test_a_file_has_boxes_of_some_inputs(tmp_path: Path):
    boxes = make_file_source(tmp_path, {"a.mp4#1": [BOX, OTHER]})

    assert boxes.get_boxes(make_frame(1)).tolist() == [[*BOX, 1], [*OTHER, 1]]
    assert boxes.get_boxes(make_frame(2)).shape == boxes.get_boxes(make_image()).shape == (0, 5)
    assert boxes.format_missing_message("3 frames") == "no boxes in boxes.json for 3 frames"


def test_a_tracked_box_moves_within_its_video_only():
    boxes = TrackedBoxSource(BoxSource())

    assert boxes.get_boxes(make_frame(0)).tolist() == WHOLE_IMAGE
    boxes.update(make_pose(20, 30))
    moved = boxes.get_boxes(make_frame(1))
    assert 50 > moved[0, 2] > 40
    assert boxes.get_boxes(make_frame(1)).tolist() == moved.tolist()  # only update() moves it
    assert boxes.get_boxes(make_frame(0, "b.mp4")).tolist() == WHOLE_IMAGE
    boxes.update(make_pose(20, 30))
    assert boxes.get_boxes(make_image()).tolist() == WHOLE_IMAGE
    boxes.update(make_pose(20, 30))
    assert boxes.get_boxes(make_image("b.jpg")).tolist() == WHOLE_IMAGE


def test_returned_boxes_do_not_change_later():
    boxes = TrackedBoxSource(BoxSource())
    before = boxes.get_boxes(make_frame(0))

    boxes.update(make_pose(20, 30))

    assert before.tolist() == WHOLE_IMAGE


def test_boxes_of_a_single_frame_restart_the_tracking(tmp_path: Path):
    boxes = TrackedBoxSource(make_file_source(tmp_path, {"a.mp4#2": [BOX], "a.mp4#4": [OTHER]}))

    assert boxes.get_boxes(make_frame(0)).shape == boxes.get_boxes(make_frame(1)).shape == (0, 5)
    boxes.update(KeypointPredictions.make_empty(2))
    assert boxes.get_boxes(make_frame(2)).tolist() == [[*BOX, 1]]
    boxes.update(make_pose(20, 30))
    np.testing.assert_allclose(boxes.get_boxes(make_frame(3)), [[13, 22.5, 29, 14, 1]], atol=1)
    boxes.update(make_pose(20, 30))
    assert boxes.get_boxes(make_frame(4)).tolist() == [[*OTHER, 1]]
    assert boxes.get_boxes(make_frame(0, "b.mp4")).shape == (0, 5)
