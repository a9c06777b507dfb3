import json
import math
from pathlib import Path
from typing import Any

import pytest

from hrnet_ray.data.annotations import AnnotationSet
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import ATRW

NAMES = ["left_ear", "right_ear", "tail"]
NO_BOX = [0, 0, 0, 0]


def category(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "name": "tiger", "keypoints": NAMES, "skeleton": [[1, 3], [2, 3]], **changes}


def annotation(**changes: Any) -> dict[str, Any]:
    usual = {
        "id": 0,
        "image_id": 0,
        "category_id": 1,
        "bbox": [10, 5, 41, 31],
        "area": 700.5,
        "iscrowd": 0,
        "keypoints": [12, 8, 2, 0, 0, 0, 40.5, 30, 1],
    }
    return {**usual, **changes}


def document(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    images = [
        {"id": 0, "file_name": "a.jpg", "width": 90, "height": 60},
        {"id": 1, "file_name": "b.jpg", "width": 60, "height": 90},
    ]
    usual = {
        "images": images,
        "annotations": list(annotations or [annotation()]),
        "categories": [category()],
    }
    return {**usual, **changes}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tigers.json"


def read(path: Path, *annotations: dict[str, Any], **changes: Any) -> AnnotationSet:
    path.write_text(json.dumps(document(*annotations, **changes)))
    return read_coco(path)


def refused(path: Path, *annotations: dict[str, Any], **changes: Any) -> DataError:
    with pytest.raises(DataError) as error:
        read(path, *annotations, **changes)
    return error.value


def test_an_annotation_becomes_an_instance(path: Path):
    (tiger,) = read(path).instances

    assert (tiger.id, tiger.image_id, tiger.image, tiger.category_id) == (0, 0, "a.jpg", 1)
    assert tiger.box_xywh == (10, 5, 40, 30)
    assert tiger.area == 700.5
    assert math.isnan(tiger.head_size)
    assert tiger.image_xy.tolist() == [[12, 8], [0, 0], [40.5, 30]]
    assert tiger.visible.tolist() == [True, False, True]


@pytest.mark.parametrize("key", ["filename", "file_name"])
def test_atrw_names_its_pictures_in_either_way(path: Path, key: str):
    images = [{"id": 0, key: "000000.jpg", "width": 90, "height": 60}]

    labels = read(path, images=images)

    assert labels.instances[0].image == "000000.jpg"


def test_a_box_of_the_whole_picture_shrinks_by_one(path: Path):
    (tiger,) = read(path, annotation(bbox=[0, 0, 90, 60])).instances

    assert tiger.box_xywh == (0, 0, 89, 59)


def test_a_box_is_clipped_to_its_picture(path: Path):
    (tiger,) = read(path, annotation(bbox=[-4, 20, 20, 500])).instances

    assert tiger.box_xywh == (0, 20, 19, 39)


def test_a_picture_without_a_size_clips_nothing(path: Path):
    (tiger,) = read(path, annotation(bbox=[50, 20, 101, 301]), images=[{"id": 0, "file_name": "a.jpg"}]).instances

    assert tiger.box_xywh == (50, 20, 100, 300)


@pytest.mark.parametrize("box", [NO_BOX, [], None])
def test_a_box_of_zeros_is_taken_around_the_visible_points(path: Path, box: list[int] | None):
    (tiger,) = read(path, annotation(bbox=box, area=0)).instances

    assert tiger.box_xywh == (12, 8, 28.5, 22)
    assert tiger.area == 28.5 * 22


def test_what_cannot_be_learnt_from_is_skipped_and_named(path: Path):
    labels = read(
        path,
        annotation(id=0),
        annotation(id=1, iscrowd=1),
        annotation(id=2, keypoints=[]),
        annotation(id=3, keypoints=[0] * 9),
        annotation(id=4, keypoints=[12, 8, 0, 0, 0, 0, 40, 30, 0]),
        annotation(id=5, image_id=1, bbox=[70, 5, 20, 20]),
    )

    assert [tiger.id for tiger in labels.instances] == [0]
    assert [(s.item, s.reason, s.detail) for s in labels.skipped] == [
        ("annotation 1 (a.jpg)", "crowd", ""),
        ("annotation 2 (a.jpg)", "no keypoints", ""),
        ("annotation 3 (a.jpg)", "no keypoints", ""),
        ("annotation 4 (a.jpg)", "no keypoints", "coordinates, but every visibility is 0"),
        ("annotation 5 (b.jpg)", "empty box", "bbox [70, 5, 20, 20]"),
    ]
    assert labels.num_read == 6


def test_the_wrong_number_of_keypoints_is_told(path: Path):
    error = refused(path, annotation(), annotation(id=7, keypoints=[1, 2, 2]))

    assert str(error) == (
        "3 keypoint numbers where 'tiger' has 3 keypoints\n"
        "  tigers.json: annotations[1] (id 7)\n"
        "  fix: give 3 numbers a keypoint (9), or another --skeleton"
    )


def test_an_annotation_of_no_picture_is_told(path: Path):
    assert str(refused(path, annotation(image_id=2))) == (
        "image_id 2 is not among the images\n"
        "  tigers.json: annotations[0] (id 0)\n"
        "  fix: add its record to `images`, or remove the annotation"
    )


def test_a_box_of_three_numbers_is_told(path: Path):
    assert str(refused(path, annotation(), annotation(id=1, bbox=[1, 2, 3]))) == (
        "an annotation that cannot be read (bbox is [1, 2, 3] where 4 numbers are wanted)\n"
        "  tigers.json: annotations[1] (id 1)\n"
        "  fix: correct this entry"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bbox": "1234"}, "bbox is '1234' where 4 numbers are wanted"),
        ({"bbox": [1, 2, None, 4]}, "bbox[2] is None where a number is wanted"),
        ({"keypoints": "12 8 2"}, "keypoints is '12 8 2' where a list is wanted"),
        ({"keypoints": [math.nan] * 9}, "keypoints[0] is nan where a number is wanted"),
        ({"keypoints": [1, 2, "2"] * 3}, "keypoints[2] is '2' where a number is wanted"),
        ({"keypoints": [1, 2, 2] * 2 + [1, math.inf, 2]}, "keypoints[7] is inf where a number is"),
        ({"category_id": None}, "category_id is None where a whole number is wanted"),
        ({"area": "700"}, "area is '700' where a number is wanted"),
        ({"area": -1}, "area is -1"),
        ({"area": math.nan}, "area is nan where a number is wanted"),
        ({"iscrowd": "0"}, "iscrowd is '0' where 0 or 1 is wanted"),
        ({"bbox": [10**400, 0, 1, 1]}, "bbox[0] is 1000"),
    ],
)
def test_a_value_that_is_no_number_is_told(path: Path, changes: dict[str, Any], reason: str):
    error = refused(path, annotation(), annotation(**{"id": 1, **changes}))

    assert error.what.startswith(f"an annotation that cannot be read ({reason}")
    assert error.where == "tigers.json: annotations[1] (id 1)"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"file_name": None}, "file_name of image 0 is None where a file name is wanted"),
        ({"file_name": 5}, "file_name of image 0 is 5 where a file name is wanted"),
        ({}, "file_name of image 0 is None where a file name is wanted"),
        ({"file_name": "a.jpg", "width": "90"}, "width is '90' where a number is wanted"),
        ({"file_name": "a.jpg", "height": math.nan}, "height is nan where a number is wanted"),
        ({"file_name": "\ud800.jpg"}, "'utf-8' codec can't encode character '\\ud800'"),
    ],
)
def test_a_picture_record_that_cannot_be_used_is_told(path: Path, image: dict, reason: str):
    error = refused(path, images=[{"id": 0, **image}])

    assert error.what.startswith(f"an annotation that cannot be read ({reason}")
    assert error.where == "tigers.json: annotations[0] (id 0)"


