"""Test how the boxes of a file are matched to the inputs."""

import json
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.cli.prediction.box_file import (
    BoxFile,
    find_unknown_ids,
    load_box_file,
    match_boxes,
    parse_boxes,
)
from hrnet_ray.errors import DataError

BOX, OTHER = [1, 2, 30, 20], [9, 5, 20, 30]


def match(document: object, *names: str) -> BoxFile:
    """Match a JSON document to inputs; no file is read."""
    return match_boxes(parse_boxes(document), [Path(name) for name in names])


def load(folder: Path, document: object, *names: str) -> BoxFile:
    (folder / "boxes.json").write_text(json.dumps(document))
    return load_box_file(folder / "boxes.json", [folder / name for name in names])


def as_lists(box_file: BoxFile) -> dict[str, list[list[float]]]:
    return {str(path): boxes.tolist() for path, boxes in box_file.boxes_by_path.items()}


def coco(*names: str) -> dict:
    """A COCO document with one box per image, whose y is the index of the image."""
    return {
        "images": [{"id": 40 + index, "file_name": name} for index, name in enumerate(names)],
        "annotations": [{"image_id": 40 + index, "bbox": [0, index, 8, 6]} for index in range(len(names))],
    }


def test_a_coco_file_is_matched_by_path_first_and_then_by_name():
    names = ("train/a.jpg", "val/a.jpg", "b.jpg", "train/c.jpg")

    found = match(coco("train/a.jpg", "a.jpg", "b.jpg", "val/c.jpg"), *names)

    assert as_lists(found) == {
        "train/a.jpg": [[0, 0, 8, 6, 1]],
        "val/a.jpg": [[0, 1, 8, 6, 1]],
        "b.jpg": [[0, 2, 8, 6, 1]],
    }


def test_names_may_be_relative_to_a_folder_above_the_inputs():
    found = match(coco("train/a.jpg"), "/images/train/a.jpg")

    assert as_lists(found) == {"/images/train/a.jpg": [[0, 0, 8, 6, 1]]}


def test_an_image_that_is_listed_without_boxes_gets_no_boxes_of_another():
    document = coco("a.jpg", "train/a.jpg")
    del document["annotations"][1]

    found = match(document, "a.jpg", "train/a.jpg")

    assert list(as_lists(found)) == ["a.jpg"]


def test_boxes_without_area_are_left_out_and_counted():
    document = {"a.jpg": [BOX, [1, 2, 0, 4]], "b.jpg": [[1, 2, 3, -4]]}

    found = match(document, "a.jpg", "b.jpg")

    assert as_lists(found) == {"a.jpg": [[*BOX, 1]]}
    assert found.num_empty == 2


def test_detections_are_matched_by_file_name_stem_or_number():
    images = ("train/a.jpg", "b", "a.jpg", 139, "unknown.jpg")
    document = [
        {"image_id": image, "category_id": 1, "bbox": [0, index, 8, 6], "score": (index + 1) / 8}
        for index, image in enumerate(images)
    ]
    names = ("a.jpg", "b.png", "train/a.jpg", "000000000139.jpg", "c.jpg")

    found = match(document, *names)

    assert as_lists(found) == {
        "a.jpg": [[0, 2, 8, 6, 0.375]],
        "b.png": [[0, 1, 8, 6, 0.25]],
        "train/a.jpg": [[0, 0, 8, 6, 0.125]],
        "000000000139.jpg": [[0, 3, 8, 6, 0.5]],
    }
    assert found.boxes_by_path[Path("a.jpg")].dtype == np.float64


def test_a_numeric_id_that_names_no_input_is_refused(tmp_path: Path):
    document = [{"image_id": image, "bbox": BOX, "score": 0.5} for image in (7, 8)]

    with pytest.raises(DataError) as refused:
        load(tmp_path, document, "7.jpg", "a.jpg")

    assert str(refused.value) == (
        "image_id must be a file name, got numbers that name no input\n"
        f"  --boxes {tmp_path / 'boxes.json'}: image_id 8\n"
        '  fix: write the file\'s name: {"image_id": "a.jpg", ...}'
    )


