"""Test `hrnet-ray predict` on videos, with tracking and with a detector."""

import csv
import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.cli.prediction.overlays import draw_overlay
from hrnet_ray.data.images import codec
from hrnet_ray.data.video.reader import VideoReader
from hrnet_ray.data.video.writer import VideoWriter
from hrnet_ray.inference.box_tracker import BoxTracker
from hrnet_ray.inference.predictor import Predictor, make_full_image_box
from tests.cli.otters import PAWS
from tests.data.video.clips import clip, cut_off
from tests.inference.detectors.blob_net import blob_net
from tests.inference.paws import make_test_image

FRAMES = 12


@pytest.fixture
def video_dir(tmp_path: Path) -> Path:
    """Write a folder with one video."""
    (tmp_path / "films").mkdir()
    clip(tmp_path / "films" / "clip.mkv", frames=FRAMES)
    return tmp_path / "films"


def predict_args(video_dir: Path, model: Path, *more: object) -> list[object]:
    return [
        "predict",
        "--model",
        model,
        "--input",
        video_dir,
        "--out",
        video_dir.parent / "out",
        *more,
    ]


def results_of(video_dir: Path) -> list[dict]:
    return json.loads((video_dir.parent / "out" / "predictions.coco.json").read_text())


def table_of(video_dir: Path, name: str = "clip.mkv") -> list[dict[str, str]]:
    with (video_dir.parent / "out" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def frames_of(path: Path) -> list[np.ndarray]:
    with VideoReader(path) as video:
        return [frame.image for frame in video]


def test_each_frame_of_a_video_gets_the_results_of_its_image(command, video_dir: Path, model: Path):
    code, stdout, _ = command(*predict_args(video_dir / "clip.mkv", model)[:5], "--out", video_dir.parent / "out")

    assert (code, stdout) == (0, f"12 poses on 12 frames -> {video_dir.parent / 'out'}\n")
    results, table = results_of(video_dir), table_of(video_dir)
    assert [result["image_id"] for result in results] == [f"clip.mkv#{n}" for n in range(FRAMES)]
    assert [result["frame"] for result in results] == list(range(FRAMES))
    assert [result["seconds"] for result in results] == pytest.approx(np.arange(FRAMES) / 25)
    assert [result["id"] for result in results] == list(range(1, FRAMES + 1))
    predictor = Predictor.from_model_dir(model)
    for picture, result, row in zip(frames_of(video_dir / "clip.mkv"), results, table, strict=True):
        found = predictor(picture, make_full_image_box(picture))
        points = np.dstack([found.image_xy.numpy(), found.scores.numpy()[..., None]]).ravel()
        assert result["keypoints"] == pytest.approx(points.tolist(), abs=2e-3)
        of_points = [float(row[f"{name}_{c}"]) for name in PAWS.keypoints for c in ("x", "y")]
        assert of_points == pytest.approx(found.image_xy.flatten().tolist(), abs=2e-3)
        assert (row["frame"], row["pose"]) == (str(result["frame"]), "0")
        assert float(row["seconds"]) == result["seconds"]
        assert float(row["score"]) == pytest.approx(result["score"], abs=1e-4)
        assert [row[f"box_{side}"] for side in "xywh"] == ["0.0", "0.0", "63.0", "47.0"]


def test_a_video_overlay_has_the_poses_of_each_frame(command, video_dir: Path, model: Path):
    (video_dir / "clip.mkv").unlink()
    picture = make_test_image().repeat(4, axis=0).repeat(4, axis=1)  # points of some pixels
    with VideoWriter(video_dir / "clip.mov", fps=Fraction(25)) as writer:
        for number in range(4):
            writer.add_frame(number / 10, np.roll(picture, 20 * number, axis=1))

    assert command(*predict_args(video_dir, model))[0] == 0

    with VideoReader(video_dir.parent / "out" / "clip.mp4") as video:
        frames = list(video)
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-3)
    predictor = Predictor.from_model_dir(model)
    for frame, before in zip(frames, frames_of(video_dir / "clip.mov"), strict=True):
        expected = draw_overlay(before, predictor(before, make_full_image_box(before)), PAWS).astype(int)
        here = np.abs(expected - before).max(axis=2) > 40
        assert here.sum() > 20  # points, and bones between them
        off, without = np.abs(frame.image - expected), np.abs(frame.image - before.astype(int))
        assert off[here].mean() < without[here].mean() / 2
        assert off[~here].mean() < 8
    files = sorted(path.name for path in (video_dir.parent / "out").iterdir())
    assert files == ["clip.mov.csv", "clip.mp4", "keypoints.json", "predictions.coco.json"]


