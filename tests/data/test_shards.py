import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data import pictures, rows, shards
from hrnet_ray.data.labels import Instance, Labels, Skipped
from hrnet_ray.data.manifest import (
    Manifest,
    read_head,
    read_manifest,
    read_table,
    verify,
    write_manifest,
)
from hrnet_ray.data.shards import write_split
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton

PAW = Skeleton(name="paw", keypoints=("left_toe", "right_toe"), bones=(("left_toe", "right_toe"),))


def instance(id: int, image: str | None = None, *, x: float = 5.0) -> Instance:
    return Instance(
        id=id,
        image_id=id,
        image=image or f"{id}.png",
        category_id=1,
        box_xywh=(2.0, 2.0, 30.0, 20.0),
        area=600.0,
        head_size=math.nan,
        image_xy=np.array([[x, 6.0], [7.0, 8.0]]),
        visible=np.array([True, True]),
    )


def labels(*instances: Instance, skipped: tuple[Skipped, ...] = ()) -> Labels:
    return Labels(
        source=Path("/data/paws.json"),
        skeleton=PAW,
        instances=list(instances),
        skipped=list(skipped),
    )


def some(count: int) -> Labels:
    return labels(*(instance(id) for id in range(count)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven pictures, 0.png to 6.png, each of another grey."""
    for id in range(7):
        pictures.write(tmp_path / "images" / f"{id}.png", np.full((24, 36, 3), 20 * id, np.uint8))
    return tmp_path / "images"


def written(images: Path, found: Labels, **changes) -> tuple[Manifest, list[Skipped]]:
    out = images.parent / "out"
    usual = {"images": images, "out": out, "split": "train", "kind": "region", "canvas_px": 16}
    split, skipped = write_split(found, **{**usual, **changes})
    manifest = Manifest(root=out, name="paws", skeleton=PAW, canvas_px=16, splits={"train": split})
    write_manifest(manifest, [("train", thing) for thing in skipped])
    return manifest, skipped


def digest(images: Path, found: Labels, **changes) -> str:
    return written(images, found, **changes)[0].digest


def ids(table) -> list[int]:
    return table["id"].to_pylist()


def test_rows_come_in_the_order_of_the_annotations_in_shards(images: Path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)

    manifest, _ = written(images, labels(*(instance(id) for id in (4, 0, 6, 2, 1, 3, 5))))

    split = manifest.splits["train"]
    assert [shard.file for shard in split.shards] == [
        "train/00000.parquet",
        "train/00001.parquet",
        "train/00002.parquet",
    ]
    assert [shard.rows for shard in split.shards] == [3, 3, 1]
    assert ids(read_table(manifest, "train")) == [4, 0, 6, 2, 1, 3, 5]


def test_every_row_has_the_picture_of_its_instance(images: Path):
    manifest, _ = written(images, some(7))

    canvases = rows.decode_rows(read_table(manifest, "train"), canvas_px=16)["canvas"]

    assert np.abs(canvases[:, 2, 2, 0] - 20.0 * np.arange(7)).max() <= 1


def test_an_exact_row_holds_the_untouched_file(images: Path):
    manifest, _ = written(images, some(2), kind="exact")

    table = read_table(manifest, "train", columns=["picture", "sha256"])

    data = [(images / f"{id}.png").read_bytes() for id in range(2)]
    assert table["picture"].to_pylist() == data
    assert table["sha256"].to_pylist() == [pictures.sha256(each) for each in data]


@pytest.mark.parametrize("count", [1, 3, 5, 7, 100])
def test_the_head_is_the_first_rows_of_all_shards(images: Path, monkeypatch, count: int):
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    monkeypatch.setattr(shards, "ROW_GROUP_ROWS", 2)
    manifest, _ = written(images, some(7))

    assert ids(read_head(manifest, "train", count)) == list(range(min(count, 7)))


def test_missing_pictures_are_named_and_each_once(images: Path):
    found = labels(
        instance(0), instance(7), instance(8, "7.png"), *(instance(at) for at in (9, 10, 11))
    )

    with pytest.raises(DataError) as error:
        written(images, found)

    assert str(error.value) == (
        "4 of 5 pictures are not there\n"
        f"  paws.json: 10.png, 11.png, 7.png and 1 more (below {images})\n"
        "  fix: check --images, or add --skip-missing to leave them out (listed in skipped.csv)"
    )


def test_missing_pictures_can_be_skipped_and_are_listed(images: Path):
    earlier = Skipped("annotation 9 (9.png)", "crowd")
    found = labels(instance(0), instance(7), instance(8, "7.png"), skipped=(earlier,))

    manifest, _ = written(images, found, skip_missing=True)

    split = manifest.splits["train"]
    assert (split.read, split.rows, split.skipped) == (4, 1, 3)
    with (manifest.root / "skipped.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["split", "item", "reason", "detail"],
            ["train", "annotation 9 (9.png)", "crowd", ""],
            ["train", "7.png", "missing picture", "instance 7"],
            ["train", "7.png", "missing picture", "instance 8"],
        ]


@pytest.fixture
def cut_off(images: Path) -> Path:
    """A JPEG of 24 x 36 without its second half."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    data = pictures.encode_jpeg(noise)
    (images / "half.jpg").write_bytes(data[: len(data) // 2])
    return images / "half.jpg"


@pytest.mark.parametrize("kind", ["region", "exact"])
def test_a_jpeg_that_is_cut_off_is_found_and_named_once(images: Path, cut_off: Path, kind: str):
    size = len(cut_off.read_bytes())
    found = labels(instance(0), instance(1, "half.jpg"), instance(2, "half.jpg"))

    with pytest.raises(DataError) as error:
        written(images, found, kind=kind)

    assert str(error.value) == (
        "1 pictures cannot be read\n"
        f"  below {images}: half.jpg (a JPEG of {size:,} bytes that is cut off, damaged or too "
        "large)\n"
        "  fix: replace them, or add --skip-broken to leave them out (listed in skipped.csv)"
    )


def test_broken_pictures_can_be_skipped_and_are_counted(images: Path, cut_off: Path):
    (images / "page.png").write_bytes(b"<html>")
    found = labels(instance(0), instance(1, cut_off.name), instance(2, "page.png"), instance(3))

    manifest, skipped = written(images, found, skip_broken=True)

    split = manifest.splits["train"]
    assert (split.read, split.rows, split.skipped) == (4, 2, 2)
    assert ids(read_table(manifest, "train")) == [0, 3]
    assert [thing.item for thing in skipped] == ["half.jpg", "page.png"]
    assert skipped[1].detail == "6 bytes that start b'<html>'"


def test_nothing_left_is_no_data_set(images: Path):
    found = labels(instance(7), skipped=(Skipped("a", "crowd"), Skipped("b", "crowd")))

    with pytest.raises(DataError) as error:
        written(images, found, skip_missing=True)

    assert str(error.value) == (
        "nothing to learn or score\n"
        "  /data/paws.json: 3 instances read, none can be used (2 crowd, 1 missing picture)\n"
        "  fix: give a file with labelled keypoints, and the folder with its pictures"
    )


@pytest.mark.parametrize(
    "name", ["../secret.png", "a/../../secret.png", "/etc/hostname", "out.png", "0.png\0", "a\0b"]
)
def test_a_name_that_leaves_the_folder_is_refused(images: Path, name: str):
    pictures.write(images.parent / "secret.png", np.zeros((4, 6, 3), np.uint8))
    (images / "out.png").symlink_to(images.parent / "secret.png")

    with pytest.raises(DataError) as error:
        written(images, labels(instance(0), instance(1, name)), skip_missing=True)

    assert error.value.what == "an annotation that names a file outside the folder of pictures"
    assert error.value.where == f"{name!r} below {images}"


def test_names_of_subfolders_and_links_within_the_folder_are_followed(images: Path):
    pictures.write(images / "day 1" / "a.png", np.zeros((24, 36, 3), np.uint8))
    (images / "b.png").symlink_to(images / "0.png")

    manifest, _ = written(
        images, labels(instance(0, "day 1/a.png"), instance(1, "b.png"), instance(2, "./2.png"))
    )

    assert manifest.splits["train"].rows == 3


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "0.png/1.png", "sub"])
def test_a_name_that_no_file_can_have_is_missing(images: Path, name: str):
    (images / "sub").mkdir()

    _, skipped = written(images, labels(instance(0), instance(1, name)), skip_missing=True)

    assert [(thing.item, thing.reason) for thing in skipped] == [(name, "missing picture")]


def test_a_link_that_leads_to_itself_is_an_error_or_missing_but_no_crash(images: Path):
    (images / "loop.png").symlink_to(images / "loop.png")

    with pytest.raises(DataError, match=r"loop\.png"):
        written(images, labels(instance(0), instance(1, "loop.png")))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_that_a_spreadsheet_would_run_is_quoted(images: Path, start: str):
    name = f"{start}cmd|' /C calc'!A0.png"

    manifest, _ = written(images, labels(instance(0), instance(1, name)), skip_missing=True)

    with (manifest.root / "skipped.csv").open(newline="") as file:
        assert list(csv.reader(file))[1][1] == f"'{name}"


def test_one_changed_keypoint_changes_the_version(images: Path):
    before = digest(images, some(3))

    assert digest(images, labels(instance(0), instance(1, x=5.0001), instance(2))) != before
    assert digest(images, some(3)) == before


def test_one_changed_byte_of_a_picture_changes_the_version(images: Path):
    before = digest(images, some(3))
    data = bytearray((images / "1.png").read_bytes())

    (images / "1.png").write_bytes(data + b"\0")

    assert pictures.decode(bytes(data) + b"\0") is not None
    assert digest(images, some(3)) != before


def test_the_size_of_shards_and_the_place_do_not_change_the_version(images: Path, monkeypatch):
    before = digest(images, some(7))

    monkeypatch.setattr(shards, "SHARD_ROWS", 2)

    assert digest(images, some(7), out=images.parent / "elsewhere") == before


def test_the_canvas_and_the_skeleton_change_the_version(images: Path):
    manifest, _ = written(images, some(2))

    other = Skeleton(name="paw", keypoints=("left_claw", "right_claw"))

    for changes in ({"canvas_px": 17}, {"skeleton": other}):
        assert Manifest(**{**vars(manifest), **changes}).digest != manifest.digest


def test_verify_finds_a_flipped_byte_and_a_missing_shard(images: Path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    manifest, _ = written(images, some(5))
    verify(manifest)
    changed = manifest.root / "train" / "00001.parquet"
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    (manifest.root / "train" / "00002.parquet").unlink()

    with pytest.raises(DataError) as error:
        verify(manifest)

    assert str(error.value) == (
        "2 shards are not as they were written\n"
        f"  {manifest.root}: train/00001.parquet (changed), train/00002.parquet (missing)\n"
        "  fix: copy them again, or prepare the data set again"
    )


def test_a_manifest_is_read_back_as_it_was_written(images: Path):
    manifest, _ = written(images, some(3))

    assert read_manifest(manifest.root) == manifest
    assert read_manifest(str(manifest.root)).digest == manifest.digest
    assert json.loads((manifest.root / "manifest.json").read_text())["digest"] == manifest.digest


def test_a_manifest_names_the_files_of_its_splits_and_no_others(images: Path):
    manifest, _ = written(images, some(3))

    assert manifest.files("train") == [f"{manifest.root}/train/00000.parquet"]
    with pytest.raises(DataError, match=f"no split 'val'\n  {manifest.root} has train"):
        manifest.files("val")


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
    ],
)
def test_a_manifest_that_cannot_be_read_is_told(images: Path, changes: dict):
    manifest, _ = written(images, some(1))
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


def test_shards_of_an_earlier_time_go_and_other_files_stay(images: Path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    manifest, _ = written(images, some(7))
    (manifest.root / "train" / "mine.parquet").touch()

    written(images, some(2))

    names = sorted(path.name for path in (manifest.root / "train").iterdir())
    assert names == ["00000.parquet", "mine.parquet"]


def test_progress_counts_every_instance(images: Path):
    told = []

    written(images, some(5), progress=lambda done, total: told.append((done, total)))

    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_file_where_a_folder_is_wanted_is_told(images: Path):
    out = images.parent / "out"
    out.mkdir()
    (out / "train").touch()

    with pytest.raises(DataError) as of_out:
        written(images, some(1))
    with pytest.raises(DataError) as of_images:
        written(out / "train", some(1))

    assert str(of_out.value) == (
        "a folder that cannot be made\n"
        f"  --out {out}/train: File exists\n"
        "  fix: give a folder that can be written"
    )
    assert of_images.value.what == "the folder is a file"
