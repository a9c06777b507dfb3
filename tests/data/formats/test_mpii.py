import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from hrnet_ray.data.annotations import AnnotationSet
from hrnet_ray.data.formats.mpii import PADDING, read_mpii
from hrnet_ray.errors import DataError
from hrnet_ray.pose.geometry import box_to_center_scale

HEAD_TOP, UPPER_NECK, LEFT_WRIST = 9, 8, 15


def record(**changes: Any) -> dict[str, Any]:
    usual = {
        "image": "a.jpg",
        "center": [100.0, 60.0],
        "scale": 0.5,
        "joints": [[10.0 * at, 5.0 * at] for at in range(16)],
        "joints_vis": [1] * 16,
    }
    return {**usual, **changes}


def read(folder: Path, *records: object, gt_valid: Path | None = None) -> AnnotationSet:
    (folder / "valid.json").write_text(json.dumps(records))
    return read_mpii(folder / "valid.json", gt_valid=gt_valid)


def center_and_scale(labels: AnnotationSet, *, input_hw: tuple[int, int]) -> tuple[list, list]:
    """What the published code calls c and s, after all its changes."""
    boxes = torch.tensor([instance.box_xywh for instance in labels.instances], dtype=torch.float64)
    center_xy, scale_wh = box_to_center_scale(boxes, input_hw=input_hw, padding=PADDING)
    return center_xy.tolist(), scale_wh[:, 0].tolist()


def write_truth(path: Path, *, people: int = 1, **changes: Any) -> Path:
    """A gt_valid.mat: everything visible at (7, 4), heads 30 wide and 40 high."""
    corners = np.array([[10.0, 20.0], [40.0, 60.0]])
    usual = {
        "jnt_missing": np.zeros((16, people)),
        "pos_gt_src": np.broadcast_to(np.array([7.0, 4.0])[:, None], (16, 2, people)),
        "headboxes_src": np.broadcast_to(corners[..., None], (2, 2, people)),
    }
    scipy.io.savemat(path, {**usual, **changes})
    return path


def test_matlab_counts_from_one_and_we_from_zero(tmp_path: Path):
    (person,) = read(tmp_path, record()).instances

    assert person.image == "a.jpg"
    assert person.image_xy.tolist() == [[10.0 * at - 1, 5.0 * at - 1] for at in range(16)]
    assert person.visible.all()


def test_a_keypoint_of_visibility_zero_is_hidden(tmp_path: Path):
    seen = [1] * 15 + [0]

    (person,) = read(tmp_path, record(joints_vis=seen)).instances

    assert person.visible.tolist() == [True] * 15 + [False]
    assert person.image_xy[LEFT_WRIST].tolist() == [0, 0]


def test_a_box_is_the_height_of_a_person_about_the_lowered_centre(tmp_path: Path):
    (person,) = read(tmp_path, record()).instances

    # Scale 0.5 is 100 px; the centre goes 7.5 px down, then everything 1 px up and left.
    assert person.box_xywh == (49, 16.5, 100, 100)
    assert person.area == 100**2


@pytest.mark.parametrize("input_hw", [(256, 256), (256, 192)])
def test_the_published_centre_and_scale_come_back(tmp_path: Path, input_hw: tuple[int, int]):
    labels = read(tmp_path, record(), record(center=[-1.0, 60.0]), record(scale=3.0))

    center_xy, scale = center_and_scale(labels, input_hw=input_hw)

    # c[1] += 15 s and s *= 1.25, both unless c[0] == -1; then c -= 1.
    assert center_xy == [[99, 66.5], [-2, 59], [99, 104]]
    assert scale == [0.625, 0.5, 3.75]


def test_a_head_is_the_way_from_neck_to_top_and_a_note_says_so(tmp_path: Path):
    joints = record()["joints"]
    joints[UPPER_NECK], joints[HEAD_TOP] = [50, 80], [80, 40]
    labels = read(tmp_path, record(joints=joints), record(joints_vis=[1] * 9 + [0] + [1] * 6, joints=joints))

    assert labels.instances[0].head_size == 50
    assert math.isnan(labels.instances[1].head_size)
    assert labels.notes == [
        "valid.json: no gt_valid.mat; head size is the distance from upper_neck to head_top, so "
        "PCKh is not the published figure"
    ]


def test_gt_valid_gives_points_visibility_and_head_boxes(tmp_path: Path):
    missing = np.zeros((16, 2))
    missing[LEFT_WRIST, 1] = 1
    truth = write_truth(tmp_path / "gt_valid.mat", people=2, jnt_missing=missing)

    labels = read(tmp_path, record(), record(), gt_valid=truth)

    first, second = labels.instances
    assert first.head_size == pytest.approx(0.6 * 50)
    assert first.image_xy.tolist() == [[6, 3]] * 16
    assert second.image_xy.tolist() == [[6, 3]] * 15 + [[0, 0]]
    assert second.visible.tolist() == [True] * 15 + [False]
    assert first.box_xywh == (49, 16.5, 100, 100)
    assert labels.notes == ["gt_valid.mat: visibility differs from valid.json at 1 keypoints (left_wrist 1)"]


def test_differing_visibility_is_counted_for_each_keypoint(tmp_path: Path):
    missing = np.zeros((16, 3))
    missing[[HEAD_TOP, LEFT_WRIST], :2] = 1
    truth = write_truth(tmp_path / "gt_valid.mat", people=3, jnt_missing=missing)
    hidden = record(joints_vis=[1] * 15 + [0])

    labels = read(tmp_path, record(), hidden, hidden, gt_valid=truth)

    # The left wrist: hidden by the truth only, by both, and by the JSON only.
    assert labels.notes == [
        "gt_valid.mat: visibility differs from valid.json at 4 keypoints (head_top 2, left_wrist 2)"
    ]


