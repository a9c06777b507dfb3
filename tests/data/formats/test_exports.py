"""Files as CVAT and Label Studio really write them, with what they are known to get wrong."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from hrnet_ray.data.annotations import AnnotationSet
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.formats.label_studio import read_label_studio
from hrnet_ray.data.formats.label_studio_tasks import parse_image_name_from_url
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import ATRW, Skeleton

FOX = Skeleton(name="fox", keypoints=("left_ear", "right_ear", "nose"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "foxes.json"


def read(path: Path, content: object, skeleton: Skeleton | None = None) -> AnnotationSet:
    path.write_text(json.dumps(content))
    return read_coco(path, skeleton=skeleton)


def refused(path: Path, content: object, skeleton: Skeleton | None = None) -> DataError:
    with pytest.raises(DataError) as error:
        read(path, content, skeleton)
    return error.value


def reasons(labels: AnnotationSet) -> list[tuple[str, str]]:
    return [(str(thing.reason), thing.detail) for thing in labels.skipped]


# CVAT, COCO Keypoints 1.0.


def cvat_annotation(id: int, **changes: Any) -> dict[str, Any]:
    """A skeleton with a rectangle in its group, whose box CVAT then writes."""
    usual = {
        "id": id,
        "image_id": 1,
        "category_id": 2,
        "segmentation": [],
        "area": 2400.0,
        "bbox": [5.5, 8.0, 60.0, 40.0],
        "iscrowd": 0,
        "attributes": {"occluded": False},
        "keypoints": [21.05, 17.12, 2, 47.93, 17.98, 1, 37.62, 40.88, 2],
        "num_keypoints": 3,
    }
    return usual | changes


def cvat(*annotations: dict[str, Any]) -> dict[str, Any]:
    nothing = {"supercategory": "", "keypoints": [], "skeleton": []}
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "description": "", "year": ""},
        "categories": [
            {"id": 1, "name": "fox_box", **nothing},
            {
                "id": 2,
                "name": "fox",
                "supercategory": "",
                "keypoints": ["left_ear", "right_ear", "nose"],
                "skeleton": [[2, 3], [1, 3]],
            },
        ],
        "images": [
            {"id": 1, "width": 90, "height": 60, "file_name": "day/a.jpg", "license": 0},
        ],
        "annotations": list(annotations) or [cvat_annotation(1)],
    }


def test_the_skeleton_is_found_beside_the_label_of_the_boxes(path: Path):
    labels = read(path, cvat())

    (fox,) = labels.instances
    assert labels.skeleton.name == "fox"
    assert labels.skeleton.bones == (("right_ear", "nose"), ("left_ear", "nose"))
    assert (fox.image, fox.box_xywh) == ("day/a.jpg", (5.5, 8.0, 59.0, 39.0))
    assert fox.visible.all()  # an occluded point (1) is labelled too
    assert labels.notes == []


def test_a_track_outside_its_frames_is_skipped_by_name(path: Path):
    empty = {"keypoints": [], "num_keypoints": 0, "bbox": [0, 0, 0, 0], "area": 0}

    labels = read(path, cvat(cvat_annotation(1), cvat_annotation(2, **empty)))

    assert len(labels.instances) == 1
    assert reasons(labels) == [("no keypoints", "empty, and a box of zeros, as CVAT writes a track outside its frames")]


def test_a_skeleton_without_thickness_is_skipped_by_name(path: Path):
    one = {"keypoints": [72.45, 31.01, 2, 0, 0, 0, 0, 0, 0], "bbox": [72.45, 31.01, 0.0, 0.0]}
    line = {"keypoints": [12, 31, 2, 50, 31, 2, 0, 0, 0], "bbox": [12, 31, 38, 0.0]}
    zeros = {"keypoints": [12, 31, 2, 0, 0, 0, 0, 0, 0], "bbox": [0, 0, 0, 0]}

    labels = read(path, cvat(*(cvat_annotation(n, **kind) for n, kind in enumerate([one, line, zeros]))))

    assert labels.instances == []
    assert [reason for reason, _ in reasons(labels)] == ["empty box"] * 3


def test_points_marked_outside_keep_their_coordinates_and_are_not_used(path: Path):
    keypoints = [21.05, 17.12, 2, 47.93, 17.98, 0, 37.62, 40.88, 2]

    labels = read(path, cvat(cvat_annotation(1, keypoints=keypoints, num_keypoints=2)))

    assert labels.instances[0].visible.tolist() == [True, False, True]
    assert labels.instances[0].image_xy[1].tolist() == [0, 0]
    assert labels.notes == [
        "foxes.json: 1 of 1 annotations had coordinates of keypoints whose visibility is 0: they were not used"
    ]


def test_boxes_that_were_made_of_the_points_are_told_where_most_are(path: Path):
    tight = {"bbox": [21.05, 17.12, 26.88, 23.76], "area": 638.7}
    wide = cvat_annotation(1)

    mostly = read(path, cvat(wide, cvat_annotation(2, **tight), cvat_annotation(3, **tight)))
    some = read(path, cvat(wide, cvat_annotation(2, **tight)))

    assert mostly.instances[1].box_xywh == pytest.approx((21.05, 17.12, 25.88, 22.76))
    assert [note.split(",")[0] for note in mostly.notes] == [
        "foxes.json: 2 of 3 annotations had a box that ends at its outermost points"
    ]
    assert some.notes == []


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"bbox": [0, 0, 0, 0]}, "no box, or one of zeros: it was taken around the points"),
        ({"num_keypoints": 2}, "a num_keypoints that is not the number of labelled keypoints"),
        (
            {"keypoints": [21, 17, 2, 0, 0, 2, 37, 40, 2]},
            "keypoints marked visible at (0, 0): they were taken as not labelled",
        ),
        (
            {"keypoints": [21, 17, 2, 40, 20, 0.9, 37, 40, 2]},
            "a visibility other than 0, 1 or 2: above 0 was taken as labelled",
        ),
        (
            {"keypoints": [21, 17, 2, -3, 20, 2, 37, 40, 2]},
            "labelled keypoints outside the image: they were kept",
        ),
        ({"area": 0.25}, "an area below 1 square pixel: their box's was taken"),
        ({"area": 100}, "an area larger than their box, or below a twentieth of it"),
        ({"area": 9000}, "an area larger than their box, or below a twentieth of it"),
    ],
)
def test_each_defect_is_counted_and_told(path: Path, changes: dict[str, Any], note: str):
    labels = read(path, cvat(cvat_annotation(1), cvat_annotation(2, **changes)))

    assert len(labels.instances) == 2
    assert len(labels.notes) == 1
    assert labels.notes[0].startswith(f"foxes.json: 1 of 2 annotations had {note}")


def test_a_keypoint_at_the_corner_is_not_learnt(path: Path):
    labels = read(path, cvat(cvat_annotation(1, keypoints=[21, 17, 2, 0, 0, 2, 37, 40, 2])))
    none = read(path, cvat(cvat_annotation(1, keypoints=[0, 0, 2] * 3)))

    assert labels.instances[0].visible.tolist() == [True, False, True]
    assert reasons(none) == [("no keypoints", "every keypoint is at (0, 0)")]


def test_absent_elements_make_too_few_numbers_and_are_refused(path: Path):
    error = refused(path, cvat(cvat_annotation(7, keypoints=[21, 17, 2, 37, 40, 2])))

    assert error.what == "6 keypoint numbers where 'fox' has 3 keypoints"
    assert error.where == "foxes.json: annotations[0] (id 7)"


def test_the_export_without_points_names_the_one_with(path: Path):
    content = cvat()
    del content["categories"][1]["keypoints"], content["annotations"][0]["keypoints"]

    error = refused(path, content)

    assert error.what == "categories with no keypoints: the skeleton is not clear"
    assert error.fix == ("no annotation has keypoints: export CVAT's `COCO Keypoints 1.0`, Label Studio's JSON")


def test_one_category_for_each_keypoint_is_no_pose(path: Path):
    points = [{"id": n, "image_id": 1, "category_id": n, "bbox": [9 * n, 7, 1, 1], "area": 0} for n in (1, 2)]
    content = cvat(*points) | {"categories": [{"id": n, "name": f"p{n}"} for n in (1, 2)]}

    assert refused(path, content).fix.startswith("no annotation has keypoints")
    assert [reason for reason, _ in reasons(read(path, content, FOX))] == ["no keypoints"] * 2


def test_a_category_with_other_keypoints_is_left_out_by_name(path: Path):
    hen = {"id": 3, "name": "hen", "keypoints": ["beak", "tail"], "skeleton": []}
    content = cvat(cvat_annotation(1), cvat_annotation(2, category_id=3, keypoints=[9, 9, 2] * 2))
    content["categories"].append(hen)

    labels = read(path, content, FOX)

    assert [fox.id for fox in labels.instances] == [1]
    assert [(thing.item, thing.reason) for thing in labels.skipped] == [("annotation 2 (day/a.jpg)", "other category")]


def test_known_keypoints_bring_their_sigmas(path: Path):
    tiger = {"id": 2, "name": "tiger", "keypoints": list(ATRW.keypoints), "skeleton": []}
    content = cvat(cvat_annotation(1, keypoints=[9, 9, 2] * 15, num_keypoints=15))

    found = read(path, content | {"categories": [tiger]}).skeleton

    assert (found.name, found.oks_sigmas, found.upper_body) == (
        *("tiger", ATRW.oks_sigmas),
        ATRW.upper_body,
    )
    assert found.other_oks_sigmas == ATRW.other_oks_sigmas


def test_a_box_around_the_points_is_clipped_and_not_moved(path: Path):
    keypoints = [-5, -5, 2, 20, 20, 2, 0, 0, 0]

    labels = read(path, cvat(cvat_annotation(1, keypoints=keypoints, bbox=None)))

    assert labels.instances[0].box_xywh == (0, 0, 20, 20)


def test_other_names_than_the_skeletons_are_told(path: Path):
    wolf = Skeleton(name="wolf", keypoints=("left_ear", "right_ear", "muzzle"))

    (note,) = read(path, cvat(), wolf).notes

    assert note.endswith("by their place, it was taken nose as muzzle")


@pytest.mark.parametrize(
    "keypoints",
    [
        ("nose", "left_ear", "right_ear"),
        ("Nose", "LeftEar", "RightEar"),
        ("muzzle", "left_ear", "right_ear"),
    ],
)
def test_a_given_skeleton_of_another_order_is_refused(path: Path, keypoints: tuple[str, ...]):
    turned = Skeleton(name="turned", keypoints=keypoints)

    error = refused(path, cvat(), turned)

    assert error.what == "the keypoints of 'turned', but in another order"
    assert error.where == "foxes.json: category 2 has left_ear, right_ear, nose"
    assert read(path, cvat(), FOX).instances


# Label Studio, COCO.


def studio_coco(*annotations: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """All ids count from 0; the keypoints' category is called default."""
    return {
        "images": [{"width": 90, "height": 60, "id": n, "file_name": name} for n, name in enumerate(names)],
        "categories": [
            {"id": 0, "name": "fox"},
            {
                "id": 1,
                "name": "default",
                "supercategory": "default",
                "keypoints": ["left_ear", "right_ear", "nose"],
                "skeleton": [],
            },
        ],
        "annotations": [{"id": n, **one} for n, one in enumerate(annotations)],
        "info": {"year": 2026, "version": "1.0", "contributor": "Label Studio"},
    }


