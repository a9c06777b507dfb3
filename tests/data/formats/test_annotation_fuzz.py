"""Whatever stands in a file: rows that survive Parquet, or one sentence that names the place.

2,000 cases, the same at every run; HRNET_RAY_FUZZ=20000 asks for more.
"""

import copy
import io
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from hrnet_ray.data import records
from hrnet_ray.data.annotations import AnnotationSet
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.formats.mpii import read_mpii
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import MPII, Skeleton, from_dict, load_skeleton, to_dict

CASES = int(os.environ.get("HRNET_RAY_FUZZ", "2000"))
SHARES = {"spoilt": 25, "drawn": 25, "text": 10, "studio": 15, "mpii": 15, "yaml": 10}  # percent

PAW = Skeleton(name="paw", keypoints=("left_toe", "right_toe", "heel"))


def cases(kind: str) -> settings:
    return settings(
        max_examples=CASES * SHARES[kind] // sum(SHARES.values()),
        suppress_health_check=list(HealthCheck),
    )


# What files hold.


def coco() -> dict[str, Any]:
    def annotation(id: int, **changes: Any) -> dict[str, Any]:
        usual = {
            "id": id,
            "image_id": id % 2,
            "category_id": 1,
            "bbox": [10, 5, 41, 31],
            "area": 700.5,
            "iscrowd": 0,
            "keypoints": [12, 8, 2, 0, 0, 0, 40.5, 30, 1],
            "num_keypoints": 2,
        }
        return usual | changes

    return {
        "images": [
            {"id": 0, "file_name": "a.jpg", "width": 90, "height": 60},
            {"id": 1, "filename": "b.jpg", "width": 60, "height": 90},
        ],
        "annotations": [
            annotation(0),
            annotation(1, keypoints=[], bbox=[0, 0, 0, 0], num_keypoints=0),  # as CVAT writes
            annotation(2, bbox=[0, 0, 0, 0]),
        ],
        "categories": [
            {
                "id": 1,
                "name": "paw",
                "keypoints": list(PAW.keypoints),
                "skeleton": [[1, 3], [2, 3]],
            }
        ],
        "info": {"contributor": "Label Studio"},
    }


def studio() -> list[dict[str, Any]]:
    def region(kind: str, label: str, **value: float) -> dict[str, Any]:
        size = {"original_width": 200, "original_height": 50, "image_rotation": 0}
        name = {"id": f"{label}{value['x']}", "type": kind, "parentID": "paw10"}
        return {**name, **size, "value": {**value, kind: [label]}}

    result = [
        region("rectanglelabels", "paw", x=10, y=20, width=30, height=40, rotation=0),
        region("rectanglelabels", "paw", x=50, y=20, width=30, height=40, rotation=30),
        region("keypointlabels", "heel", x=20, y=30, width=0.5),
        region("keypointlabels", "left_toe", x=30, y=40, width=0.5),
    ]
    answer = {"id": 3, "was_cancelled": False, "updated_at": "2026-01-01", "result": result}
    image = {"image": "/data/upload/4/cb0618f6-a.jpg"}
    return [
        {"id": 17, "data": image, "annotations": [answer]},
        {"id": 18, "data": {"image": "s3://x/b.jpg"}, "annotations": [{"result": result[2:]}]},
    ]


def mpii() -> list[dict[str, Any]]:
    record = {
        "image": "a.jpg",
        "center": [50.0, 60.0],
        "scale": 0.5,
        "joints": [[float(k), 2.0 * k] for k in range(len(MPII))],
        "joints_vis": [k % 2 for k in range(len(MPII))],
    }
    return [record, record | {"center": [-1.0, -1.0]}]


def skeleton() -> dict[str, Any]:
    return {
        "name": "paw",
        "keypoints": list(PAW.keypoints),
        "bones": [["left_toe", "heel"]],
        "oks_sigmas": [0.1, 0.1, 0.05],
        "other_oks_sigmas": {"wide": [0.2, 0.2, 0.1]},
        "upper_body": ["heel"],
    }


DEEP: Any = 1
for _ in range(300):
    DEEP = [DEEP]

JUNK = st.one_of(
    st.sampled_from([None, True, False, -1, 0, 1, 2, 3, 1.5, -0.5, 2**31, 2**53 + 1, 2**63, -(2**63)]),
    st.sampled_from([2**70, 10**400, 1e-320, 1e9, 1e18, 1e308, math.nan, math.inf, -math.inf]),
    st.sampled_from(["", "7", "\ud800", "a\0", "\x1b[31m", "\u202e", "ok\nbad", "../x", "/etc", "é" * 300]),
    st.sampled_from([[], {}, [None], ["x"], [[]], [1, 2, 3], [0, 0, 0, 0], {"id": 1}, [{}], DEEP]),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
)


# Ways to spoil one.


@st.composite
def spoilt(draw: st.DrawFn, make: Callable[[], Any]) -> Any:
    """A document with one to three changes: other values, nothing, things twice, new entries."""
    document = make()
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        if isinstance(document, dict | list) and document:
            _spoil(draw, document)
    return document