def test_a_gt_valid_that_agrees_needs_no_note(tmp_path: Path):
    labels = read(tmp_path, record(), gt_valid=write_truth(tmp_path / "gt_valid.mat"))

    assert labels.notes == []


def test_a_gt_valid_of_other_rows_is_refused(tmp_path: Path):
    truth = write_truth(tmp_path / "gt_valid.mat", people=3)

    with pytest.raises(DataError) as error:
        read(tmp_path, record(), record(), gt_valid=truth)

    assert str(error.value) == (
        "2 records but 3 rows of truth\n"
        f"  {truth}\n"
        "  fix: give the gt_valid.mat that belongs to this annotation file (valid.json)"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"jnt_missing": np.zeros((14, 2))},
        {"pos_gt_src": np.zeros((16, 3, 2))},
        {"headboxes_src": np.zeros((2, 2, 1))},
    ],
)
def test_a_gt_valid_of_other_shapes_is_refused(tmp_path: Path, changes: dict[str, np.ndarray]):
    truth = write_truth(tmp_path / "gt_valid.mat", people=2, **changes)

    with pytest.raises(DataError, match=r"a gt_valid.mat that cannot be read\n  .*have shapes"):
        read(tmp_path, record(), record(), gt_valid=truth)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pos_gt_src": np.full((16, 2, 2), math.nan)}, "coordinates that are no numbers"),
        ({"pos_gt_src": np.full((16, 2, 2), "x")}, "could not convert|have shapes"),
        ({"jnt_missing": {"a": 1}}, "a sequence|float"),
    ],
)
def test_a_gt_valid_of_no_numbers_is_refused(tmp_path: Path, changes: dict, why: str):
    truth = write_truth(tmp_path / "gt_valid.mat", people=2, **changes)

    with pytest.raises(DataError, match=f"a gt_valid.mat that cannot be read\\n  .*({why})"):
        read(tmp_path, record(), record(), gt_valid=truth)


def test_a_missing_keypoint_may_have_any_coordinates(tmp_path: Path):
    points, missing = np.full((16, 2, 1), 5.0), np.zeros((16, 1))
    points[LEFT_WRIST], missing[LEFT_WRIST] = math.nan, 1
    truth = write_truth(tmp_path / "gt_valid.mat", pos_gt_src=points, jnt_missing=missing)

    (person,) = read(tmp_path, record(), gt_valid=truth).instances

    assert person.image_xy.tolist() == [[4, 4]] * 15 + [[0, 0]]


def test_a_gt_valid_that_is_damaged_or_not_there_is_refused(tmp_path: Path):
    whole = write_truth(tmp_path / "gt_valid.mat").read_bytes()
    (tmp_path / "half.mat").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(DataError, match="a MATLAB file that cannot be read"):
        read(tmp_path, record(), gt_valid=tmp_path / "half.mat")
    with pytest.raises(DataError, match=r"--gt-valid .*no.mat"):
        read(tmp_path, record(), gt_valid=tmp_path / "no.mat")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"center": [1, 2, 3]}, "center is [1, 2, 3] where 2 numbers are wanted"),
        ({"center": None}, "center is None where 2 numbers are wanted"),
        ({"scale": 0}, "scale is 0"),
        ({"scale": "1.5"}, "scale is '1.5' where a number is wanted"),
        ({"scale": math.inf}, "scale is inf where a number is wanted"),
        ({"scale": 10**400}, "scale is 1000"),
        ({"joints": [[1, 2]] * 15}, "joints is [[1, 2], [1, 2], "),
        ({"joints": [[1, 2]] * 15 + [[1]]}, "joints[15] is [1] where 2 numbers are wanted"),
        ({"joints": [[1, math.nan]] * 16}, "joints[0][1] is nan where a number is wanted"),
        ({"joints_vis": [1] * 15}, "joints_vis is [1, 1, "),
        ({"joints_vis": [None] * 16}, "joints_vis[0] is None where a number is wanted"),
        ({"image": None}, "image is None where a file name is wanted"),
    ],
)
def test_a_record_that_cannot_be_read_is_told(tmp_path: Path, changes: dict, reason: str):
    with pytest.raises(DataError) as error:
        read(tmp_path, record(), record(**changes))

    assert error.value.what.startswith(f"a record that cannot be read ({reason}")
    assert error.value.where == "valid.json: [1]"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[{", "a file that is no JSON"),
        ("{}", "a JSON file that is not MPII's list of records"),
        ("[[]]", "a JSON file that is not MPII's list of records"),
    ],
)
def test_another_kind_of_file_is_told(tmp_path: Path, text: str, what: str):
    (tmp_path / "valid.json").write_text(text)

    with pytest.raises(DataError) as error:
        read_mpii(tmp_path / "valid.json")

    assert error.value.what == what
    assert str(tmp_path / "valid.json") in error.value.where


def test_the_real_people_are_read_completely(shared_data: Path):
    path = shared_data / "mpii" / "test_mpii.json"
    records = json.loads(path.read_text())

    labels = read_mpii(path)

    assert labels.num_read == len(labels.instances) == 5
    for person, content in zip(labels.instances, records, strict=True):
        seen = np.array(content["joints_vis"]) > 0
        assert person.image == content["image"]
        assert person.visible.tolist() == seen.tolist()
        assert (person.image_xy[seen] == np.array(content["joints"])[seen] - 1).all()