def rectangle(image_id: int, *bbox: float) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": 0,
        "segmentation": [],
        "bbox": list(bbox),
        "ignore": 0,
        "iscrowd": 0,
        "area": bbox[2] * bbox[3],
    }


def pose(image_id: int) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": 1,
        "keypoints": [21, 17, 2, 0, 0, 0, 38, 41, 2],
        "num_keypoints": 2,
        "bbox": [21, 17, 17, 24],
        "iscrowd": 0,
    }


ORDER = (
    "foxes.json: Label Studio orders names by its list of labels, but points by their model_index: "
    "see that both are alike"
)


def test_a_pose_gets_the_one_rectangle_of_its_picture(path: Path):
    labels = read(path, studio_coco(rectangle(0, 10, 8, 41, 45), pose(0), names=["a.jpg"]))

    (fox,) = labels.instances
    assert (fox.id, fox.image_id) == (1, 0)
    assert fox.box_xywh == (10, 8, 40, 44)
    assert fox.area == 41 * 45
    assert reasons(labels) == [("no keypoints", "")]
    assert labels.notes == [
        ORDER, "foxes.json: 1 poses were given the one rectangle that their image has",
    ]  # fmt: skip


def test_a_rectangle_that_does_not_hold_the_points_is_not_theirs(path: Path):
    labels = read(path, studio_coco(rectangle(0, 30, 8, 41, 45), pose(0), names=["a.jpg"]))

    assert labels.instances[0].box_xywh == (21, 17, 16, 23)


