import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray.data import shards
from hrnet_ray.data.annotations import AnnotationSet
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import read_first_rows, read_manifest
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton
from tests.data.paws import ids, instance, labels, some, written


def digest(images: Path, found: AnnotationSet, **changes) -> str:
    return written(images, found, **changes).digest


@pytest.mark.parametrize("count", [1, 3, 5, 7, 100])
def test_the_head_is_the_first_rows_of_all_shards(images: Path, monkeypatch, count: int):
    monkeypatch.setattr(shards, "ROWS_PER_ROW_GROUP", 2)
    manifest = written(images, some(7), rows_per_shard=3)

    assert ids(read_first_rows(manifest, "train", count)) == list(range(min(count, 7)))


def test_one_changed_keypoint_changes_the_version(images: Path):
    before = digest(images, some(3))

    assert digest(images, labels(instance(0), instance(1, x=5.0001), instance(2))) != before
    assert digest(images, some(3)) == before


def test_one_changed_byte_of_a_picture_changes_the_version(images: Path):
    before = digest(images, some(3))
    data = bytearray((images / "1.png").read_bytes())

    (images / "1.png").write_bytes(data + b"\0")

    assert codec.decode_image(bytes(data) + b"\0") is not None
    assert digest(images, some(3)) != before


def test_the_size_of_shards_and_the_place_do_not_change_the_version(images: Path):
    before = digest(images, some(7))

    for at, rows_per_shard in enumerate((1, 2, 7, 256)):
        out = images.parent / str(at)
        assert digest(images, some(7), out=out, rows_per_shard=rows_per_shard) == before


def test_the_canvas_and_the_skeleton_change_the_version(images: Path):
    manifest = written(images, some(2))

    other = Skeleton(name="paw", keypoints=("left_claw", "right_claw"))

    for changes in ({"canvas_px": 17}, {"skeleton": other}):
        assert replace(manifest, **changes).digest != manifest.digest


def test_a_manifest_is_read_back_as_it_was_written(images: Path):
    manifest = written(images, some(3))

    assert read_manifest(manifest.root) == manifest
    assert read_manifest(str(manifest.root)).digest == manifest.digest
    assert json.loads((manifest.root / "manifest.json").read_text())["digest"] == manifest.digest


def test_a_manifest_names_the_files_of_its_splits_and_no_others(images: Path):
    manifest = written(images, some(3))

    assert manifest.get_shard_uris("train") == [f"{manifest.root}/train/00000.parquet"]
    with pytest.raises(DataError, match=f"no split 'val'\n  {manifest.root} has train"):
        manifest.get_shard_uris("val")


def test_a_folder_that_was_not_prepared_is_told(tmp_path: Path):
    (tmp_path / "file").touch()

    whats = []
    for root in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(DataError) as error:
            read_manifest(root)
        assert error.value.where == f"--data.root {root}"
        whats.append(error.value.what)

    assert whats == [
        f"no prepared data set: {tmp_path.name} has no manifest.json",
        "no prepared data set: file is a file",
        "no such folder",
    ]


def train(**changes) -> dict:
    """A split of one shard."""
    shard = {"file": "train/00000.parquet", "rows": 1, "bytes": 9, "sha256": "0" * 64} | changes
    counts = {"read": 1, "rows": 1, "skipped": 0, "digest": "", "notes": []}
    return {"kind": "region", "source": "a.json", "shards": [shard], **counts}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 99},
        {"format": None},
        {"splits": []},
        {"splits": {"train": []}},
        {"splits": {"train": {"shards": [5]}}},
        {"splits": {"train": {"shards": []}}},
        {"skeleton": "paw"},
        {"skeleton": None},
        {"skeleton": {"keypoints": []}},
        {"canvas_px": "large"},
        {"splits": {"train": train(file="../../train/00000.parquet")}},
        {"splits": {"train": train(file="/etc/00000.parquet")}},
        {"splits": {"train": train(file=7)}},
        {"splits": {"train": train(sha256="")}},
        {"splits": {"train": train(rows=-1)}},
        {"splits": {"train": train(rows=2)}},
        {"splits": {"train": train(bytes="many")}},
    ],
)
def test_a_manifest_that_cannot_be_read_is_told(images: Path, changes: dict):
    manifest = written(images, some(1))
    path = manifest.root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    with pytest.raises(DataError) as error:
        read_manifest(manifest.root)

    assert str(path) in error.value.where


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '"text"'])
def test_a_manifest_that_is_no_object_is_told(tmp_path: Path, text: str):
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(DataError, match="a manifest that cannot be read"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("start", "quoted"),
    [("=", "'="), ("+", "'+"), ("-", "'-"), ("@", "'@"), ("\t", "\\t"), ("\r", "\\r")],
)
def test_a_cell_that_a_spreadsheet_would_run_is_quoted(images: Path, start: str, quoted: str):
    name = f"{start}cmd|' /C calc'!A0.png"

    manifest = written(images, labels(instance(0), instance(1, name)), skip_missing=True)

    with (manifest.root / "skipped.csv").open(newline="") as file:
        assert list(csv.reader(file))[1][1] == quoted + name[1:]