@pytest.mark.parametrize("id", [1.0, 2**63, None, "1", True])
def test_an_id_must_be_a_whole_number(path: Path, id: object):
    of_annotation = refused(path, annotation(), annotation(id=id))
    of_image = refused(path, images=[{"id": id, "file_name": "a.jpg"}])

    assert of_annotation.what == "an annotation without a whole number as id"
    assert of_annotation.where == "tigers.json: annotations[1]"
    assert of_image.where == "tigers.json: images[0]"


def test_two_of_one_id_are_told(path: Path):
    error = refused(path, annotation(id=4), annotation(id=5), annotation(id=4))

    assert error.what == "two annotations with id 4"
    assert error.where == "tigers.json: annotations[2]"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "a file that is no JSON"),
        ("\xff\xfe", "a file that is no JSON"),
        ("[" * 100_000, "a file that is no JSON"),
        ("[]", "a JSON file that is no COCO document"),
        ('{"images": []}', "a JSON file that is no COCO document"),
        ('{"images": [], "annotations": {}}', "a JSON file that is no COCO document"),
    ],
)
def test_another_kind_of_file_is_told(path: Path, text: str, what: str):
    path.write_text(text, encoding="latin-1")

    with pytest.raises(DataError) as error:
        read_coco(path)

    assert error.value.what == what
    assert str(path) in error.value.where


