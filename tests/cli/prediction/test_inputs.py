"""Test the order and the names of the inputs, and inputs that cannot be read."""

from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.cli.prediction.inputs import FrameCount, InputFrame, batch_frames, open_inputs
from hrnet_ray.data.images import codec
from hrnet_ray.data.video.reader import VideoFrame
from hrnet_ray.errors import DataError
from tests.data.video.clips import clip, cut_off, place_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "day/a.jpg"):
        codec.write_image(tmp_path / name, np.full((40, 60, 3), 90, np.uint8))
    clip(tmp_path / "a.MKV", frames=3)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def make_image() -> InputFrame:
    return InputFrame(Path("a.jpg"), np.zeros((4, 6, 3), np.uint8))


def test_images_and_frames_come_in_the_order_of_names(folder: Path):
    inputs = open_inputs(folder)

    found = list(inputs)

    assert [s.name for s in found] == ["a.MKV#0", "a.MKV#1", "a.MKV#2", "b.png", "day/a.jpg"]
    assert [place_of(frame.image) for frame in found[:3]] == [0, 1, 2]
    assert [frame.fps for frame in found[:3]] == [25, 25, 25]
    assert inputs.video_paths == [Path("a.MKV")]
    assert [inputs.unreadable_files, inputs.partial_videos, inputs.exif_rotated_images] == [
        [],
        [],
        [],
    ]


def test_a_folder_of_earlier_results_is_left_out(folder: Path):
    assert [frame.name for frame in open_inputs(folder, exclude_dir=folder / "day")][-1] == "b.png"


def test_a_single_file_can_be_the_input(folder: Path):
    assert [frame.name for frame in open_inputs(folder / "day" / "a.jpg")] == ["a.jpg"]
    assert [frame.name for frame in open_inputs(folder / "a.MKV")][:2] == ["a.MKV#0", "a.MKV#1"]


def test_unreadable_files_are_printed_and_readable_frames_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]):
    cut_off(clip(folder / "cut.mkv", frames=30))
    cut_off(clip(folder / "lost.mp4"))
    cut_off(folder / "b.png")
    inputs = open_inputs(folder)

    found = [frame for frame in inputs if frame.relative_path.name == "cut.mkv"]

    assert inputs.partial_videos == [Path("cut.mkv")]
    assert inputs.unreadable_files == [Path("b.png"), Path("lost.mp4")]
    assert capsys.readouterr().out == (
        "skipped b.png: an image that cannot be read: cut off\n"
        f"cut.mkv: {len(found)} frames could be read of about 30\n"
        "skipped lost.mp4: a video that cannot be read: "
        "Invalid data found when processing input\n"
    )


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="--input must contain an image or a video"):
        open_inputs(tmp_path)
    with pytest.raises(DataError, match="the file is not there"):
        open_inputs(tmp_path / "a.jpg")


def test_large_images_make_smaller_batches(monkeypatch: pytest.MonkeyPatch):
    inputs = [make_image() for _ in range(7)]

    assert [len(some) for some in batch_frames(inputs, max_batch_size=3)] == [3, 3, 1]
    monkeypatch.setattr("hrnet_ray.cli.prediction.inputs.MAX_PIXELS", 30)  # each has 24
    assert [len(some) for some in batch_frames(inputs, max_batch_size=3)] == [2, 2, 2, 1]
    assert list(batch_frames([], max_batch_size=3)) == []


def test_a_count_names_images_and_frames():
    count = FrameCount()
    assert (str(count), bool(count)) == ("0 images", False)
    count.add_frame(make_image())
    assert (str(count), bool(count)) == ("1 images", True)
    for number in range(1200):
        count.add_frame(InputFrame(Path("a.mp4"), make_image().image, VideoFrame(number, 0.0, make_image().image)))
    assert str(count) == "1 images and 1,200 frames"
    assert str(FrameCount(num_video_frames=3)) == "3 frames"