def test_the_points_of_several_animals_in_one_pose_are_skipped(path: Path):
    content = studio_coco(
        rectangle(0, 10, 8, 41, 45), rectangle(0, 50, 8, 30, 45), pose(0), pose(1),
        names=["a.jpg", "b.jpg"],
    )  # fmt: skip

    labels = read(path, content)

    assert [fox.image for fox in labels.instances] == ["b.jpg"]
    assert reasons(labels)[-1] == ("merged poses", "one pose, several boxes")
    assert labels.num_read == 4
    assert labels.notes[1].startswith("foxes.json: 1 poses mix the points of several animals")


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("images/cb0618f6-a.png", "images/cb0618f6-a.png"),
        ("images\\cb0618f6-a.png", "images/cb0618f6-a.png"),
        ("..\\..\\label-studio\\media\\upload\\4\\cb0618f6-a.png", "cb0618f6-a.png"),
        ("../../label-studio/media/upload/4/cb0618f6-a.png", "cb0618f6-a.png"),
        ("/label-studio/data/media/upload/4/a.png", "a.png"),
        ("a.png", "a.png"),
    ],
)
def test_file_names_that_lead_into_the_tool_are_shortened(path: Path, name: str, image: str):
    labels = read(path, studio_coco(pose(0), names=[name]))

    assert labels.instances[0].image == image
    assert any("were shortened" in note for note in labels.notes) == (name != image)
    assert any("--images is the folder above" in note for note in labels.notes) == ("s/" in image)