@pytest.mark.parametrize(
    ("names", "unknown"),
    [
        (["a.jpg", "b.jpg"], ["7", "8"]),
        (["a.jpg", "7.jpg"], ["8"]),
        (["a.jpg", "007.jpg", "8.png"], []),
        (["11.jpg", "12.jpg"], []),  # all names are numbers: 7 and 8 are images of other folders
    ],
)
def test_numeric_ids_without_an_input_are_unknown(names: list[str], unknown: list[str]):
    detections = [{"image_id": image_id} for image_id in (8, 7, 7, "c.jpg")]

    assert find_unknown_ids(detections, [Path(name) for name in names]) == unknown


def test_detections_of_more_images_than_the_inputs_are_accepted(tmp_path: Path):
    document = [{"image_id": image, "bbox": BOX, "score": 0.5} for image in (7, 8, 9)]

    found = load(tmp_path, document, "000000000008.jpg", "11.jpg")

    assert list(found.boxes_by_path) == [tmp_path / "000000000008.jpg"]


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ({"c.jpg": [BOX]}, "c.jpg"),
        ({"a.jpg": [[1, 2, 0, 4]]}, "a.jpg, 1 boxes without area"),
        ([], "no names"),
    ],
)
def test_boxes_for_none_of_the_inputs_are_refused(tmp_path: Path, document: object, names: str):
    with pytest.raises(DataError) as refused:
        load(tmp_path, document, "a.jpg", "b.jpg")

    assert str(refused.value) == (
        "--boxes must have a box for at least one input, got none\n"
        f"  --boxes {tmp_path / 'boxes.json'}: {names} | inputs: a.jpg, b.jpg\n"
        "  fix: name the images there by their paths below --input"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSONDecodeError"),
        ("[" * 100_000, "RecursionError"),
        ('{"a.jpg": [[1, 2, 3]]}', "a.jpg[0] is [1, 2, 3] where 4 numbers are wanted"),
        ('{"a.jpg": [[1, 2, NaN, 4]]}', "a.jpg[0][2] is nan where a number is wanted"),
        ('{"a.jpg": 3}', "TypeError"),
        ("[1]", "[0] must be an object, got 1"),
        ('[{"bbox": [1, 1, 2, 2]}]', "KeyError: 'image_id'"),
        (
            '[{"image_id": true, "bbox": [1, 1, 2, 2]}]',
            "[0].image_id must be a name or a number, got True",
        ),
        ('{"annotations": [{"image_id": 1, "bbox": [1, 1, 2, 2]}], "images": []}', "KeyError: 1"),
    ],
)
def test_invalid_boxes_are_refused(tmp_path: Path, text: str, reason: str):
    (tmp_path / "boxes.json").write_text(text)

    with pytest.raises(DataError) as refused:
        load_box_file(tmp_path / "boxes.json", [tmp_path / "a.jpg"])

    assert refused.value.what.startswith("invalid --boxes: ")
    assert reason in refused.value.what
    assert refused.value.where == f"--boxes {tmp_path / 'boxes.json'}"


def test_boxes_of_single_frames_override_those_of_the_video():
    document = {
        "day/clip.mp4": [BOX],
        "clip.mp4#12": [OTHER, BOX],
        "clip.mp4#13": [],
        "a#12.jpg": [OTHER],
    }

    found = match(document, "day/clip.mp4", "b.mp4", "a#12.jpg")

    video, image = Path("day/clip.mp4"), Path("a#12.jpg")
    assert found.get_boxes(video, 0).tolist() == [[*BOX, 1]]
    assert found.get_boxes(video, 12).tolist() == [[*OTHER, 1], [*BOX, 1]]
    assert found.get_boxes(video, 13).tolist() == []
    assert found.get_boxes(Path("b.mp4"), 12) is None
    assert found.get_boxes(image, None).tolist() == [[*OTHER, 1]]


def test_a_video_may_have_boxes_of_single_frames_only():
    found = match([{"image_id": "clip.mp4#3", "bbox": BOX, "score": 0.5}], "clip.mp4")

    assert found.get_boxes(Path("clip.mp4"), 3).tolist() == [[*BOX, 0.5]]
    assert found.get_boxes(Path("clip.mp4"), 4) is None


def test_a_file_whose_only_frames_have_no_boxes_is_empty():
    assert not match({"clip.mp4#3": []}, "clip.mp4")
    assert match({"clip.mp4#3": [BOX]}, "clip.mp4")
    assert match({"a.jpg": [BOX]}, "a.jpg")