def test_a_folder_may_have_images_and_videos(command, video_dir: Path, model: Path):
    codec.write_image(video_dir / "a.png", np.full((40, 60, 3), 90, np.uint8))
    (video_dir / "day 2").mkdir()
    clip(video_dir / "day 2" / "clip.mov", frames=3)
    command_words = predict_args(video_dir, model)
    command_words[command_words.index("--out") + 1] = video_dir / "poses"

    for _ in range(2):  # the second run ignores the overlays of the first
        code, stdout, _ = command(*command_words)
        assert (code, stdout) == (
            0,
            f"16 poses on 1 images and 15 frames -> {video_dir / 'poses'}\n",
        )

    found = sorted(str(p.relative_to(video_dir / "poses")) for p in (video_dir / "poses").rglob("*.*"))
    assert found == [
        "a.jpg",
        "clip.mkv.csv",
        "clip.mp4",
        "day 2/clip.mov.csv",
        "day 2/clip.mp4",
        "keypoints.json",
        "predictions.coco.json",
    ]


def test_several_at_once_give_what_one_by_one_gives(
    command, video_dir: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    codec.write_image(video_dir / "a.png", np.full((40, 60, 3), 90, np.uint8))
    (video_dir / "z.jpg").write_bytes(b"no image")
    code, stdout, _ = command(*predict_args(video_dir, model))
    alone = results_of(video_dir)

    monkeypatch.setattr("hrnet_ray.cli.predict.BATCH_SIZE_BY_DEVICE", {"cpu": 5})  # as on a GPU

    assert command(*predict_args(video_dir, model))[:2] == (code, stdout)
    for one, other in zip(results_of(video_dir), alone, strict=True):
        assert one.pop("keypoints") == pytest.approx(other.pop("keypoints"), abs=2e-3)
        assert one.pop("score") == pytest.approx(other.pop("score"), rel=1e-4)
        assert one == other
    assert len(frames_of(video_dir.parent / "out" / "clip.mp4")) == len(table_of(video_dir)) == FRAMES


def test_an_overlay_never_overwrites_a_video(command, video_dir: Path, model: Path):
    command_words = predict_args(video_dir / "clip.mkv", model)
    command_words[command_words.index("--out") + 1] = video_dir

    code, _, stderr = command(*command_words)

    assert code == 2
    assert stderr.startswith("error: --out must not contain the inputs: overlays would overwrite them\n")
    assert [path.name for path in video_dir.iterdir()] == ["clip.mkv"]


def test_the_readable_part_of_a_truncated_video_is_predicted(command, video_dir: Path, model: Path):
    cut_off(clip(video_dir / "clip.mkv", frames=30))

    code, stdout, _ = command(*predict_args(video_dir, model))

    count = len(table_of(video_dir))
    assert 5 < count < 25
    assert (code, stdout) == (
        0,
        f"clip.mkv: {count} frames could be read of about 30\n"
        f"{count} poses on {count} frames -> {video_dir.parent / 'out'}\n"
        "1 videos could be read only in part\n",
    )
    assert len(frames_of(video_dir.parent / "out" / "clip.mp4")) == count
    assert command(*predict_args(video_dir, model, "--strict", "--no-draw"))[0] == 3


def test_unreadable_images_and_videos_are_counted_separately(command, video_dir: Path, model: Path):
    cut_off(clip(video_dir / "lost.mp4"))
    (video_dir / "a.jpg").write_bytes(b"no image")

    code, stdout, _ = command(*predict_args(video_dir, model, "--no-draw"))

    assert code == 0
    assert stdout.endswith("1 images and 1 videos could not be read\n")
    assert command(*predict_args(video_dir / "lost.mp4", model))[0] == 3


def test_single_frames_may_have_boxes(command, video_dir: Path, model: Path):
    boxes = {"clip.mkv": [[1, 2, 30, 20]], "clip.mkv#3": [[9, 5, 20, 30], [4, 4, 30, 30]]}
    (video_dir / "boxes.json").write_text(json.dumps(boxes))

    code, stdout, _ = command(*predict_args(video_dir, model, "--boxes", video_dir / "boxes.json"))

    assert (code, stdout) == (0, f"13 poses on 12 frames -> {video_dir.parent / 'out'}\n")
    rows = [(row["frame"], row["pose"], row["box_x"]) for row in table_of(video_dir)]
    assert rows[2:6] == [("2", "0", "1.0"), ("3", "0", "9.0"), ("3", "1", "4.0"), ("4", "0", "1.0")]


def test_frames_without_boxes_are_counted_and_stay_in_the_overlay(command, video_dir: Path, model: Path):
    codec.write_image(video_dir / "a.png", np.full((40, 60, 3), 90, np.uint8))
    (video_dir / "boxes.json").write_text(json.dumps({"clip.mkv#3": [[9, 5, 20, 30]]}))

    code, stdout, _ = command(*predict_args(video_dir, model, "--boxes", video_dir / "boxes.json"))

    assert (code, stdout) == (
        0,
        f"1 poses on 1 images and 12 frames -> {video_dir.parent / 'out'}\n"
        f"no boxes in {video_dir / 'boxes.json'} for 1 images and 11 frames\n",
    )
    assert len(frames_of(video_dir.parent / "out" / "clip.mp4")) == FRAMES


def test_a_tracked_box_moves_with_its_pose(command, video_dir: Path, model: Path):
    first = np.array([[1.0, 2, 40, 30, 1], [20, 10, 40, 35, 1]])
    boxes = {"clip.mkv#0": first[:, :4].tolist()}
    (video_dir / "boxes.json").write_text(json.dumps(boxes))

    code, stdout, _ = command(
        *predict_args(video_dir, model, "--track", "--boxes", video_dir / "boxes.json", "--no-draw")
    )

    assert (code, stdout) == (0, f"24 poses on 12 frames -> {video_dir.parent / 'out'}\n")
    predictor, following = Predictor.from_model_dir(model), BoxTracker(first)
    rows = table_of(video_dir)
    for number, picture in enumerate(frames_of(video_dir / "clip.mkv")):
        two = rows[2 * number : 2 * number + 2]
        boxes_xywh = [[float(row[f"box_{side}"]) for side in "xywh"] for row in two]
        np.testing.assert_allclose(boxes_xywh, following.boxes[:, :4], atol=2e-3)
        assert [row["pose"] for row in two] == ["0", "1"]
        following.update_boxes(predictor(picture, following.boxes[:, :4]))
    assert len({row["box_x"] for row in rows}) > 4  # they moved


def test_track_without_a_video_has_no_effect_and_prints_a_note(command, otters: Path, model: Path):
    code, stdout, _ = command(*predict_args(otters / "images", model, "--track"))

    assert (code, stdout) == (
        0,
        f"4 poses on 4 images -> {otters / 'out'}\n--track has no effect: there is no video\n",
    )


def test_a_detector_finds_the_boxes(command, video_dir: Path, model: Path):
    net = blob_net(video_dir.parent / "blobs.onnx", "yolo")
    grey = np.full((128, 192, 3), 20, np.uint8)
    for name, x in (("a.png", 30), ("b.png", 90)):
        picture = grey.copy()
        picture[40:80, x : x + 50] = (255, 0, 0)
        codec.write_image(video_dir / name, picture)
    codec.write_image(video_dir / "c.png", grey)
    (video_dir / "clip.mkv").unlink()

    code, stdout, _ = command(*predict_args(video_dir, model, "--detector", net))

    out = video_dir.parent / "out"
    assert (code, stdout) == (
        0,
        f"2 poses on 3 images -> {out}\nthe detector found no boxes in 1 images\n",
    )
    assert [result["image_id"] for result in results_of(video_dir)] == ["a.png", "b.png"]
    assert sorted(path.name for path in out.glob("*.jpg")) == ["a.jpg", "b.jpg"]


def test_a_detector_runs_on_every_frame(command, video_dir: Path, model: Path):
    net = blob_net(video_dir.parent / "blobs.onnx", "yolo", hw=(96, 128))

    code, stdout, _ = command(*predict_args(video_dir, model, "--detector", net, "--no-draw"))

    assert (code, stdout) == (0, f"12 poses on 12 frames -> {video_dir.parent / 'out'}\n")
    for row in table_of(video_dir):  # the red corner of each
        found = [float(row[f"box_{side}"]) for side in "xywh"]
        np.testing.assert_allclose(found, [0, 0, 16, 12], atol=1.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--detector a.onnx --boxes b.json",
            "error: --detector cannot be combined with --boxes\n"
            "  --detector a.onnx --boxes\n"
            "  fix: omit --boxes: the detector runs on every image and frame\n",
        ),
        (
            "--detector a.onnx --track",
            "error: --detector cannot be combined with --track\n"
            "  --detector a.onnx --track\n"
            "  fix: omit --track: the detector runs on every image and frame\n",
        ),
        (
            "--detector-classes 15 16 --detector-min-score 0.5",
            "error: detector settings need --detector\n"
            "  --detector-classes --detector-min-score\n"
            "  fix: give the detector's ONNX file as --detector\n",
        ),
    ],
)
def test_contradicting_flags_are_refused(command, video_dir: Path, model: Path, flags: str, message: str):
    code, _, stderr = command(*predict_args(video_dir, model), *flags.split())

    assert (code, stderr) == (2, message)
    assert not (video_dir.parent / "out").exists()