def _spoil(draw: st.DrawFn, inner: Any) -> None:
    """Go down by chance, and change what is there."""
    key = draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(len(inner))))
    child = inner[key]
    if isinstance(child, dict | list) and child and draw(st.integers(0, 4)):
        return _spoil(draw, child)
    action = draw(st.sampled_from(["junk", "junk", "gone", "twice", "more"]))
    if action == "gone":
        del inner[key]
    elif action == "twice" and isinstance(inner, list):
        inner.insert(key, copy.deepcopy(child))
    elif action == "more" and isinstance(child, dict | list):
        _add(child, copy.deepcopy(draw(JUNK)))
    else:
        inner[key] = copy.deepcopy(draw(JUNK))
    return None


def _add(inner: Any, junk: Any) -> None:
    if isinstance(inner, dict):
        inner["more"] = junk
    else:
        inner.append(junk)


COORDINATE = st.sampled_from(  # one draw: strategies of floats cost three times as much
    [0, -1, 1e-9, 0.1, 1 / 3, 7, 12, 17.25, 20, 29.999, 31, 40.5, 44, 55, 59, 59.5, 60, 61, 75,
     88.125, 89, 90, 1e6, -1e8]
)  # fmt: skip
FLAG = st.sampled_from([0, 1, 2, 2, 2, 2, 3, -1, 0.5])
POINT = st.tuples(COORDINATE, COORDINATE, FLAG)
POINTS = st.lists(POINT, min_size=3, max_size=3).map(lambda points: [n for one in points for n in one])
BOX = st.lists(COORDINATE, min_size=4, max_size=4)
ANNOTATION = st.fixed_dictionaries(
    {
        "id": st.integers(0, 40),
        "image_id": st.integers(0, 1),
        "keypoints": st.one_of(POINTS, POINTS, POINTS, st.just([])),
    },
    optional={
        "category_id": st.just(1),
        "bbox": st.one_of(BOX, st.just([0, 0, 0, 0]), st.just([0, 0, 90, 60])),
        "area": st.sampled_from([0, 12.5, 1e6, None]),
        "iscrowd": st.sampled_from([0, 0, 0, 1]),
        "num_keypoints": st.integers(0, 4),
    },
)
REFUSED = st.sampled_from(
    [{}, {}, {}, {}, {"image_id": 2}, {"category_id": None}, {"iscrowd": 2}, {"area": math.nan},
     {"bbox": [1, 2, 3]}, {"keypoints": [1, 2, 2]}, {"keypoints": [math.nan] * 9}, {"id": 41.0}]
)  # fmt: skip
IMAGE_SIZE = st.sampled_from([90, 60, 0, None, 1, 2**40])