def test_a_folder_and_a_missing_file_are_told(tmp_path: Path):
    with pytest.raises(DataError) as folder:
        read_coco(tmp_path)
    with pytest.raises(DataError) as missing:
        read_coco(tmp_path / "no.json")

    assert folder.value.what == "the file is a folder"
    assert missing.value.where == f"--annotations {tmp_path}/no.json"


def test_the_category_gives_the_skeleton(path: Path):
    skeleton = read(path).skeleton

    assert skeleton.name == "tiger"
    assert skeleton.keypoints == tuple(NAMES)
    assert skeleton.bones == (("left_ear", "tail"), ("right_ear", "tail"))


def test_a_given_skeleton_needs_no_categories(path: Path):
    path.write_text(json.dumps(document(annotation(keypoints=[3, 4, 2] * 15), categories=None)))

    labels = read_coco(path, skeleton=ATRW)

    assert labels.skeleton is ATRW
    assert labels.instances[0].image_xy.tolist() == [[3, 4]] * 15


def test_categories_with_the_same_keypoints_share_a_skeleton_named_after_the_file(path: Path):
    labels = read(
        path,
        annotation(),
        annotation(id=1, category_id=2),
        categories=[category(), category(id=2, name="lion"), category(id=3, keypoints=["tail"])],
    )

    assert labels.skeleton.name == "tigers"
    assert labels.skeleton.keypoints == tuple(NAMES)
    assert [instance.category_id for instance in labels.instances] == [1, 2]


def test_categories_with_different_keypoints_are_refused(path: Path):
    bird = category(id=2, name="bird", keypoints=["beak", "left_wing", "right_wing"])
    error = refused(path, annotation(), annotation(id=1, category_id=2), categories=[category(), bird])

    assert str(error) == (
        "categories with 2 different lists of keypoints: the skeleton is not clear\n"
        f"  {path}: categories\n"
        "  fix: name it: --skeleton mpii, atrw, coco, or a YAML file"
    )


@pytest.mark.parametrize("categories", [None, [], [{"id": 1, "name": "box"}]])
def test_categories_without_keypoints_are_refused(path: Path, categories: list | None):
    error = refused(path, categories=categories)

    assert error.what == "categories with no keypoints: the skeleton is not clear"


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        ("tiger", "tigers.json: categories[0]"),
        (category(keypoints="abc"), "tigers.json: categories[0]"),
        (category(keypoints=[["a"], "b"]), "tigers.json: categories[0]"),
        (category(id=None), "tigers.json: categories[0]"),
        (category(skeleton=[[1, 2, 3]]), "tigers.json: category 1"),
        (category(skeleton=[5]), "tigers.json: category 1"),
        (category(sigmas=["x", "y", "z"]), "tigers.json: category 1"),
        (category(sigmas=[0.1]), "tigers.json: category 1, skeleton 'tiger'"),
        (category(upper_body=[9]), "tigers.json: category 1"),
        (category(keypoints=["left_ear", "nose", "tail"]), "tigers.json: category 1, skeleton"),
    ],
)
def test_a_category_that_cannot_be_read_is_told(path: Path, broken: object, where: str):
    assert refused(path, categories=[broken]).where.startswith(where)


def test_the_real_tigers_are_read_completely(shared_data: Path):
    labels = read_coco(shared_data / "atrw" / "test_atrw.json")

    assert labels.num_read == 2
    assert labels.skipped == []
    assert labels.skeleton.keypoints == ATRW.keypoints
    assert set(labels.skeleton.bones) == set(ATRW.bones)
    assert {instance.image for instance in labels.instances} == {"000061.jpg", "003464.jpg"}


def test_real_animals_of_many_categories_are_read_completely(shared_data: Path):
    path = shared_data / "ap10k" / "test_ap10k.json"

    labels = read_coco(path)

    counts = [content["num_keypoints"] for content in json.loads(path.read_text())["annotations"]]
    assert labels.num_read == 2
    assert labels.skipped == []
    assert len(labels.skeleton) == 17
    assert labels.skeleton.name == "test_ap10k"
    assert [int(instance.visible.sum()) for instance in labels.instances] == counts