def test_an_invalid_detector_is_refused(command, video_dir: Path, model: Path):
    (video_dir.parent / "blobs.onnx").write_bytes(b"no net")

    code, _, stderr = command(*predict_args(video_dir, model, "--detector", video_dir.parent / "blobs.onnx"))

    assert code == 3
    assert stderr.startswith("error: a detector that cannot be loaded\n")
    assert not (video_dir.parent / "out").exists()


def test_without_pyav_a_video_is_refused_before_any_output(
    command, video_dir: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "av", None)

    code, _, stderr = command(*predict_args(video_dir, model))

    assert code == 2
    assert stderr.startswith("error: videos need PyAV, which cannot be imported\n")
    assert not (video_dir.parent / "out").exists()


def test_the_results_are_written_if_the_overlay_cannot_be_written(command, video_dir: Path, model: Path):
    (video_dir.parent / "out" / "clip.mp4").mkdir(parents=True)  # the path of the overlay

    code, stdout, stderr = command(*predict_args(video_dir, model))

    assert (code, stdout) == (3, f"12 poses on 12 frames -> {video_dir.parent / 'out'}\n")
    assert stderr.startswith("error: a video that cannot be written")
    assert len(results_of(video_dir)) == len(table_of(video_dir)) == FRAMES


def test_ctrl_c_keeps_the_csv_and_the_overlay_so_far(video_dir: Path, model: Path):
    os.mkfifo(video_dir / "d.jpg")  # opening it blocks until a writer opens it
    argv = [str(word) for word in predict_args(video_dir, model, "--device", "cpu")]
    with (
        subprocess.Popen(
            [sys.executable, "-m", "hrnet_ray.cli", *argv], stdout=subprocess.PIPE, text=True
        ) as predicting,
        (video_dir / "d.jpg").open("wb"),
    ):  # the command has reached the FIFO
        predicting.send_signal(signal.SIGINT)
        stdout, _ = predicting.communicate(timeout=30)

    assert predicting.returncode == 130
    # On a slow machine lines of progress come before it.
    assert stdout.splitlines()[-1] == f"12 poses on 12 frames -> {video_dir.parent / 'out'}"
    assert len(results_of(video_dir)) == len(table_of(video_dir)) == FRAMES
    assert len(frames_of(video_dir.parent / "out" / "clip.mp4")) == FRAMES
