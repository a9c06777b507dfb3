import json
import math
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings, strategies as st

from hrnet_ray.data.annotations import AnnotationSet
from hrnet_ray.data.formats.mpii import read_mpii
from hrnet_ray.data.formats.mpii_release import read_mpii_release
from hrnet_ray.errors import DataError

EMPTY = np.zeros((0, 0))
"""MATLAB's []"""
OCCLUDED: list[Any] = ["0", "1", 0.0, 1.0, np.uint8(1), EMPTY, ""]
"""What is_visible holds, across the versions of the file."""
LEFT_WRIST = 15


def structs(*rows: dict[str, Any]) -> np.ndarray:
    """A MATLAB struct array: where one row has a field that another has not, that one has []."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows or not names:
        return EMPTY
    array = np.empty((1, len(rows)), [(name, object) for name in names])
    for at, row in enumerate(rows):
        for name in names:
            array[0, at][name] = row.get(name, EMPTY)
    return array


def points(ids: Iterable[float] = range(16), **changes: Any) -> np.ndarray:
    """Keypoint k at (10 k, 5 k), counted from 1, marked occluded in every way there is."""
    return structs(
        *(
            {"x": 10.0 * id, "y": 5.0 * id, "id": float(id)}
            # Head top and neck never have it.
            | ({} if id in (8, 9) else {"is_visible": OCCLUDED[int(id) % len(OCCLUDED)]})
            | changes
            for id in ids
        )
    )


def person(x: float = 100.0, **changes: Any) -> dict[str, Any]:
    usual = {
        **{"x1": 10.0, "y1": 20.0, "x2": 40.0, "y2": 60.0},
        "annopoints": structs({"point": points()}),
        "scale": 0.5,
        "objpos": structs({"x": x, "y": 60.0}),
    }
    return usual | changes


def picture(name: object, *people: dict[str, Any], video: float | None = 1.0) -> dict[str, Any]:
    entry = {"image": structs({"name": name}), "annorect": structs(*people), "frame_sec": 11.0}
    return entry if video is None else entry | {"vidx": video}


def save(folder: Path, *pictures: dict[str, Any], **changes: Any) -> Path:
    """Write the release as MATLAB does: packed, one variable."""
    release = {
        "annolist": structs(*pictures),
        "img_train": np.ones((1, len(pictures)), np.uint8),
        "version": "12",
        "act": structs(*({"act_name": "cycling", "act_id": 7.0} for _ in pictures)),
        "video_list": np.array([["b0lK", "x9"]], object),
    }
    path = folder / "mpii.mat"
    scipy.io.savemat(path, {"RELEASE": release | changes}, do_compression=True)
    return path


def everyone(path: Path, **how: Any) -> AnnotationSet:
    """Both sides as one."""
    train, val = read_mpii_release(path, **how)
    return AnnotationSet(
        source=path,
        skeleton=train.skeleton,
        instances=sorted(train.instances + val.instances, key=lambda one: one.id),
        skipped=train.skipped + val.skipped,
        notes=train.notes + val.notes,
    )


OTHER = picture("other.jpg", person(), video=99.0)
"""So that there is something to part."""


def record(image: str = "a.jpg", x: float = 100.0, **changes: Any) -> dict[str, Any]:
    """The same person in the authors' JSON."""
    usual = {
        "image": image,
        "center": [x, 60.0],
        "scale": 0.5,
        "joints": [[10.0 * at, 5.0 * at] for at in range(16)],
        "joints_vis": [1] * 16,
    }
    return usual | changes


def save_json(folder: Path, *records: dict[str, Any]) -> Path:
    (folder / "valid.json").write_text(json.dumps(records))
    return folder / "valid.json"


def test_a_person_is_read_as_from_the_authors_json(tmp_path: Path):
    path = save(tmp_path, picture("a.jpg", person()), OTHER)

    found = everyone(path).instances[0]

    (wanted,) = read_mpii(save_json(tmp_path, record())).instances
    assert found.image == wanted.image
    assert found.box_xywh == wanted.box_xywh
    assert found.area == wanted.area
    assert found.image_xy.tolist() == wanted.image_xy.tolist()
    assert found.visible.tolist() == wanted.visible.tolist() == [True] * 16
    assert found.head_size == pytest.approx(0.6 * 50)


def test_a_keypoint_without_a_point_is_hidden(tmp_path: Path):
    annopoints = structs({"point": points([0, LEFT_WRIST])})
    path = save(tmp_path, picture("a.jpg", person(annopoints=annopoints)), OTHER)

    found = everyone(path).instances[0]

    assert np.flatnonzero(found.visible).tolist() == [0, LEFT_WRIST]
    assert found.image_xy[LEFT_WRIST].tolist() == [149, 74]
    assert found.image_xy[1].tolist() == [0, 0]