def test_a_picture_of_two_annotators_is_told(path: Path):
    labels = read(path, studio_coco(pose(0), pose(1), names=["a.jpg", "a.jpg"]))

    assert len(labels.instances) == 2
    assert "1 images are listed again for another annotator" in labels.notes[1]


# Label Studio, JSON.


def region(kind: str, **changes: Any) -> dict[str, Any]:
    """One entry of `result`: an image of 200 x 50, so that x and y cannot be mixed up."""
    inner = ("x", "y", "width", "height", "rotation")
    value = {key: changes.pop(key) for key in inner if key in changes}
    if "label" in changes:
        value[kind] = [changes.pop("label")]
    usual = {
        "id": f"{kind}{value}",
        "type": kind,
        "from_name": "tag",
        "to_name": "image",
        "original_width": 200,
        "original_height": 50,
        "image_rotation": 0,
        "value": value,
    }
    return usual | changes


def point(label: str, x: object, y: object, **changes: Any) -> dict[str, Any]:
    return region("keypointlabels", label=label, x=x, y=y, width=0.5, **changes)


def box(id: str, x: float, y: float, width: float, height: float, **changes: Any) -> dict:
    return region("rectanglelabels", id=id, label="fox", x=x, y=y, width=width, height=height, **changes)


def task(*result: dict[str, Any], image: str = "/data/upload/4/cb0618f6-a.jpg", **changes: Any):
    usual = {
        "id": 17,
        "data": {"image": image},
        "annotations": [{"id": 3, "was_cancelled": False, "result": list(result)}],
        "predictions": [],
    }
    return usual | changes


def test_a_pose_is_a_rectangle_and_the_points_under_it(path: Path):
    labels = read(
        path,
        [
            task(
                box("A", 10, 20, 30, 40),
                box("B", 50, 20, 30, 40),
                point("nose", 20, 40, parentID="A"),
                point("Left Ear", 60, 30, parentID="B"),
                point("nose", 70, 50, parentID="B"),
            )
        ],
        FOX,
    )

    first, second = labels.instances
    assert (first.id, second.id, first.image, first.image_id) == (0, 1, "cb0618f6-a.jpg", 0)
    assert first.box_xywh == (20, 10, 60, 20)
    assert first.area == 1200
    assert first.image_xy.tolist() == [[0, 0], [0, 0], [40, 20]]
    assert first.visible.tolist() == [False, False, True]
    assert second.image_xy.tolist() == [[120, 15], [0, 0], [140, 25]]
    assert (labels.skipped, labels.notes, labels.skeleton) == ([], [], FOX)


