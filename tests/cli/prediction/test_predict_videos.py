"""`hrnet-ray predict` on videos, with boxes that follow, and with a detector."""

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
from tests.inference.paws import blotched_picture

FRAMES = 12


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A folder with a video."""
    (tmp_path / "films").mkdir()
    clip(tmp_path / "films" / "clip.mkv", frames=FRAMES)
    return tmp_path / "films"


def words(film: Path, model: Path, *more: object) -> list[object]:
    return ["predict", "--model", model, "--input", film, "--out", film.parent / "out", *more]


def results_of(film: Path) -> list[dict]:
    return json.loads((film.parent / "out" / "predictions.coco.json").read_text())


def table_of(film: Path, name: str = "clip.mkv") -> list[dict[str, str]]:
    with (film.parent / "out" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def frames_of(path: Path) -> list[np.ndarray]:
    with VideoReader(path) as video:
        return [frame.image for frame in video]


def test_each_frame_of_a_video_gives_what_its_picture_gives(command, film: Path, model: Path):
    code, stdout, _ = command(*words(film / "clip.mkv", model)[:5], "--out", film.parent / "out")

    assert (code, stdout) == (0, f"12 poses on 12 frames -> {film.parent / 'out'}\n")
    results, table = results_of(film), table_of(film)
    assert [result["image_id"] for result in results] == [f"clip.mkv#{n}" for n in range(FRAMES)]
    assert [result["frame"] for result in results] == list(range(FRAMES))
    assert [result["seconds"] for result in results] == pytest.approx(np.arange(FRAMES) / 25)
    assert [result["id"] for result in results] == list(range(1, FRAMES + 1))
    predictor = Predictor.from_model_dir(model)
    for picture, result, row in zip(frames_of(film / "clip.mkv"), results, table, strict=True):
        found = predictor(picture, make_full_image_box(picture))
        points = np.dstack([found.image_xy.numpy(), found.scores.numpy()[..., None]]).ravel()
        assert result["keypoints"] == pytest.approx(points.tolist(), abs=2e-3)
        of_points = [float(row[f"{name}_{c}"]) for name in PAWS.keypoints for c in ("x", "y")]
        assert of_points == pytest.approx(found.image_xy.flatten().tolist(), abs=2e-3)
        assert (row["frame"], row["pose"]) == (str(result["frame"]), "0")
        assert float(row["seconds"]) == result["seconds"]
        assert float(row["score"]) == pytest.approx(result["score"], abs=1e-4)
        assert [row[f"box_{side}"] for side in "xywh"] == ["0.0", "0.0", "63.0", "47.0"]


def test_a_video_is_drawn_frame_by_frame(command, film: Path, model: Path):
    (film / "clip.mkv").unlink()
    picture = blotched_picture().repeat(4, axis=0).repeat(4, axis=1)  # points of some pixels
    with VideoWriter(film / "clip.mov", fps=Fraction(25)) as writer:
        for number in range(4):
            writer.add_frame(number / 10, np.roll(picture, 20 * number, axis=1))

    assert command(*words(film, model))[0] == 0

    with VideoReader(film.parent / "out" / "clip.mp4") as video:
        frames = list(video)
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-3)
    predictor = Predictor.from_model_dir(model)
    for frame, before in zip(frames, frames_of(film / "clip.mov"), strict=True):
        expected = draw_overlay(
            before, predictor(before, make_full_image_box(before)), PAWS
        ).astype(int)
        here = np.abs(expected - before).max(axis=2) > 40
        assert here.sum() > 20  # points, and bones between them
        off, without = np.abs(frame.image - expected), np.abs(frame.image - before.astype(int))
        assert off[here].mean() < without[here].mean() / 2
        assert off[~here].mean() < 8
    files = sorted(path.name for path in (film.parent / "out").iterdir())
    assert files == ["clip.mov.csv", "clip.mp4", "keypoints.json", "predictions.coco.json"]


def test_pictures_and_videos_of_a_folder_go_together(command, film: Path, model: Path):
    codec.write_image(film / "a.png", np.full((40, 60, 3), 90, np.uint8))
    (film / "day 2").mkdir()
    clip(film / "day 2" / "clip.mov", frames=3)
    command_words = words(film, model)
    command_words[command_words.index("--out") + 1] = film / "poses"

    for _ in range(2):  # the drawings of the first time are nothing to look at the second time
        code, stdout, _ = command(*command_words)
        assert (code, stdout) == (
            0,
            f"16 poses on 1 images and 15 frames -> {film / 'poses'}\n",
        )

    found = sorted(str(p.relative_to(film / "poses")) for p in (film / "poses").rglob("*.*"))
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
    command, film: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    codec.write_image(film / "a.png", np.full((40, 60, 3), 90, np.uint8))
    (film / "z.jpg").write_bytes(b"no picture")
    code, stdout, _ = command(*words(film, model))
    alone = results_of(film)

    monkeypatch.setattr("hrnet_ray.cli.predict.BATCH_SIZE_BY_DEVICE", {"cpu": 5})  # as on a GPU

    assert command(*words(film, model))[:2] == (code, stdout)
    for one, other in zip(results_of(film), alone, strict=True):
        assert one.pop("keypoints") == pytest.approx(other.pop("keypoints"), abs=2e-3)
        assert one.pop("score") == pytest.approx(other.pop("score"), rel=1e-4)
        assert one == other
    assert len(frames_of(film.parent / "out" / "clip.mp4")) == len(table_of(film)) == FRAMES


def test_a_video_is_never_drawn_over(command, film: Path, model: Path):
    command_words = words(film / "clip.mkv", model)
    command_words[command_words.index("--out") + 1] = film

    code, _, stderr = command(*command_words)

    assert code == 2
    assert stderr.startswith(
        "error: --out must not contain the inputs: overlays would overwrite them\n"
    )
    assert [path.name for path in film.iterdir()] == ["clip.mkv"]


def test_of_a_video_in_part_the_part_is_predicted_and_told(command, film: Path, model: Path):
    cut_off(clip(film / "clip.mkv", frames=30))

    code, stdout, _ = command(*words(film, model))

    count = len(table_of(film))
    assert 5 < count < 25
    assert (code, stdout) == (
        0,
        f"clip.mkv: {count} frames could be read of about 30\n"
        f"{count} poses on {count} frames -> {film.parent / 'out'}\n"
        "1 videos could be read only in part\n",
    )
    assert len(frames_of(film.parent / "out" / "clip.mp4")) == count
    assert command(*words(film, model, "--strict", "--no-draw"))[0] == 3


def test_what_cannot_be_read_is_counted_by_its_kind(command, film: Path, model: Path):
    cut_off(clip(film / "lost.mp4"))
    (film / "a.jpg").write_bytes(b"no picture")

    code, stdout, _ = command(*words(film, model, "--no-draw"))

    assert code == 0
    assert stdout.endswith("1 images and 1 videos could not be read\n")
    assert command(*words(film / "lost.mp4", model))[0] == 3


def test_single_frames_have_boxes_of_their_own(command, film: Path, model: Path):
    boxes = {"clip.mkv": [[1, 2, 30, 20]], "clip.mkv#3": [[9, 5, 20, 30], [4, 4, 30, 30]]}
    (film / "boxes.json").write_text(json.dumps(boxes))

    code, stdout, _ = command(*words(film, model, "--boxes", film / "boxes.json"))

    assert (code, stdout) == (0, f"13 poses on 12 frames -> {film.parent / 'out'}\n")
    rows = [(row["frame"], row["pose"], row["box_x"]) for row in table_of(film)]
    assert rows[2:6] == [("2", "0", "1.0"), ("3", "0", "9.0"), ("3", "1", "4.0"), ("4", "0", "1.0")]


def test_frames_without_boxes_are_counted_and_stay_in_the_drawing(command, film: Path, model: Path):
    codec.write_image(film / "a.png", np.full((40, 60, 3), 90, np.uint8))
    (film / "boxes.json").write_text(json.dumps({"clip.mkv#3": [[9, 5, 20, 30]]}))

    code, stdout, _ = command(*words(film, model, "--boxes", film / "boxes.json"))

    assert (code, stdout) == (
        0,
        f"1 poses on 1 images and 12 frames -> {film.parent / 'out'}\n"
        f"no boxes in {film / 'boxes.json'} for 1 images and 11 frames\n",
    )
    assert len(frames_of(film.parent / "out" / "clip.mp4")) == FRAMES


def test_a_box_follows_its_pose_from_frame_to_frame(command, film: Path, model: Path):
    first = np.array([[1.0, 2, 40, 30, 1], [20, 10, 40, 35, 1]])
    boxes = {"clip.mkv#0": first[:, :4].tolist()}
    (film / "boxes.json").write_text(json.dumps(boxes))

    code, stdout, _ = command(
        *words(film, model, "--track", "--boxes", film / "boxes.json", "--no-draw")
    )

    assert (code, stdout) == (0, f"24 poses on 12 frames -> {film.parent / 'out'}\n")
    predictor, following = Predictor.from_model_dir(model), BoxTracker(first)
    rows = table_of(film)
    for number, picture in enumerate(frames_of(film / "clip.mkv")):
        two = rows[2 * number : 2 * number + 2]
        told = [[float(row[f"box_{side}"]) for side in "xywh"] for row in two]
        np.testing.assert_allclose(told, following.boxes[:, :4], atol=2e-3)
        assert [row["pose"] for row in two] == ["0", "1"]
        following.update_boxes(predictor(picture, following.boxes[:, :4]))
    assert len({row["box_x"] for row in rows}) > 4  # they moved


def test_where_there_is_no_video_nothing_is_followed_and_told_so(
    command, otters: Path, model: Path
):
    code, stdout, _ = command(*words(otters / "images", model, "--track"))

    assert (code, stdout) == (
        0,
        f"4 poses on 4 images -> {otters / 'out'}\n--track has no effect: there is no video\n",
    )


def test_a_detector_finds_the_boxes(command, film: Path, model: Path):
    net = blob_net(film.parent / "blobs.onnx", "yolo")
    grey = np.full((128, 192, 3), 20, np.uint8)
    for name, x in (("a.png", 30), ("b.png", 90)):
        picture = grey.copy()
        picture[40:80, x : x + 50] = (255, 0, 0)
        codec.write_image(film / name, picture)
    codec.write_image(film / "c.png", grey)
    (film / "clip.mkv").unlink()

    code, stdout, _ = command(*words(film, model, "--detector", net))

    out = film.parent / "out"
    assert (code, stdout) == (
        0,
        f"2 poses on 3 images -> {out}\nthe detector found no boxes in 1 images\n",
    )
    assert [result["image_id"] for result in results_of(film)] == ["a.png", "b.png"]
    assert sorted(path.name for path in out.glob("*.jpg")) == ["a.jpg", "b.jpg"]


def test_a_detector_looks_at_every_frame(command, film: Path, model: Path):
    net = blob_net(film.parent / "blobs.onnx", "yolo", hw=(96, 128))

    code, stdout, _ = command(*words(film, model, "--detector", net, "--no-draw"))

    assert (code, stdout) == (0, f"12 poses on 12 frames -> {film.parent / 'out'}\n")
    for row in table_of(film):  # the red corner of each
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
def test_what_cannot_be_together_is_refused(
    command, film: Path, model: Path, flags: str, message: str
):
    code, _, stderr = command(*words(film, model), *flags.split())

    assert (code, stderr) == (2, message)
    assert not (film.parent / "out").exists()


def test_a_detector_that_is_none_is_refused(command, film: Path, model: Path):
    (film.parent / "blobs.onnx").write_bytes(b"no net")

    code, _, stderr = command(*words(film, model, "--detector", film.parent / "blobs.onnx"))

    assert code == 3
    assert stderr.startswith("error: a detector that cannot be loaded\n")
    assert not (film.parent / "out").exists()


def test_without_pyav_a_video_is_refused_before_anything_is_done(
    command, film: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "av", None)

    code, _, stderr = command(*words(film, model))

    assert code == 2
    assert stderr.startswith("error: videos need PyAV, which cannot be imported\n")
    assert not (film.parent / "out").exists()


def test_what_was_found_stays_when_the_drawing_cannot_be_written(command, film: Path, model: Path):
    (film.parent / "out" / "clip.mp4").mkdir(parents=True)  # where the drawing is to be

    code, stdout, stderr = command(*words(film, model))

    assert (code, stdout) == (3, f"12 poses on 12 frames -> {film.parent / 'out'}\n")
    assert stderr.startswith("error: a video that cannot be written")
    assert len(results_of(film)) == len(table_of(film)) == FRAMES


def test_ctrl_c_leaves_table_and_drawing_as_far_as_they_came(film: Path, model: Path):
    os.mkfifo(film / "d.jpg")  # who opens it waits for a writer
    argv = [str(word) for word in words(film, model, "--device", "cpu")]
    with (
        subprocess.Popen(
            [sys.executable, "-m", "hrnet_ray.cli", *argv], stdout=subprocess.PIPE, text=True
        ) as predicting,
        (film / "d.jpg").open("wb"),
    ):  # it has come so far
        predicting.send_signal(signal.SIGINT)
        stdout, _ = predicting.communicate(timeout=30)

    assert (predicting.returncode, stdout) == (
        130,
        f"12 poses on 12 frames -> {film.parent / 'out'}\n",
    )
    assert len(results_of(film)) == len(table_of(film)) == FRAMES
    assert len(frames_of(film.parent / "out" / "clip.mp4")) == FRAMES
