"""YOLO-pose data sets, as Ultralytics and Roboflow lay them out."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from hrnet_ray.cli.prepare import run
from hrnet_ray.cli.prepare_args import CocoArgs, YoloArgs
from hrnet_ray.data.formats.yolo_pose import read_yolo_pose
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import read_manifest, read_split
from hrnet_ray.errors import DataError

NAMED = {
    "kpt_shape": [3, 3],
    "flip_idx": [1, 0, 2],
    "names": {0: "otter"},
    "kpt_names": {0: ["left_paw", "right_paw", "nose"]},
}
LINE = "0 0.5 0.5 0.4 0.6 0.4 0.3 2 0.6 0.3 1 0.5 0.7 0"
"""In an image of 100 x 50: a box of 40 x 30 around (50, 25); the nose is not labelled."""


def data_set(root: Path, labels: dict[str, Sequence[str] | None], **entries: Any) -> Path:
    """A data.yaml with images of 100 x 50 below `root`; None is an image without labels."""
    for name, lines in labels.items():
        path = root / "images" / f"{name}.jpg"
        codec.write_image(path, np.full((50, 100, 3), 90, np.uint8))
        if lines is not None:
            told = root / "labels" / f"{name}.txt"
            told.parent.mkdir(parents=True, exist_ok=True)
            told.write_text("\n".join([*lines, ""]))
    config = root / "data.yaml"
    told = {"train": "images/train", "val": "images/val"} | entries
    config.write_text(yaml.safe_dump(told, sort_keys=False))
    return config


def read(config: Path, **more):
    return read_yolo_pose(config, skeleton=None, progress=lambda *_: None, **more)


NO_VAL = "the data.yaml names no `val`: a part of `train` is kept for validation (--val-fraction)"


def refusal(config: Path) -> DataError:
    with pytest.raises(DataError) as refused:
        read(config)
    return refused.value


def test_it_becomes_a_data_set_like_the_same_labels_in_coco_form(tmp_path: Path, capsys):
    config = data_set(tmp_path / "yolo", {"train/a": [LINE], "train/b": [LINE, LINE], "val/c": [LINE]}, **NAMED)
    annotation = {
        "category_id": 1,
        "bbox": [30, 10, 40, 30],
        "keypoints": [40, 15, 2, 60, 15, 1, 0, 0, 0],
    }
    for split, images in {"train": ["a", "b", "b"], "val": ["c"]}.items():
        names = sorted(set(images))
        document = {
            "images": [{"id": names.index(name) + 1, "file_name": f"{split}/{name}.jpg"} for name in names],
            "annotations": [
                annotation | {"id": at + 1, "image_id": names.index(name) + 1} for at, name in enumerate(images)
            ],
            "categories": [{"id": 1, "name": "otter", "keypoints": NAMED["kpt_names"][0]}],
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(document))

    run(YoloArgs(yaml=config, out=tmp_path / "a", max_image_size=64))
    run(
        CocoArgs(
            images=tmp_path / "yolo" / "images",
            annotations=tmp_path / "train.json",
            val_annotations=tmp_path / "val.json",
            out=tmp_path / "b",
            max_image_size=64,
        )
    )

    ours, theirs = read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")
    assert ours.skeleton.keypoints == theirs.skeleton.keypoints
    assert ours.skeleton.flip_order == (1, 0, 2)
    assert {name: split.rows for name, split in ours.splits.items()} == {"train": 3, "val": 1}
    for split in ("train", "val"):
        mine, coco = (read_split(one, split).to_pylist() for one in (ours, theirs))
        assert len(mine) == len(coco)
        for one, other in zip(mine, coco, strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                np.testing.assert_equal(value, other[key], err_msg=key)
    assert "note: the data.yaml" not in capsys.readouterr().out


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
    assert "called point_1, point_2" in found.notes[0]
    assert found.notes[1:] == [NO_VAL]


@pytest.mark.parametrize("more", [{}, {"flip_idx": [0, 1, 2]}])
def test_keypoints_that_nothing_tells_apart_are_told(tmp_path: Path, more: dict[str, Any]):
    config = data_set(tmp_path, {"train/a": [LINE]}, kpt_shape=[3, 3], val=None, **more)

    assert "nothing tells left from right" in read(config).notes[1]


def test_a_flip_idx_that_exchanges_nothing_is_told(tmp_path: Path):
    """As in Ultralytics' own tiger-pose.yaml."""
    config = data_set(tmp_path, {"train/a": [LINE]}, **NAMED | {"flip_idx": [0, 1, 2]}, val=None)

    found = read(config)

    assert found.skeleton.flip_order == (1, 0, 2)
    assert found.notes == [
        "flip_idx exchanges nothing; left and right change places by their names here",
        NO_VAL,
    ]