def test_one_rectangle_needs_no_parents(path: Path):
    labels = read(path, [task(point("nose", 20, 40), box("A", 10, 20, 30, 40))], FOX)

    assert labels.instances[0].box_xywh == (20, 10, 60, 20)


def test_points_without_a_rectangle_are_one_pose_with_a_box_around_them(path: Path):
    labels = read(path, [task(point("nose", 20, 40), point("left_ear", 10, 20))], FOX)

    assert labels.instances[0].box_xywh == (20, 10, 20, 10)
    assert labels.notes == ["foxes.json: 1 poses have no rectangle: their box was taken around the points"]


def test_a_tilted_rectangle_becomes_the_upright_box_around_it_in_the_picture(path: Path):
    tilted = box("A", 50, 20, 10, 20, rotation=90)  # its corner at (100, 10), 20 x 10 px

    labels = read(path, [task(tilted, point("nose", 48, 40))], FOX)
    beyond = read(path, [task(box("A", -5, 20, 200, 200), point("nose", 48, 40))], FOX)

    assert labels.instances[0].box_xywh == pytest.approx((90, 10, 10, 20))
    assert beyond.instances[0].box_xywh == (0, 10, 199, 39)


def test_what_belongs_to_no_pose_is_skipped_and_named(path: Path):
    labels = read(
        path,
        [
            task(box("A", 1, 2, 30, 40), box("B", 50, 2, 30, 40), point("nose", 9, 9)),
            task(point("nose", 9, 9), point("nose", 80, 9)),
            task(point("nose", 9, 9)),
            task(box("A", 1, 2, 30, 40, image_rotation=90), point("nose", 9, 9)),
            task(annotations=[{"id": 1, "was_cancelled": True, "result": []}]),
        ],
        FOX,
    )

    assert labels.instances == []
    assert reasons(labels) == [
        ("keypoint without box", "'nose': drag it under its rectangle in the list of regions"),
        ("no keypoints", "a rectangle"),
        ("no keypoints", "a rectangle"),
        ("keypoint twice", "'nose'"),
        ("empty box", "0.0 x 0.0 px"),
        ("turned image", "it was turned in the tool"),
        ("cancelled", "the annotator skipped this task"),
    ]
    assert labels.skipped[0].item == "task 17 (cb0618f6-a.jpg)"


def test_of_several_annotators_the_truth_or_the_newest_is_read(path: Path):
    def answers(*marks: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            task(
                annotations=[
                    {"id": n, "result": [point("nose", n, 9), box("A", 0, 0, 50, 50)], **mark}
                    for n, mark in enumerate(marks, 1)
                ]
            )
        ]

    newest = read(path, answers({"updated_at": "2026-03-02"}, {"updated_at": "2026-03-01"}), FOX)
    truth = read(path, answers({"updated_at": "2026-03-02"}, {"ground_truth": True}), FOX)

    assert newest.instances[0].image_xy[2].tolist() == [2, 4.5]
    assert reasons(newest) == [("other annotation", "annotation 2")]
    assert truth.instances[0].image_xy[2].tolist() == [4, 4.5]


