"""Which boxes a file gives to which pictures."""

import json
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.cli.prediction.box_file import BoxFile, load_box_file
from hrnet_ray.errors import DataError

BOX, OTHER = [1, 2, 30, 20], [9, 5, 20, 30]


def given(folder: Path, document: object, *names: str) -> BoxFile:
    (folder / "boxes.json").write_text(json.dumps(document))
    return load_box_file(folder / "boxes.json", [folder / name for name in names])


def as_lists(boxes: BoxFile, folder: Path) -> dict[str, list[list[float]]]:
    return {
        str(path.relative_to(folder)): found.tolist() for path, found in boxes.boxes_by_path.items()
    }


def coco(*names: str) -> dict:
    """A COCO file with a box for each picture, at the height of its place."""
    return {
        "images": [{"id": 40 + at, "file_name": name} for at, name in enumerate(names)],
        "annotations": [{"image_id": 40 + at, "bbox": [0, at, 8, 6]} for at in range(len(names))],
    }


def test_a_coco_file_gives_boxes_by_the_pictures_path_first_and_by_its_name_then(tmp_path: Path):
    names = ("train/a.jpg", "val/a.jpg", "b.jpg", "train/c.jpg")

    found = given(tmp_path, coco("train/a.jpg", "a.jpg", "b.jpg", "val/c.jpg"), *names)

    assert as_lists(found, tmp_path) == {
        "train/a.jpg": [[0, 0, 8, 6, 1]],
        "val/a.jpg": [[0, 1, 8, 6, 1]],
        "b.jpg": [[0, 2, 8, 6, 1]],
    }


def test_a_folder_of_the_file_names_may_lie_above_the_pictures(tmp_path: Path):
    found = read_boxes_in(tmp_path / "images" / "train", coco("train/a.jpg"), "a.jpg")

    assert [boxes.tolist() for boxes in found.boxes_by_path.values()] == [[[0, 0, 8, 6, 1]]]


def read_boxes_in(folder: Path, document: object, *names: str) -> BoxFile:
    folder.mkdir(parents=True)
    return given(folder, document, *names)


def test_a_picture_that_the_file_knows_without_a_box_takes_no_other_ones(tmp_path: Path):
    document = coco("a.jpg", "train/a.jpg")
    del document["annotations"][1]

    found = given(tmp_path, document, "a.jpg", "train/a.jpg")

    assert list(as_lists(found, tmp_path)) == ["a.jpg"]


def test_boxes_without_area_are_left_out_and_counted(tmp_path: Path):
    document = {"a.jpg": [BOX, [1, 2, 0, 4]], "b.jpg": [[1, 2, 3, -4]]}

    found = given(tmp_path, document, "a.jpg", "b.jpg")

    assert as_lists(found, tmp_path) == {"a.jpg": [[*BOX, 1]]}
    assert found.num_empty == 2


def test_detections_name_a_picture_by_its_file_its_stem_or_the_number_that_it_is(tmp_path: Path):
    images = ("train/a.jpg", "b", "a.jpg", 139, "unknown.jpg")
    document = [
        {"image_id": image, "category_id": 1, "bbox": [0, at, 8, 6], "score": (at + 1) / 8}
        for at, image in enumerate(images)
    ]
    names = ("a.jpg", "b.png", "train/a.jpg", "000000000139.jpg", "c.jpg")

    found = given(tmp_path, document, *names)

    assert as_lists(found, tmp_path) == {
        "a.jpg": [[0, 2, 8, 6, 0.375]],
        "b.png": [[0, 1, 8, 6, 0.25]],
        "train/a.jpg": [[0, 0, 8, 6, 0.125]],
        "000000000139.jpg": [[0, 3, 8, 6, 0.5]],
    }
    assert found.boxes_by_path[tmp_path / "a.jpg"].dtype == np.float64


def test_a_number_that_is_no_pictures_name_is_refused(tmp_path: Path):
    document = [{"image_id": image, "bbox": BOX, "score": 0.5} for image in (7, 8)]

    with pytest.raises(DataError) as refused:
        given(tmp_path, document, "7.jpg", "a.jpg")

    assert str(refused.value) == (
        "image_id must be a file name, got numbers that name no input\n"
        f"  --boxes {tmp_path / 'boxes.json'}: image_id 8\n"
        '  fix: write the file\'s name: {"image_id": "a.jpg", ...}'
    )


def test_a_detectors_whole_list_serves_some_of_its_pictures(tmp_path: Path):
    document = [{"image_id": image, "bbox": BOX, "score": 0.5} for image in (7, 8, 9)]

    found = given(tmp_path, document, "000000000008.jpg", "11.jpg")

    assert list(as_lists(found, tmp_path)) == ["000000000008.jpg"]


@pytest.mark.parametrize(
    ("document", "has"),
    [
        ({"c.jpg": [BOX]}, "c.jpg"),
        ({"a.jpg": [[1, 2, 0, 4]]}, "a.jpg, 1 boxes without area"),
        ([], "no names"),
    ],
)
def test_boxes_for_none_of_the_pictures_are_an_error(tmp_path: Path, document: object, has: str):
    with pytest.raises(DataError) as refused:
        given(tmp_path, document, "a.jpg", "b.jpg")

    assert str(refused.value) == (
        "--boxes must have a box for at least one input, got none\n"
        f"  --boxes {tmp_path / 'boxes.json'}: {has} | inputs: a.jpg, b.jpg\n"
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
def test_boxes_that_are_none_are_refused(tmp_path: Path, text: str, reason: str):
    (tmp_path / "boxes.json").write_text(text)

    with pytest.raises(DataError) as refused:
        load_box_file(tmp_path / "boxes.json", [tmp_path / "a.jpg"])

    assert refused.value.what.startswith("invalid --boxes: ")
    assert reason in refused.value.what
    assert refused.value.where == f"--boxes {tmp_path / 'boxes.json'}"


def test_a_video_has_boxes_for_all_frames_and_for_single_ones(tmp_path: Path):
    document = {
        "day/clip.mp4": [BOX],
        "clip.mp4#12": [OTHER, BOX],
        "clip.mp4#13": [],
        "a#12.jpg": [OTHER],
    }

    found = given(tmp_path, document, "day/clip.mp4", "b.mp4", "a#12.jpg")

    video, picture = tmp_path / "day/clip.mp4", tmp_path / "a#12.jpg"
    assert found.get_boxes(video, 0).tolist() == [[*BOX, 1]]
    assert found.get_boxes(video, 12).tolist() == [[*OTHER, 1], [*BOX, 1]]
    assert found.get_boxes(video, 13).tolist() == []
    assert found.get_boxes(tmp_path / "b.mp4", 12) is None
    assert found.get_boxes(picture, None).tolist() == [[*OTHER, 1]]


def test_boxes_of_frames_alone_serve(tmp_path: Path):
    found = given(tmp_path, [{"image_id": "clip.mp4#3", "bbox": BOX, "score": 0.5}], "clip.mp4")

    assert found.get_boxes(tmp_path / "clip.mp4", 3).tolist() == [[*BOX, 0.5]]
    assert found.get_boxes(tmp_path / "clip.mp4", 4) is None


def test_frames_without_a_box_are_no_boxes(tmp_path: Path):
    with pytest.raises(DataError, match="--boxes must have a box for at least one input, got none"):
        given(tmp_path, {"clip.mp4#3": []}, "clip.mp4")