def test_names_without_sides_take_them_from_flip_idx(tmp_path: Path):
    names = {"kpt_names": {0: ["paw1", "paw2", "nose"]}}
    config = data_set(tmp_path, {"train/a": [LINE]}, **NAMED | names, val=None)

    found = read(config)

    assert found.skeleton.keypoints == ("paw1", "paw2", "nose")
    assert found.skeleton.flip_order == (1, 0, 2)


@pytest.mark.parametrize("names", [["a", "b", "c"], {0: "a", 1: "b", 2: "c"}, {0: ["a", "b", "c"], 1: ["a", "b", "c"]}])
def test_names_come_in_several_forms(tmp_path: Path, names: object):
    config = data_set(tmp_path, {"train/a": [LINE]}, kpt_shape=[3, 3], kpt_names=names, val=None)

    assert read(config).skeleton.keypoints == ("a", "b", "c")


def test_a_skeleton_in_another_order_than_the_names_is_refused(tmp_path: Path):
    config = data_set(tmp_path / "set", {"train/a": [LINE], "train/b": [LINE]}, **NAMED, val=None)
    (tmp_path / "other.yaml").write_text("keypoints: [right_paw, left_paw, nose]")

    with pytest.raises(DataError, match="but in another order"):
        run(YoloArgs(yaml=config, out=tmp_path / "out", skeleton=str(tmp_path / "other.yaml")))


def test_what_leads_to_nothing_is_told_and_stays_with_the_data(tmp_path: Path, capsys):
    config = data_set(
        tmp_path / "set",
        {"train/a": [LINE], "train/b": None, "val/c": [LINE]},
        **NAMED,
        test="images/test",
    )
    labels, images = tmp_path / "set" / "labels" / "train", tmp_path / "set" / "images" / "train"
    (labels / "\x1b[31mgone.txt").write_text(LINE)
    (labels / "classes.txt").write_text("otter")
    (images / "d.heic").write_bytes(b"")
    (images / "linked").symlink_to(tmp_path)
    (images / "a.png").write_bytes((images / "a.jpg").read_bytes())

    run(YoloArgs(yaml=config, out=tmp_path / "out", max_image_size=32))

    notes = read_manifest(tmp_path / "out").splits["train"].notes
    for note in (
        "train: 1 images have no labels: they are not used",
        "1 files of labels belong to no image of these splits: \x1b[31mgone.txt",
        "1 files of labels belong to several images: a.txt",
        "train: 1 images of kinds that are not read: d.heic",
        "train: 1 linked folders were not looked into: linked",
        "its `test` is not used",
    ):
        assert note in notes
    said = capsys.readouterr().out
    assert "1 linked folders" in said
    assert "\x1b" not in said


def test_a_validation_split_has_two_names(tmp_path: Path):
    layout = {"train/a": [LINE], "val/c": [LINE]}
    config = data_set(tmp_path, layout, **NAMED, val=None, validation="images/val")

    assert len(read(config).documents["val"]["annotations"]) == 1


def test_listed_pictures_that_are_not_there_are_named(tmp_path: Path):
    config = data_set(tmp_path, {"train/a": [LINE]}, **NAMED, train="list.txt", val=None)
    (tmp_path / "list.txt").write_text("images\\train\\a.jpg\r\nimages/train/gone.jpg\n\0.jpg\n")

    error = refusal(config)
    found = read(config, skip_missing=True)

    assert error.what == "2 of 3 listed images are not there"
    assert "gone.jpg" in error.where
    assert "train: 2 listed images are not there: \0.jpg, images/train/gone.jpg" in found.notes
    assert len(found.documents["train"]["annotations"]) == 1


