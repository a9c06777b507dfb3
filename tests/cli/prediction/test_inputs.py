"""What is looked at, in which order, under which names; and what could not be."""

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
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def still() -> InputFrame:
    return InputFrame(Path("a.jpg"), np.zeros((4, 6, 3), np.uint8))


def test_pictures_and_frames_come_in_the_order_of_names(folder: Path):
    shots = open_inputs(folder)

    found = list(shots)

    assert [s.name for s in found] == ["a.MKV#0", "a.MKV#1", "a.MKV#2", "b.png", "day/a.jpg"]
    assert [place_of(shot.image) for shot in found[:3]] == [0, 1, 2]
    assert [shot.fps for shot in found[:3]] == [25, 25, 25]
    assert shots.video_paths == [Path("a.MKV")]
    assert [shots.unreadable_files, shots.partial_videos, shots.exif_rotated_images] == [[], [], []]


def test_a_folder_of_earlier_results_is_left_out(folder: Path):
    assert [shot.name for shot in open_inputs(folder, exclude_dir=folder / "day")][-1] == "b.png"


def test_one_file_is_looked_at_by_its_name(folder: Path):
    assert [shot.name for shot in open_inputs(folder / "day" / "a.jpg")] == ["a.jpg"]
    assert [shot.name for shot in open_inputs(folder / "a.MKV")][:2] == ["a.MKV#0", "a.MKV#1"]


def test_what_cannot_be_read_is_told_and_what_came_of_it_is_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    cut_off(clip(folder / "cut.mkv", frames=30))
    cut_off(clip(folder / "lost.mp4"))
    cut_off(folder / "b.png")
    shots = open_inputs(folder)

    found = [shot for shot in shots if shot.relative_path.name == "cut.mkv"]

    assert shots.partial_videos == [Path("cut.mkv")]
    assert shots.unreadable_files == [Path("b.png"), Path("lost.mp4")]
    assert capsys.readouterr().out == (
        "skipped b.png: a picture that cannot be read: cut off\n"
        f"cut.mkv: {len(found)} frames could be read of about 30\n"
        "skipped lost.mp4: a video that cannot be read: "
        "Invalid data found when processing input\n"
    )


def test_what_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="--input must contain an image or a video"):
        open_inputs(tmp_path)
    with pytest.raises(DataError, match="the file is not there"):
        open_inputs(tmp_path / "a.jpg")


def test_some_go_together_and_fewer_large_ones(monkeypatch: pytest.MonkeyPatch):
    shots = [still() for _ in range(7)]

    assert [len(some) for some in batch_frames(shots, max_batch_size=3)] == [3, 3, 1]
    monkeypatch.setattr("hrnet_ray.cli.prediction.inputs.MAX_PIXELS", 30)  # each has 24
    assert [len(some) for some in batch_frames(shots, max_batch_size=3)] == [2, 2, 2, 1]
    assert list(batch_frames([], max_batch_size=3)) == []


def test_a_count_names_what_there_is():
    count = FrameCount()
    assert (str(count), bool(count)) == ("0 images", False)
    count.add_frame(still())
    assert (str(count), bool(count)) == ("1 images", True)
    for number in range(1200):
        count.add_frame(
            InputFrame(Path("a.mp4"), still().image, VideoFrame(number, 0.0, still().image))
        )
    assert str(count) == "1 images and 1,200 frames"
    assert str(FrameCount(num_video_frames=3)) == "3 frames"
