"""Where a pose is looked for, shot by shot."""

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
PICTURE = np.zeros((48, 64, 3), np.uint8)
WHOLE = [[0, 0, 63, 47, 1]]


def still(name: str = "a.jpg") -> InputFrame:
    return InputFrame(Path(name), PICTURE)


def frame(number: int, name: str = "a.mp4") -> InputFrame:
    return InputFrame(Path(name), PICTURE, VideoFrame(number, number / 25, PICTURE))


def found(x: float, y: float) -> KeypointPredictions:
    """A pose of two points, 20 pixels apart."""
    xy = torch.tensor([[[x, y], [x + 20, y]]], dtype=torch.float32)
    return KeypointPredictions(torch.zeros(1, dtype=torch.int64), xy, torch.ones(1, 2))


def given(folder: Path, document: dict) -> FileBoxSource:
    (folder / "boxes.json").write_text(json.dumps(document))
    paths = [folder / name for name in ("a.jpg", "a.mp4", "b.mp4")]
    return FileBoxSource(load_box_file(folder / "boxes.json", paths), folder, "boxes.json")


def test_without_more_a_box_is_the_whole_picture():
    assert (
        BoxSource().get_boxes(still()).tolist() == BoxSource().get_boxes(frame(3)).tolist() == WHOLE
    )


def test_a_file_gives_none_or_some(tmp_path: Path):
    boxes = given(tmp_path, {"a.mp4#1": [BOX, OTHER]})

    assert boxes.get_boxes(frame(1)).tolist() == [[*BOX, 1], [*OTHER, 1]]
    assert boxes.get_boxes(frame(2)).shape == boxes.get_boxes(still()).shape == (0, 5)
    assert boxes.format_missing_message("3 frames") == "no boxes in boxes.json for 3 frames"


def test_a_followed_box_moves_within_its_video_only():
    boxes = TrackedBoxSource(BoxSource())

    assert boxes.get_boxes(frame(0)).tolist() == WHOLE
    boxes.update(found(20, 30))
    moved = boxes.get_boxes(frame(1))
    assert 50 > moved[0, 2] > 40
    assert boxes.get_boxes(frame(1)).tolist() == moved.tolist()  # only what was seen moves it
    assert boxes.get_boxes(frame(0, "b.mp4")).tolist() == WHOLE
    boxes.update(found(20, 30))
    assert boxes.get_boxes(still()).tolist() == WHOLE
    boxes.update(found(20, 30))
    assert boxes.get_boxes(still("b.jpg")).tolist() == WHOLE


def test_what_was_looked_at_does_not_move_afterwards():
    boxes = TrackedBoxSource(BoxSource())
    before = boxes.get_boxes(frame(0))

    boxes.update(found(20, 30))

    assert before.tolist() == WHOLE


def test_boxes_of_a_frame_begin_anew_and_are_followed_from_there(tmp_path: Path):
    boxes = TrackedBoxSource(given(tmp_path, {"a.mp4#2": [BOX], "a.mp4#4": [OTHER]}))

    assert boxes.get_boxes(frame(0)).shape == boxes.get_boxes(frame(1)).shape == (0, 5)
    boxes.update(KeypointPredictions.make_empty(2))
    assert boxes.get_boxes(frame(2)).tolist() == [[*BOX, 1]]
    boxes.update(found(20, 30))
    np.testing.assert_allclose(boxes.get_boxes(frame(3)), [[13, 22.5, 29, 14, 1]], atol=1)
    boxes.update(found(20, 30))
    assert boxes.get_boxes(frame(4)).tolist() == [[*OTHER, 1]]
    assert boxes.get_boxes(frame(0, "b.mp4")).shape == (0, 5)
