import csv
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data import records
from hrnet_ray.data.annotations import SkippedItem
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import read_split
from hrnet_ray.errors import DataError
from tests.data.paws import ids, instance, labels, some, written


@pytest.fixture
def cut_off(images: Path) -> Path:
    """A JPEG of 24 x 36 without its second half."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    data = codec.encode_jpeg(noise)
    (images / "half.jpg").write_bytes(data[: len(data) // 2])
    return images / "half.jpg"


def test_rows_come_in_the_order_of_the_annotations_in_shards(images: Path):
    found = labels(*(instance(id) for id in (4, 0, 6, 2, 1, 3, 5)))

    manifest = written(images, found, rows_per_shard=3)

    split = manifest.splits["train"]
    assert [shard.file for shard in split.shards] == [
        "train/00000.parquet",
        "train/00001.parquet",
        "train/00002.parquet",
    ]
    assert [shard.rows for shard in split.shards] == [3, 3, 1]
    assert ids(read_split(manifest, "train")) == [4, 0, 6, 2, 1, 3, 5]


def test_every_row_has_the_picture_of_its_instance(images: Path):
    manifest = written(images, some(7))

    canvases = records.decode_train_batch(read_split(manifest, "train"), canvas_px=16)["canvas"]

    assert np.abs(canvases[:, 2, 2, 0] - 20.0 * np.arange(7)).max() <= 1


def test_an_exact_row_holds_the_untouched_file(images: Path):
    manifest = written(images, some(2), store_full_images=True)

    table = read_split(manifest, "train", columns=["picture", "sha256"])

    data = [(images / f"{id}.png").read_bytes() for id in range(2)]
    assert table["picture"].to_pylist() == data
    assert table["sha256"].to_pylist() == [codec.hash_bytes(each) for each in data]


@pytest.mark.parametrize("exact", [False, True])
def test_a_picture_is_decoded_once_for_its_neighbouring_instances(
    images: Path, exact: bool, monkeypatch: pytest.MonkeyPatch
):
    decoded, decode = [], codec.decode_or_reject
    monkeypatch.setattr(codec, "decode_or_reject", lambda data: decoded.append(0) or decode(data))
    same = [instance(at, "0.png") for at in range(4)]

    manifest = written(images, labels(*same, instance(4), *same[:2]), store_full_images=exact)

    assert len(decoded) == 3
    assert ids(read_split(manifest, "train")) == [0, 1, 2, 3, 4, 0, 1]


def test_missing_pictures_can_be_skipped_and_are_listed(images: Path):
    earlier = SkippedItem("annotation 9 (9.png)", "crowd")
    found = labels(instance(0), instance(7), instance(8, "7.png"), skipped=(earlier,))

    manifest = written(images, found, skip_missing=True)

    split = manifest.splits["train"]
    assert (split.read, split.rows, split.skipped) == (4, 1, 3)
    with (manifest.root / "skipped.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["split", "item", "reason", "detail"],
            ["train", "annotation 9 (9.png)", "crowd", ""],
            ["train", "7.png", "missing image", "instance 7"],
            ["train", "7.png", "missing image", "instance 8"],
        ]


@pytest.mark.parametrize("exact", [False, True])
def test_a_jpeg_that_is_cut_off_is_found_and_named_once(images: Path, cut_off: Path, exact: bool):
    size = len(cut_off.read_bytes())
    found = labels(instance(0), instance(1, "half.jpg"), instance(2, "half.jpg"))

    with pytest.raises(DataError) as error:
        written(images, found, store_full_images=exact)

    assert str(error.value) == (
        "1 images cannot be read\n"
        f"  below {images}: half.jpg (cut off: a JPEG of 36 x 24 pixels in {size:,} bytes)\n"
        "  fix: replace them, or add --skip-corrupt to leave them out (listed in skipped.csv)"
    )


def test_broken_pictures_can_be_skipped_and_are_counted(images: Path, cut_off: Path):
    (images / "page.png").write_bytes(b"<html>")
    found = labels(instance(0), instance(1, cut_off.name), instance(2, "page.png"), instance(3))

    manifest = written(images, found, skip_corrupt=True)

    split = manifest.splits["train"]
    assert (split.read, split.rows, split.skipped) == (4, 2, 2)
    assert ids(read_split(manifest, "train")) == [0, 3]
    found = [codec.explain_rejection(data) for data in (cut_off.read_bytes(), b"<html>")]
    with (manifest.root / "skipped.csv").open(newline="") as file:
        assert [line[1:] for line in csv.reader(file)][1:] == [
            ["half.jpg", "cut off", found[0].detail],
            ["page.png", "not an image", found[1].detail],
        ]


def test_shards_of_an_earlier_time_go_and_other_files_stay(images: Path):
    manifest = written(images, some(7), rows_per_shard=2)
    (manifest.root / "train" / "mine.parquet").touch()

    written(images, some(2))

    names = sorted(path.name for path in (manifest.root / "train").iterdir())
    assert names == ["00000.parquet", "mine.parquet"]


def test_progress_counts_every_instance(images: Path):
    told = []

    written(images, some(5), make_progress=lambda _: lambda *count: told.append(count))

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
        f"a folder that cannot be made\n  --out {out}/train: File exists\n  fix: give a folder that can be written"
    )
    assert of_images.value.what == "the folder is a file"


@pytest.mark.parametrize("exact", [False, True])
def test_the_bytes_of_a_shard_do_not_depend_on_the_number_of_threads(
    images: Path, cut_off: Path, exact: bool, monkeypatch: pytest.MonkeyPatch
):
    found = labels(*some(7).instances, instance(7, cut_off.name), *some(3).instances)
    manifests = []
    for threads in (1, 2, 5):
        monkeypatch.setattr("os.cpu_count", lambda threads=threads: threads)
        out = images.parent / f"{threads} threads"
        manifests.append(written(images, found, out=out, store_full_images=exact, skip_corrupt=True))

    assert manifests[0].splits == manifests[1].splits == manifests[2].splits
    assert manifests[0].splits["train"].rows == 10