def test_one_point_of_one_person_is_no_array_to_matlab(tmp_path: Path):
    annopoints = structs({"point": points([3])})
    path = save(tmp_path, picture("a.jpg", person(annopoints=annopoints)), OTHER)

    assert everyone(path).instances[0].visible.sum() == 1


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"annopoints": EMPTY}, "no keypoints", ""),
        ({"annopoints": structs({"point": EMPTY})}, "no keypoints", ""),
        ({"annopoints": 5.0}, "no keypoints", ""),
        ({"annopoints": structs({"point": 5.0})}, "damaged", "a point without id, x or y"),
        ({"scale": EMPTY}, "no scale", ""),
        ({"scale": math.nan}, "damaged", "scale is nan where a number is wanted"),
        ({"scale": 1e300}, "damaged", "scale is 1e+300 where a number is wanted"),
        ({"scale": -1.0}, "damaged", "scale is -1"),
        ({"scale": "big"}, "damaged", "scale is 'big' where a number is wanted"),
        ({"scale": np.ones((2, 2))}, "damaged", "scale is [[1.0, 1.0], [1.0"),
        ({"scale": 1 + 2j}, "damaged", "scale is '(1+2j)' where"),
        ({"objpos": EMPTY}, "no centre", ""),
        ({"objpos": structs({"x": 5.0, "y": EMPTY})}, "no centre", ""),
        ({"objpos": structs({"x": 5.0, "y": math.inf})}, "damaged", "y is inf where"),
        ({"x1": math.nan}, "damaged", "x1 is nan where a number is wanted"),
        ({"annopoints": structs({"point": points([16])})}, "damaged", "a point of id 16"),
        ({"annopoints": structs({"point": points([0.5])})}, "damaged", "a point of id 0.5"),
        ({"annopoints": structs({"point": points([-1])})}, "damaged", "a point of id -1"),
        (
            {"annopoints": structs({"point": points([1, 1])})},
            "damaged",
            "right_knee is there twice",
        ),
        ({"annopoints": structs({"point": points(x=EMPTY)})}, "damaged", "a point without id, x"),
        ({"annopoints": structs({"point": points(y=math.nan)})}, "damaged", "y is nan where"),
    ],
)
def test_a_person_that_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], reason: str, detail: str):
    path = save(tmp_path, OTHER, picture("a.jpg", person(), person(**changes)))

    labels = everyone(path)

    (thing,) = labels.skipped
    assert (thing.item, thing.reason) == ("annolist(2).annorect(2) (a.jpg)", reason)
    assert thing.detail.startswith(detail)
    assert labels.num_read == 3