def test_a_picture_that_is_stored_turned_is_refused(tmp_path: Path):
    """Its labels are of the upright view, and images are read as stored here."""
    config = data_set(tmp_path, {"train/a": [LINE]}, **NAMED, val=None)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (50, 100)).save(tmp_path / "images/train/a.jpg", exif=exif)

    error = refusal(config)

    assert error.what.startswith("1 images of train are stored turned (EXIF)")
    assert "mogrify" in error.fix


def test_links_lead_out_of_no_folder_but_the_folder_itself_may_be_one(tmp_path: Path):
    data_set(tmp_path / "real", {"train/a": [LINE]}, **NAMED)
    (tmp_path / "set").mkdir()
    for name in ("images", "labels"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / name)
    config = tmp_path / "set" / "data.yaml"
    config.write_text(yaml.safe_dump(NAMED | {"train": "images/train"}))

    found = read(config)
    assert (found.images_dir / found.documents["train"]["images"][0]["file_name"]).is_file()

    secret = tmp_path / "secret.jpg"
    codec.write_image(secret, np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "real/images/train/b.jpg").symlink_to(secret)
    assert refusal(config).what == "an image that is a link out of its folder"


@pytest.mark.timeout(20)
def test_what_never_ends_is_not_read(tmp_path: Path):
    config = data_set(tmp_path, {"train/a": [LINE]}, **NAMED, val=None)
    os.mkfifo(tmp_path / "images/train/z.jpg")
    os.mkfifo(tmp_path / "list.txt")

    assert len(read(config).documents["train"]["images"]) == 1
    config.write_text(yaml.safe_dump(NAMED | {"train": "list.txt"}))
    assert refusal(config).what == "no images for train"


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
    config.write_text(yaml.safe_dump(NAMED | entries))

    found = read(config)

    names = [image["file_name"] for image in found.documents["train"]["images"]]
    assert [Path(name).name for name in names] == ["a.jpg", "b.jpg"]
    assert all((found.images_dir / name).is_file() for name in names)
    assert len(found.documents["train"]["annotations"]) == 2
    assert "val" not in found.documents


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("0 0.5 0.5 0.4 0.6", "5 numbers where 14 are wanted"),
        (LINE + " 1", "15 numbers where 14 are wanted"),
        (LINE.replace("0.7", "x"), "could not convert string to float"),
        (LINE.replace("0.7", "nan"), "'nan' where a share of the image is wanted"),
        (LINE.replace("0.7", "35.0"), "'35.0' where a share of the image is wanted"),
        (LINE.replace("0.7", "0_7"), "'0_7' where a number is wanted"),
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
        ({"kpt_shape": [3, 3.0]}, "kpt_shape is"),
        ({"kpt_shape": [True, 3]}, "kpt_shape is"),
        ({"kpt_names": {0: ["left_paw", "nose"]}}, "where 3 names are wanted"),
        ({"kpt_names": {0: ["left_paw", "right_paw", False]}}, "where 3 names are wanted"),
        ({"kpt_names": {0: ["left_paw", "nose", "tail"]}}, "has no keypoint 'right_paw'"),
        ({"train": "x" * 5000}, "the images for train are not there"),
        ({"flip_idx": [0, 1]}, "no mirror of 3 keypoints"),
        ({"flip_idx": [1, 2, 0]}, "no mirror of 3 keypoints"),
        ({"flip_idx": [0, 5, 2]}, "no mirror of 3 keypoints"),
        ({"flip_idx": "abc"}, "no mirror of 3 keypoints"),
        ({"flip_idx": [0, 2, 1]}, "flip_idx mirrors 'left_paw' to 'left_paw', the names to"),
        ({"train": None}, "without training images"),
        ({"train": "elsewhere"}, "the images for train are not there"),
        ({"train": 7}, "the images for train are not there"),
        ({"train": "labels"}, "no images for train"),
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

    assert error.what == "no image of train has labels"
    assert error.where.startswith(str(tmp_path / "labels/train/a.txt"))


def test_a_broken_picture_is_named_like_any_other(tmp_path: Path):
    config = data_set(tmp_path, {"train/a": [LINE], "train/b": [LINE], "val/c": [LINE]}, **NAMED)
    (tmp_path / "images" / "train" / "b.jpg").write_bytes(b"no image")

    with pytest.raises(DataError, match="1 images cannot be read") as refused:
        run(YoloArgs(yaml=config, out=tmp_path / "out"))

    assert "train/b.jpg" in refused.value.where