@st.composite
def drawn(draw: st.DrawFn) -> dict[str, Any]:
    """A document with lists of its own, each value of about the right kind."""
    document = coco()
    annotations = st.lists(ANNOTATION, max_size=3, unique_by=lambda one: one["id"])
    document["annotations"] = draw(annotations)
    if document["annotations"]:
        document["annotations"][-1] |= draw(REFUSED)
    if draw(st.booleans()):
        document["images"][0] |= {"width": draw(IMAGE_SIZE), "height": draw(IMAGE_SIZE)}
    return document


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """The text of a document with pieces cut out, doubled, or put in."""
    text = json.dumps(draw(st.sampled_from([coco(), studio(), mpii()]))).encode()
    for _ in range(draw(st.integers(1, 2))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        pieces = [
            b"",
            text[start:end] * 2,
            b"[" * 2000,
            b"9" * 5000,
            b"\xff",
            b"NaN",
            b'{"a":' * 900,
        ]
        text = text[:start] + draw(st.sampled_from(pieces)) + text[end:]
    return text


# What may come of it.


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "paws.json"


def outcome(read: Callable[[], Any]) -> Any:
    """What was read, or the error; any other exception fails the test."""
    try:
        return read()
    except DataError as error:
        refusal = error
    assert refusal.what
    assert refusal.fix
    assert len(str(refusal)) < 2000
    return refusal


def check(found: AnnotationSet | DataError, path: Path, place: str, whole: tuple[str, ...]) -> None:
    """Rows survive Parquet; an error names the file and the index, or is about the whole file."""
    if isinstance(found, AnnotationSet):
        survives_parquet(found)
    elif found.what.startswith(whole):
        assert str(path) in found.where
    else:
        assert re.match(rf"{path.name}: {place}", found.where), str(found)


COCO_PLACE = r"(annotations\[\d+\]|images\[\d+\]|categories\[\d+\]|category -?\d+|\[\d+\])"
COCO_WHOLE = ("a file that is no JSON", "a JSON file that is no COCO", "categories with ")
STUDIO_WHOLE = (*COCO_WHOLE, "a JSON file that is no list of tasks", "Label Studio's JSON has no")
MPII_WHOLE = ("a file that is no JSON", "a JSON file that is not MPII's")


def survives_parquet(labels: AnnotationSet) -> None:
    """Written and read again, the rows are what the reader returned."""
    made = [records.build_full_image_record(instance, b"picture") for instance in labels.instances]
    table = pa.Table.from_pylist(made, schema=records.build_arrow_schema(len(labels.skeleton)))
    file = io.BytesIO()
    pq.write_table(table, file)
    again = pq.read_table(file)
    assert again.schema.equals(table.schema)
    assert again["image"].to_pylist() == [instance.image for instance in labels.instances]
    arrays = records.get_label_columns(again)
    for name in records.LABEL_COLUMNS:
        values = [getattr(instance, name) for instance in labels.instances]
        wanted = np.array(values, arrays[name].dtype).reshape(arrays[name].shape)
        np.testing.assert_array_equal(arrays[name], wanted)
    assert np.isfinite(arrays["image_xy"]).all()
    assert np.isfinite(arrays["box_xywh"]).all()
    assert (arrays["box_xywh"][:, 2:] > 0).all()
    assert (np.isfinite(arrays["area"]) & (arrays["area"] > 0)).all()
    assert not arrays["image_xy"][~arrays["visible"]].any()
    assert from_dict(to_dict(labels.skeleton), where="") == labels.skeleton


@cases("spoilt")
@given(document=spoilt(coco), skeleton=st.sampled_from([None, None, PAW]))
def test_spoilt_coco(path: Path, document: Any, skeleton: Skeleton | None):
    path.write_text(json.dumps(document))

    found = outcome(lambda: read_coco(path, skeleton=skeleton))

    check(found, path, COCO_PLACE, COCO_WHOLE)
    if isinstance(found, AnnotationSet):
        assert found.num_read == len(document["annotations"])


@cases("drawn")
@given(document=drawn())
def test_drawn_coco(path: Path, document: dict[str, Any]):
    path.write_text(json.dumps(document))

    found = outcome(lambda: read_coco(path))

    check(found, path, COCO_PLACE, COCO_WHOLE)
    if isinstance(found, AnnotationSet):
        assert found.num_read == len(document["annotations"])


@cases("text")
@given(text=torn(), skeleton=st.sampled_from([None, PAW]))
def test_torn_text(path: Path, text: bytes, skeleton: Skeleton | None):
    path.write_bytes(text)

    coco = outcome(lambda: read_coco(path, skeleton=skeleton))
    mpii = outcome(lambda: read_mpii(path))

    check(coco, path, COCO_PLACE, STUDIO_WHOLE)
    check(mpii, path, r"\[\d+\]", MPII_WHOLE)


@cases("studio")
@given(document=spoilt(studio))
def test_spoilt_label_studio(path: Path, document: Any):
    path.write_text(json.dumps(document))

    found = outcome(lambda: read_coco(path, skeleton=PAW))

    check(found, path, COCO_PLACE, STUDIO_WHOLE)


@cases("mpii")
@given(document=spoilt(mpii))
def test_spoilt_mpii(path: Path, document: Any):
    path.write_text(json.dumps(document))

    found = outcome(lambda: read_mpii(path))

    check(found, path, r"\[\d+\]", MPII_WHOLE)
    if isinstance(found, AnnotationSet):
        assert found.num_read == len(document)


LINES = st.sampled_from(
    ["keypoints: *a", "a: &a [1]", "? [1]", "<<: {name: 1}", "- 1", "name: !!python/name:os.system",
     "keypoints: !!set {x}", "bones: [[1]]", "oks_sigmas: .nan", "name: 2024-13-45", "\t", "---",
     "%"]
)  # fmt: skip


@cases("yaml")
@given(document=spoilt(skeleton), lines=st.lists(LINES, max_size=1), before=st.booleans())
def test_spoilt_yaml(path: Path, document: Any, lines: list[str], before: bool):
    file = path.with_name("paw.yaml")
    text = yaml.safe_dump(document, allow_unicode=True)
    parts = [*lines, text] if before else [text, *lines]
    file.write_bytes("\n".join(parts).encode("utf-8", "surrogatepass"))

    found = outcome(lambda: load_skeleton(str(file)))

    if isinstance(found, Skeleton):
        assert from_dict(json.loads(json.dumps(to_dict(found))), where="") == found
    else:
        assert str(file) in found.where


@pytest.mark.parametrize("place", ["joints", "center", "image", "scale", "joints_vis"])
def test_mpii_of_any_depth(path: Path, place: str):
    for depth in range(900, 980):
        record = json.dumps(mpii()[0] | {place: "DEEP"}).replace('"DEEP"', "[" * depth + "]" * depth)
        path.write_text(f"[{record}]")

        check(outcome(lambda: read_mpii(path)), path, r"\[\d+\]", MPII_WHOLE)


@pytest.mark.parametrize("place", ["keypoints", "bbox", "area", "iscrowd", "image_id", "category_id"])
def test_coco_of_any_depth(path: Path, place: str):
    document = coco()
    document["annotations"][0][place] = "DEEP"
    for depth in range(900, 980):
        path.write_text(json.dumps(document).replace('"DEEP"', "[" * depth + "]" * depth))

        check(outcome(lambda: read_coco(path, skeleton=PAW)), path, COCO_PLACE, COCO_WHOLE)
