"""YOLO-pose data sets, as Ultralytics and Roboflow lay them out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrnet_ray.cli.prepare import run
from hrnet_ray.cli.source_flags import Coco, Yolo
from hrnet_ray.data import pictures
from hrnet_ray.data.manifest import read_manifest, read_table
from hrnet_ray.data.readers.yolo import read_yolo
from hrnet_ray.errors import DataError

NAMED = {
    "kpt_shape": [3, 3],
    "flip_idx": [1, 0, 2],
    "names": {0: "otter"},
    "kpt_names": {0: ["left_paw", "right_paw", "nose"]},
}
LINE = "0 0.5 0.5 0.4 0.6 0.4 0.3 2 0.6 0.3 1 0.5 0.7 0"
"""In a picture of 100 x 50: a box of 40 x 30 around (50, 25); the nose is not labelled."""


def data_set(root: Path, labels: dict[str, Sequence[str] | None], **entries: Any) -> Path:
    """A data.yaml with pictures of 100 x 50 below `root`; None is a picture without labels."""
    for name, lines in labels.items():
        path = root / "images" / f"{name}.jpg"
        pictures.write(path, np.full((50, 100, 3), 90, np.uint8))
        if lines is not None:
            told = root / "labels" / f"{name}.txt"
            told.parent.mkdir(parents=True, exist_ok=True)
            told.write_text("\n".join([*lines, ""]))
    config = root / "data.yaml"
    config.write_text(json.dumps({"train": "images/train", "val": "images/val"} | entries))
    return config


def read(config: Path, **more):
    return read_yolo(config, skeleton=None, progress=lambda *_: None, **more)


def refusal(config: Path) -> DataError:
    with pytest.raises(DataError) as refused:
        read(config)
    return refused.value


def test_it_becomes_a_data_set_like_the_same_labels_in_coco_form(tmp_path: Path, capsys):
    config = data_set(
        tmp_path / "yolo", {"train/a": [LINE], "train/b": [LINE, LINE], "val/c": [LINE]}, **NAMED
    )
    annotation = {
        "category_id": 1,
        "bbox": [30, 10, 40, 30],
        "keypoints": [40, 15, 2, 60, 15, 1, 0, 0, 0],
    }
    for split, images in {"train": ["a", "b", "b"], "val": ["c"]}.items():
        names = sorted(set(images))
        document = {
            "images": [
                {"id": names.index(name) + 1, "file_name": f"{split}/{name}.jpg"} for name in names
            ],
            "annotations": [
                annotation | {"id": at + 1, "image_id": names.index(name) + 1}
                for at, name in enumerate(images)
            ],
            "categories": [{"id": 1, "name": "otter", "keypoints": NAMED["kpt_names"][0]}],
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(document))

    run(Yolo(yaml=config, out=tmp_path / "a", canvas=64))
    run(
        Coco(
            images=tmp_path / "yolo" / "images",
            annotations=tmp_path / "train.json",
            val_annotations=tmp_path / "val.json",
            out=tmp_path / "b",
            canvas=64,
        )
    )

    ours, theirs = read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")
    assert ours.skeleton.keypoints == theirs.skeleton.keypoints
    assert ours.skeleton.flip_order == (1, 0, 2)
    assert {name: split.rows for name, split in ours.splits.items()} == {"train": 3, "val": 1}
    for split in ("train", "val"):
        mine, coco = (read_table(one, split).to_pylist() for one in (ours, theirs))
        assert len(mine) == len(coco)
        for one, other in zip(mine, coco, strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                np.testing.assert_equal(value, other[key], err_msg=key)
    assert "no keypoints" not in capsys.readouterr().out


def test_two_numbers_a_point_say_by_themselves_whether_it_is_labelled(tmp_path: Path):
    config = data_set(
        tmp_path,
        {"train/a": ["0 0.5 0.5 1 1 0.1 0.2 0 0 -0.1 0.5"]},
        **NAMED | {"kpt_shape": [3, 2]},
        val=None,
    )

    (annotation,) = read(config).documents["train"]["annotations"]

    np.testing.assert_allclose(annotation["keypoints"], [10, 10, 2, 0, 0, 0, -10, 25, 0])


def test_keypoints_without_names_keep_their_mirror(tmp_path: Path):
    config = data_set(tmp_path, {"train/a": [LINE]}, kpt_shape=[3, 3], flip_idx=[2, 1, 0], val=None)

    found = read(config)

    assert found.skeleton.keypoints == ("point_1", "point_2", "point_3")
    assert found.skeleton.flip_order == (2, 1, 0)
    (note,) = found.notes
    assert "called point_1 to point_3" in note


@pytest.mark.parametrize("more", [{}, {"flip_idx": [0, 1, 2]}])
def test_keypoints_that_nothing_tells_apart_are_told(tmp_path: Path, more: dict[str, Any]):
    config = data_set(tmp_path, {"train/a": [LINE]}, kpt_shape=[3, 3], val=None, **more)

    assert "nothing tells left from right" in read(config).notes[-1]


def test_a_flip_idx_that_exchanges_nothing_is_told(tmp_path: Path):
    """As in Ultralytics' own tiger-pose.yaml."""
    config = data_set(tmp_path, {"train/a": [LINE]}, **NAMED | {"flip_idx": [0, 1, 2]}, val=None)

    found = read(config)

    assert found.skeleton.flip_order == (1, 0, 2)
    assert found.notes == [
        "flip_idx exchanges nothing; left and right change places by their names here"
    ]