def test_everything_in_the_file_is_used_or_skipped(tmp_path: Path):
    only_boxes = {"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0}  # no other field in this image
    test_person = {"scale": 2.0, "objpos": structs({"x": 5.0, "y": 6.0})}
    path = save(
        tmp_path,
        picture("test.jpg", test_person, test_person),
        picture("a.jpg", person(), person()),
        picture("nobody.jpg"),
        picture("boxes.jpg", only_boxes, only_boxes),
        picture(7.0, person()),
        {"image": EMPTY, "annorect": EMPTY},
        OTHER,
        img_train=np.array([[0, 1, 1, 1, 1, 0, 1]]),
    )

    labels = everyone(path)

    assert [(thing.item, thing.reason) for thing in labels.skipped] == [
        ("annolist(1) (test.jpg)", "test image"),
        ("annolist(3) (nobody.jpg)", "no people"),
        ("annolist(4).annorect(1) (boxes.jpg)", "no keypoints"),
        ("annolist(4).annorect(2) (boxes.jpg)", "no keypoints"),
        ("annolist(5)", "no image name"),
        ("annolist(6)", "test image"),
    ]
    assert [(one.image, one.id, one.image_id) for one in labels.instances] == [
        ("a.jpg", 0, 1),
        ("a.jpg", 1, 1),
        ("other.jpg", 2, 6),
    ]
    assert labels.num_read == len(labels.instances) + len(labels.skipped) == 9


def test_people_without_a_head_box_are_counted(tmp_path: Path):
    flat = person() | {"x2": 10.0, "y2": 20.0}
    boxless = {name: value for name, value in person().items() if name not in ("x1", "y2")}
    path = save(tmp_path, picture("a.jpg", person(), boxless, flat), OTHER)

    train, val = read_mpii_release(path, valid_json=save_json(tmp_path, *[record()] * 3))

    assert [math.isnan(one.head_size) for one in val.instances] == [False, True, True]
    assert val.notes == ["2 people have no head box, so PCKh leaves them out"]
    assert train.notes == []


def videos(folder: Path) -> Path:
    """Twenty videos of one to three images."""
    return save(
        folder,
        *(
            picture(f"{video:02d}_{at}.jpg", person(), video=float(video))
            for video in range(20)
            for at in range(1 + video % 3)
        ),
    )


def test_frames_of_one_video_are_on_one_side(tmp_path: Path):
    path = videos(tmp_path)

    train, val = read_mpii_release(path, val_fraction=0.2)

    sides = [{one.image[:2] for one in side.instances} for side in (train, val)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 20
    assert 8 <= len(val.instances) <= 10  # a fifth of 39 images, and a video is not cut
    assert val.notes == [
        f"mpii.mat: validation is {len(sides[1])} videos drawn by seed 0, so PCKh cannot be "
        "compared with published figures, which are of the authors' valid.json"
    ]


def test_a_seed_decides_which(tmp_path: Path):
    path = videos(tmp_path)

    def drawn(seed: int) -> list[str]:
        return [one.image for one in read_mpii_release(path, seed=seed)[1].instances]

    assert drawn(0) == drawn(0) != drawn(1)


def test_without_videos_a_picture_stands_for_itself(tmp_path: Path):
    pictures = [picture(f"{at}.jpg", person(), person(), video=None) for at in range(10)]

    train, val = read_mpii_release(save(tmp_path, *pictures), val_fraction=0.3)

    assert len({one.image for one in val.instances}) == 3
    assert len({one.image for one in train.instances}) == 7


def test_one_video_cannot_be_parted(tmp_path: Path):
    path = save(tmp_path, picture("a.jpg", person()), picture("b.jpg", person()))

    with pytest.raises(DataError, match="1 videos cannot be parted"):
        read_mpii_release(path)


def test_the_authors_json_decides_in_its_order(tmp_path: Path):
    path = save(
        tmp_path,
        picture("a.jpg", person(x=100), person(x=200), person(x=300)),
        picture("b.jpg", person()),
        picture("c.jpg", person(), person(x=500)),
    )
    valid = save_json(tmp_path, record("c.jpg"), record("a.jpg", x=300.4), record("a.jpg"))

    train, val = read_mpii_release(path, valid_json=valid)

    assert [(one.image, one.id) for one in val.instances] == [
        ("c.jpg", 4),
        ("a.jpg", 2),
        ("a.jpg", 0),
    ]
    assert [one.image for one in train.instances] == ["b.jpg"]
    # Whoever else is in an image of validation is neither learnt nor scored.
    assert [(thing.item, thing.reason) for thing in train.skipped] == [
        ("annolist(1).annorect(2) (a.jpg)", "in a validation image"),
        ("annolist(3).annorect(2) (c.jpg)", "in a validation image"),
    ]
    assert val.notes == []
    assert train.num_read + val.num_read == 6


def test_records_that_are_not_in_the_release_are_counted(tmp_path: Path):
    path = save(tmp_path, picture("a.jpg", person()), picture("b.jpg", person()), OTHER)
    valid = save_json(tmp_path, record(), record(), record("b.jpg", x=102), record("b.jpg", scale=0.51))

    train, val = read_mpii_release(path, valid_json=valid)

    assert [one.image for one in val.instances] == ["a.jpg"]
    assert [one.image for one in train.instances] == ["other.jpg"]  # b.jpg was asked for
    assert val.notes == [
        "3 of 4 records are not in mpii.mat, so PCKh is not the published figure: "
        "valid.json: [1] (a.jpg), valid.json: [2] (b.jpg), valid.json: [3] (b.jpg)"
    ]


def test_a_json_of_other_pictures_is_refused(tmp_path: Path):
    valid = save_json(tmp_path, record("x.jpg"))

    with pytest.raises(DataError, match="nobody of 1 records is in the release"):
        read_mpii_release(save(tmp_path, OTHER), valid_json=valid)


def test_other_visibility_in_the_json_is_counted_for_each_keypoint(tmp_path: Path):
    path = save(tmp_path, picture("a.jpg", person()), OTHER)
    valid = save_json(tmp_path, record(joints_vis=[0, 0, *[1] * 14]))

    _, val = read_mpii_release(path, valid_json=valid)

    assert val.notes == ["mpii.mat: visibility differs from valid.json at 2 keypoints (right_ankle 1, right_knee 1)"]
    assert val.instances[0].visible.all()


@pytest.mark.parametrize(
    "changes",
    [
        {"img_train": np.ones((1, 3))},
        {"img_train": "11"},
        {"img_train": np.array([[0, 2]])},
        {"img_train": np.array([[1, math.nan]])},
        {"img_train": EMPTY},
        {"annolist": 5.0},
        {"annolist": EMPTY},
    ],
)
def test_another_struct_is_told(tmp_path: Path, changes: dict[str, Any]):
    path = save(tmp_path, picture("a.jpg", person()), OTHER, **changes)

    with pytest.raises(DataError, match=r"a MATLAB file that is no MPII release\n  .*mpii.mat"):
        read_mpii_release(path)


def test_a_release_of_test_pictures_only_is_told(tmp_path: Path):
    path = save(tmp_path, OTHER, picture("a.jpg"), img_train=np.array([[0, 1]]))

    with pytest.raises(DataError) as error:
        read_mpii_release(path)

    assert error.value.where == f"{path}: test image 1, no people 1"


def test_a_variable_of_another_name_or_kind_is_told(tmp_path: Path):
    for content in ({"annolist": 1}, {"RELEASE": "text"}, {"RELEASE": np.eye(3)}):
        scipy.io.savemat(tmp_path / "a.mat", content)
        with pytest.raises(DataError):
            read_mpii_release(tmp_path / "a.mat")


ODD = st.sampled_from(
    [
        *(EMPTY, "", "x", "\u202e", 0.0, 1.0, -1.0, 1e12, math.nan, math.inf, 1 + 1j, True, 7.5),
        *(np.uint64(2**63), np.ones((3, 2)), np.array([["a", EMPTY]], object)),
        *(structs({"x": 1.0}), structs({"point": 3.0}, {"point": EMPTY}), {"name": "a.jpg"}),
    ]
)
FIELDS = ("x1", "annopoints", "scale", "objpos")
PEOPLE = st.builds(
    lambda odd, keep: {name: value for name, value in person(**odd).items() if name in keep},
    st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=2),
    st.sampled_from([person().keys()] * 4 + [FIELDS, FIELDS[:1]]),
)
POINTS = st.builds(
    lambda odd: person(annopoints=structs({"point": points(range(4), **odd)})),
    st.dictionaries(st.sampled_from(["x", "y", "id", "is_visible"]), ODD, max_size=1),
)
PICTURES = st.builds(
    lambda name, people, odd: picture(name, *people) | odd,
    st.one_of(st.sampled_from(["a.jpg", "b.jpg", "c.jpg"]), ODD),
    st.lists(PEOPLE | POINTS, max_size=3),
    st.dictionaries(st.sampled_from(["image", "annorect", "vidx"]), ODD, max_size=1),
)


def check_outcome(path: Path) -> str:
    """Labels in which everything is a number, or a DataError that names the file."""
    try:
        train, val = read_mpii_release(path)
    except DataError as error:
        return "refused" if str(path) in error.where else f"refused without a place: {error}"
    for one in train.instances + val.instances:
        assert one.visible.any()
        assert np.isfinite([*one.box_xywh, one.area, *one.image_xy.flat]).all()
    assert all(thing.item and thing.reason for thing in train.skipped)
    assert train.num_read + val.num_read == len(train.instances + val.instances) + len(train.skipped)
    return "accepted"


@given(pictures=st.lists(PICTURES, min_size=1, max_size=12), odd=st.none() | ODD)
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
def test_odd_structs_are_labels_or_a_data_error(tmp_path: Path, pictures: list, odd: Any):
    changes = {} if odd is None else {"img_train": odd}
    path = save(tmp_path, OTHER, *pictures, picture("z.jpg", person()), **changes)
    assert check_outcome(path) == ("accepted" if odd is None else "refused")


def mutant(whole: bytes, rng: random.Random) -> bytes:
    """A file with a few other bytes, or less of it, or a piece of it twice."""
    changed = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(128, len(changed))
        what = rng.random()
        if what < 0.7:
            changed[at] = rng.choice((0, 1, 2, 14, 15, 0x7F, 0xFF, rng.randrange(256)))
        elif what < 0.8:
            del changed[at:]
            changed += bytes(128 - min(128, len(changed)))
        else:
            start = rng.randrange(128, len(changed))
            changed[at:at] = changed[start : start + 8 * rng.randrange(16)]
        if len(changed) <= 128:
            break
    return bytes(changed)


@pytest.mark.parametrize("compress", [False, True])
def test_mutated_bytes_are_labels_or_a_data_error(tmp_path: Path, compress: bool):
    save(tmp_path, picture("a.jpg", person(), person(scale=EMPTY)), picture("b.jpg", person()), OTHER)
    path = tmp_path / "mutant.mat"
    release = scipy.io.loadmat(tmp_path / "mpii.mat")["RELEASE"]
    scipy.io.savemat(path, {"RELEASE": release}, do_compression=compress)
    whole, rng, outcomes = path.read_bytes(), random.Random(0), Counter()

    for _ in range(40):
        path.write_bytes(mutant(whole, rng))
        outcomes[check_outcome(path)] += 1

    assert set(outcomes) <= {"accepted", "refused"}
    assert outcomes["refused"] > 13
    assert compress or outcomes["accepted"] > 5