def test_what_is_no_rectangle_and_no_keypoint_is_counted(path: Path):
    prompt = region("keypointlabels", label="nose", width=0.5)
    brush = region("brushlabels", label="fox")
    relation = {"type": "relation", "from_id": "A", "to_id": "B", "direction": "right"}

    labels = read(
        path,
        [
            task(prompt, brush, relation, point("nose", 9, 9), box("A", 0, 0, 50, 50)),
            task(annotations=[]),
            task(brush),
        ],
        FOX,
    )

    assert len(labels.instances) == 1
    assert labels.notes == [
        "foxes.json: 1 keypoints have no place: they were not read",
        "foxes.json: 2 regions are neither rectangle nor keypoint: they were not read",
        "foxes.json: 1 tasks have neither rectangle nor keypoint",
        "foxes.json: 1 tasks have no annotation",
    ]


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        (
            [task(point("tail", 9, 9, id="p"))],
            "keypoint 'tail' is none of 'fox'",
            "foxes.json: [0].result[0] (id 'p')",
        ),
        (
            [task(), task(point("nose", "9", 9, id="p"))],
            "a region that cannot be read (x is '9' where a number is wanted)",
            "foxes.json: [1].result[0] (id 'p')",
        ),
        (
            [task(box("A", 1, 2, 30, 40, original_width=0))],
            "a region that cannot be read (an image of 0 x 50)",
            "foxes.json: [0].result[0] (id 'A')",
        ),
        (
            [task(box("A", 1, 2, -30, 40))],
            "a region that cannot be read (a rectangle of -30 x 40 percent)",
            "foxes.json: [0].result[0] (id 'A')",
        ),
        (
            [task(), {"id": 2}],
            "an entry that is no task of Label Studio",
            "foxes.json: [1]",
        ),
        (
            [{"id": 1, "image": "a.jpg", "label": [], "annotator": 1, "annotation_id": 3}],
            "Label Studio's JSON-MIN, which does not tell whose a keypoint is",
            "foxes.json: [0]",
        ),
        (
            [task(point("nose", 9, 9), data={"left": "a.jpg", "right": "b.jpg"})],
            "a task whose image is not clear",
            "foxes.json: [0].data: {'left': 'a.jpg', 'right': 'b.jpg'}",
        ),
        (
            [task(point("nose", 9, 9)), task(point("nose", 9, 9), image="s3://b/cb0618f6-a.jpg")],
            "two images of one file name",
            "foxes.json: [1].data: 's3://b/cb0618f6-a.jpg' and '/data/upload/4/cb0618f6-a.jpg'",
        ),
        (
            [task(annotations=[{"id": 1, "result": "none"}])],
            "a task that cannot be read (result is 'none' where a list of regions is wanted)",
            "foxes.json: [0]",
        ),
        (
            [task(annotations=[7])],
            "a task that cannot be read (annotations are not all records)",
            "foxes.json: [0]",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_cannot_be_understood_is_refused_at_its_place(path: Path, content: object, what: str, where: str):
    error = refused(path, content, FOX)

    assert (error.what, error.where) == (what, where)
    assert error.fix


def test_names_of_keypoints_must_come_from_somewhere(path: Path):
    error = refused(path, [task(point("nose", 9, 9))])

    assert error.what == "Label Studio's JSON has no order of keypoints"
    assert error.fix.startswith("name it: --skeleton with a YAML file")


def test_a_file_may_be_read_as_what_it_is(path: Path):
    path.write_text(json.dumps([task(point("nose", 9, 9), box("A", 0, 0, 50, 50))]))
    assert len(read_label_studio(path, skeleton=FOX).instances) == 1

    path.write_text(json.dumps(cvat()))
    with pytest.raises(DataError, match="no list of tasks"):
        read_label_studio(path, skeleton=FOX)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/4/cb0618f6-a%20b.jpg", "cb0618f6-a b.jpg"),
        ("/data/local-files/?d=day/a.jpg", "day/a.jpg"),
        ("http://localhost:8080/data/local-files/?d=day%2Fa%20b.jpg", "day/a b.jpg"),
        ("s3://bucket/day/a.jpg", "a.jpg"),
        ("https://example.com/day/a.jpg?token=secret", "a.jpg"),
        ("a.jpg", "a.jpg"),
    ],
)
def test_an_address_becomes_a_file_name(address: str, name: str):
    assert parse_image_name_from_url(address) == name


@pytest.mark.parametrize("address", ["", "/", "https://example.com", "/data/local-files/"])
def test_an_address_without_a_file_is_refused(path: Path, address: str):
    error = refused(path, [task(point("nose", 9, 9), image=address)], FOX)

    assert error.what.endswith("where a file name is wanted)")


def test_an_old_export_calls_its_answers_completions(path: Path):
    old = copy.deepcopy(task(point("nose", 9, 9), box("A", 0, 0, 50, 50)))
    old["completions"] = old.pop("annotations")

    assert len(read(path, [old], FOX).instances) == 1