def test_what_leads_to_nothing_is_told(tmp_path: Path):
    config = data_set(tmp_path, {"train/a": [LINE], "train/b": None, "val/c": [LINE]}, **NAMED)
    (tmp_path / "labels" / "train" / "gone.txt").write_text(LINE)
    (tmp_path / "labels" / "train" / "classes.txt").write_text("otter")

    assert read(config).notes == [
        "train: 1 pictures have no labels: they are not used",
        "1 files of labels belong to no picture of these splits: gone.txt",
    ]


@pytest.mark.parametrize(
    ("entries", "layout"),
    [
        ({"path": ".", "train": "images/train"}, ""),
        ({"train": ["images/train"]}, ""),
        ({"train": "../images/train"}, ""),  # Roboflow: beside the data.yaml all the same
        ({"path": "set", "train": "images/train"}, "set"),
        ({"train": "train.txt"}, ""),
        ({"train": "images"}, ""),
    ],
)
def test_pictures_are_found_where_the_tools_say(tmp_path: Path, entries, layout: str):
    data_set(tmp_path / layout, {"train/a": [LINE], "train/sub/b": [LINE]})
    (tmp_path / "train.txt").write_text("./images/train/a.jpg\nimages/train/sub/b.jpg\n")
    config = tmp_path / "tigers.yaml"
    config.write_text(json.dumps(NAMED | entries))

    found = read(config)

    names = [image["file_name"] for image in found.documents["train"]["images"]]
    assert [Path(name).name for name in names] == ["a.jpg", "b.jpg"]
    assert all((found.images / name).is_file() for name in names)
    assert len(found.documents["train"]["annotations"]) == 2
    assert "val" not in found.documents


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("0 0.5 0.5 0.4 0.6", "5 numbers where 14 are wanted"),
        (LINE + " 1", "15 numbers where 14 are wanted"),
        (LINE.replace("0.7", "x"), "could not convert string to float"),
        (LINE.replace("0.7", "nan"), "a number that is none"),
        (LINE.replace("0.7", "1e300"), "a number that is none"),
        ("0.5" + LINE[1:], "class 0.5"),
        ("-1" + LINE[1:], "class -1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, what: str):
    config = data_set(tmp_path, {"train/a": [LINE, "", line]}, **NAMED, val=None)

    error = refusal(config)

    assert what in error.what
    assert error.where == f"{tmp_path / 'labels/train/a.txt'}: line 3"
    assert "3 numbers for each of 3 keypoints" in error.fix


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"kpt_shape": None}, "kpt_shape is None"),
        ({"kpt_shape": [3]}, "kpt_shape is"),
        ({"kpt_shape": [3, 4]}, "kpt_shape is"),
        ({"kpt_shape": [10**6, 3]}, "kpt_shape is"),
        ({"flip_idx": [0, 1]}, "no mirror of 3 keypoints"),
        ({"flip_idx": [1, 2, 0]}, "no mirror of 3 keypoints"),
        ({"flip_idx": [0, 5, 2]}, "no mirror of 3 keypoints"),
        ({"flip_idx": "abc"}, "no mirror of 3 keypoints"),
        ({"flip_idx": [0, 2, 1]}, "flip_idx mirrors 'left_paw' to 'left_paw', the names to"),
        ({"train": None}, "without training pictures"),
        ({"train": "elsewhere"}, "the pictures for train are not there"),
        ({"train": 7}, "the pictures for train are not there"),
        ({"train": "labels"}, "no pictures for train"),
    ],
)
def test_a_wrong_data_yaml_is_named(tmp_path: Path, entries: dict[str, Any], what: str):
    config = data_set(tmp_path, {"train/a": [LINE]}, **NAMED | {"val": None} | entries)

    error = refusal(config)

    assert what in error.what
    assert str(config) in error.where


def test_pictures_that_have_no_labels_at_all_are_refused(tmp_path: Path):
    config = data_set(tmp_path, {"train/a": None, "train/b": []}, **NAMED, val=None)

    error = refusal(config)

    assert error.what == "no picture has labels"
    assert error.where.startswith(str(tmp_path / "labels/train/a.txt"))


def test_a_broken_picture_is_named_like_any_other(tmp_path: Path):
    config = data_set(tmp_path, {"train/a": [LINE], "train/b": [LINE], "val/c": [LINE]}, **NAMED)
    (tmp_path / "images" / "train" / "b.jpg").write_bytes(b"no picture")

    with pytest.raises(DataError, match="1 pictures cannot be read") as refused:
        run(Yolo(yaml=config, out=tmp_path / "out"))

    assert "train/b.jpg" in refused.value.where
