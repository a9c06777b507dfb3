"""Test `hrnet-ray predict` on images: its files, its output and its errors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_ray.data.images import codec
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.skeletons import from_coco_category
from tests.cli.otters import NAMES, PAWS, truncate
from tests.data.hostile import with_orientation


def predict_words(otters: Path, model: Path, *more: object) -> list[object]:
    words = ["predict", "--model", model, "--input", otters / "images"]
    return [*words, "--out", otters / "out", *more]


def results_of(otters: Path) -> list[dict]:
    return json.loads((otters / "out" / "predictions.coco.json").read_text())


def test_the_results_are_those_of_the_predictor_with_overlays(command, otters: Path, model: Path):
    code, stdout, _ = command(*predict_words(otters, model))

    assert code == 0
    assert stdout == f"4 poses on 4 images -> {otters / 'out'}\n"
    results = results_of(otters)
    assert [result["image_id"] for result in results] == list(NAMES)
    assert [result["id"] for result in results] == [1, 2, 3, 4]
    image = codec.read_image(otters / "images" / "b.jpg")
    predictions = Predictor.from_model_dir(model)(image, np.array([[0.0, 0.0, 59.0, 39.0]]))
    points = torch.cat([predictions.image_xy[0], predictions.scores[0, :, None]], dim=-1)
    assert results[1]["keypoints"] == pytest.approx(points.flatten().tolist(), abs=2e-3)
    overlay = codec.read_image(otters / "out" / "b.jpg")
    assert overlay.shape == (40, 60, 3)
    assert np.abs(overlay.astype(int) - image).max() > 60


def test_a_corrupt_image_is_named_and_the_others_are_predicted(command, otters: Path, model: Path):
    truncate(otters / "images" / "b.jpg")

    code, stdout, _ = command(*predict_words(otters, model))

    assert code == 0
    assert stdout == (
        "skipped b.jpg: an image that cannot be read: cut off\n"
        f"3 poses on 3 images -> {otters / 'out'}\n"
        "1 images could not be read\n"
    )
    assert [result["image_id"] for result in results_of(otters)] == ["a.jpg", "c.jpg", "d.jpg"]
    assert command(*predict_words(otters, model, "--strict"))[0] == 3
    assert len(results_of(otters)) == 3  # --strict changes only the exit code


def test_only_corrupt_images_are_a_failure(command, otters: Path, model: Path):
    truncate(otters / "images" / "b.jpg")
    words = ["predict", "--model", model, "--input", otters / "images" / "b.jpg"]

    assert command(*words, "--out", otters / "out")[0] == 3


def test_poses_are_found_in_the_given_boxes_and_images_without_any_are_counted(command, otters: Path, model: Path):
    (otters / "boxes.json").write_text('{"a.jpg": [[1, 2, 30, 20], [9, 5, 20, 30]], "b.jpg": []}')

    code, stdout, _ = command(*predict_words(otters, model, "--boxes", otters / "boxes.json"))

    assert code == 0
    assert stdout == (f"2 poses on 4 images -> {otters / 'out'}\nno boxes in {otters / 'boxes.json'} for 3 images\n")
    assert [result["image_id"] for result in results_of(otters)] == ["a.jpg", "a.jpg"]


def test_a_pose_score_includes_the_box_score_and_boxes_without_area_are_counted(command, otters: Path, model: Path):
    box = {"category_id": 1, "bbox": [1, 2, 30, 20]}
    detections = [
        {"image_id": "a.jpg", "score": 1.0, **box},
        {"image_id": "a", "score": 0.25, **box},
        {"image_id": "b.jpg", "score": 0.9, **box, "bbox": [1, 2, 0, 20]},
    ]
    (otters / "boxes.json").write_text(json.dumps(detections[::2]))
    words = predict_words(otters, model, "--boxes", otters / "boxes.json")

    assert command(*words)[:2] == (
        0,
        f"1 poses on 4 images -> {otters / 'out'}\n"
        f"no boxes in {otters / 'boxes.json'} for 3 images\n"
        "left out 1 boxes without area\n",
    )
    sure = results_of(otters)[0]
    (otters / "boxes.json").write_text(json.dumps(detections[1:]))
    assert command(*words)[0] == 0
    doubtful = results_of(otters)[0]
    assert doubtful["keypoints"] == sure["keypoints"]
    assert doubtful["score"] == sure["score"] / 4 > 0


def test_boxes_for_none_of_the_inputs_are_a_failure(command, otters: Path, model: Path):
    (otters / "boxes.json").write_text('{"otter.jpg": [[1, 2, 30, 20]]}')

    code, _, stderr = command(*predict_words(otters, model, "--boxes", otters / "boxes.json"))

    assert code == 3
    assert stderr.startswith("error: --boxes must have a box for at least one input, got none\n")
    assert not (otters / "out").exists()


def test_the_results_so_far_are_written_if_an_overlay_cannot_be_written(command, otters: Path, model: Path):
    (otters / "out" / "c.jpg").mkdir(parents=True)  # the path of the third overlay

    code, stdout, stderr = command(*predict_words(otters, model))

    assert code == 3
    assert stderr.startswith("error: an image that cannot be written\n")
    assert stdout == f"3 poses on 3 images -> {otters / 'out'}\n"
    assert [result["image_id"] for result in results_of(otters)] == ["a.jpg", "b.jpg", "c.jpg"]
    assert not [path for path in (otters / "out").iterdir() if "part" in path.name]


def test_ctrl_c_keeps_the_results_so_far(otters: Path, model: Path):
    (otters / "images" / "c.jpg").unlink()
    os.mkfifo(otters / "images" / "c.jpg")  # opening it blocks until a writer opens it
    words = [str(word) for word in predict_words(otters, model, "--device", "cpu")]
    with (
        subprocess.Popen(
            [sys.executable, "-m", "hrnet_ray.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as predicting,
        (otters / "images" / "c.jpg").open("wb"),
    ):  # the command has reached the FIFO
        predicting.send_signal(signal.SIGINT)
        stdout, stderr = predicting.communicate(timeout=30)

    assert (predicting.returncode, stdout) == (130, f"2 poses on 2 images -> {otters / 'out'}\n")
    assert stderr.startswith("Interrupted.")
    assert [result["image_id"] for result in results_of(otters)] == ["a.jpg", "b.jpg"]


def test_subfolders_are_read_and_keep_their_names(command, otters: Path, model: Path):
    images, out = otters / "images", otters / "images" / "poses"
    (images / "day 2").mkdir()
    (images / "c.jpg").rename(images / "day 2" / "a.jpg")
    words = ["predict", "--model", model, "--input", images, "--out", out]

    for _ in range(2):  # the second run ignores the overlays of the first
        assert command(*words)[:2] == (0, f"4 poses on 4 images -> {out}\n")

    results = json.loads((out / "predictions.coco.json").read_text())
    names = ["a.jpg", "b.jpg", "d.jpg", "day 2/a.jpg"]
    assert [result["image_id"] for result in results] == names
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.jpg")) == names


def test_overlays_never_overwrite_inputs_in_a_subfolder(command, otters: Path, model: Path):
    images = otters / "images"
    (images / "day 2").mkdir()
    (images / "c.jpg").rename(images / "day 2" / "a.jpg")

    words = ["predict", "--model", model, "--input", images, "--out", images / "day 2"]
    code, _, stderr = command(*words)

    assert code == 2
    assert stderr.startswith("error: --out must not contain the inputs: overlays would overwrite them\n")


def test_images_with_exif_orientation_are_counted_and_named(command, otters: Path, model: Path):
    path = otters / "images" / "b.jpg"
    path.write_bytes(with_orientation(path.read_bytes()))

    code, stdout, _ = command(*predict_words(otters, model))

    assert code == 0
    assert stdout == (f"4 poses on 4 images -> {otters / 'out'}\nignored the EXIF orientation of 1 images: b.jpg\n")


def test_without_overlays_the_results_and_keypoint_names_are_written(command, otters: Path, model: Path):
    assert command(*predict_words(otters, model, "--no-draw"))[0] == 0

    written = sorted(path.name for path in (otters / "out").iterdir())
    assert written == ["keypoints.json", "predictions.coco.json"]
    category = json.loads((otters / "out" / "keypoints.json").read_text())["categories"][0]
    assert from_coco_category(category) == PAWS
    assert {result["category_id"] for result in results_of(otters)} == {category["id"]}


def test_control_characters_and_invalid_utf8_in_names_are_escaped(command, otters: Path, model: Path):
    images = otters / "images"
    (images / "a.jpg").rename(images / os.fsdecode(b"caf\xe9.jpg"))
    (images / "b.jpg").rename(images / "b\x1b[2J.jpg")
    truncate(images / "b\x1b[2J.jpg")

    code, stdout, _ = command(*predict_words(otters, model))

    assert code == 0
    assert stdout.startswith("skipped b\\x1b[2J.jpg: an image that cannot be read: cut off\n")
    assert b"caf\xe9.jpg" in os.listdir(os.fsencode(otters / "out"))
    assert results_of(otters)[1]["image_id"] == os.fsdecode(b"caf\xe9.jpg")


def test_images_of_the_same_stem_get_an_overlay_each(command, otters: Path, model: Path):
    grey = np.full((30, 20, 3), 90, np.uint8)
    codec.write_image(otters / "images" / "a.png", grey)
    codec.write_image(otters / "images" / "e.png", grey)
    codec.write_image(otters / "images" / "a.jpg.png", grey)

    assert command(*predict_words(otters, model))[0] == 0

    drawn = sorted(path.name for path in (otters / "out").glob("*.jpg"))
    of_one_stem = ["a.jpg.jpg", "a.jpg.png.jpg", "a.png.jpg"]
    assert drawn == [*of_one_stem, "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


def test_overlays_never_overwrite_the_inputs(command, otters: Path, model: Path):
    before = (otters / "images" / "a.jpg").read_bytes()
    words = predict_words(otters, model, "--out", otters / "images")
    words[words.index("--out") : words.index("--out") + 2] = []

    code, _, stderr = command(*words)

    assert code == 2
    assert stderr == (
        "error: --out must not contain the inputs: overlays would overwrite them\n"
        f"  --out {otters / 'images'}\n"
        "  fix: give another folder\n"
    )
    assert (otters / "images" / "a.jpg").read_bytes() == before


def test_a_folder_without_images_or_model_is_refused(command, otters: Path, model: Path):
    (otters / "empty").mkdir()
    words = ["predict", "--out", otters / "out", "--input"]

    assert command(*words, otters / "empty", "--model", model)[::2] == (
        3,
        "error: --input must contain an image or a video, got a folder without any\n"
        f"  --input {otters / 'empty'}\n"
        "  fix: give another file or folder\n",
    )
    assert command(*words, otters / "nowhere", "--model", model)[::2] == (
        3,
        f"error: the file is not there\n  --input {otters / 'nowhere'}\n  fix: give an existing file\n",
    )
    code, _, stderr = command(*words, otters / "images", "--model", otters / "empty")
    assert code == 3
    assert stderr.startswith(f"error: the model does not exist\n  --model {otters / 'empty'}\n")
