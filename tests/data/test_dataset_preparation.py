import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrnet_ray.data import records
from hrnet_ray.data.annotations import AnnotationSet, SkippedItem
from hrnet_ray.data.dataset_preparation import prepare_dataset, write_shards_locally
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.formats.mpii import read_mpii
from hrnet_ray.data.images import codec
from hrnet_ray.data.integrity import verify_checksums
from hrnet_ray.data.manifest import read_manifest, read_split
from hrnet_ray.data.shards import DoneCallback, ShardResult, ShardTask
from hrnet_ray.data.splits import SplitSource, find_shared_images, split_by_image
from hrnet_ray.errors import ClusterError, DataError
from hrnet_ray.skeletons import ATRW

PICTURES = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images with two animals in each, and one with a crowd, in COCO form."""
    images = [{"id": at, "file_name": f"{at}.png", "width": 36, "height": 24} for at in range(PICTURES)]
    animals = [
        {
            "id": at,
            "image_id": at // 2,
            "category_id": 1,
            "bbox": [at, 2, 20, 20],
            "keypoints": [at + 1, 5, 2, at + 9, 9, 2],
        }
        for at in range(2 * PICTURES)
    ]
    crowd = {"id": 99, "image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    category = {"id": 1, "name": "paw", "keypoints": ["left_toe", "right_toe"]}
    content = {"images": images, "annotations": [*animals, crowd], "categories": [category]}
    (tmp_path / "paws.json").write_text(json.dumps(content))
    for at in range(PICTURES):
        codec.write_image(tmp_path / "images" / f"{at}.png", np.full((24, 36, 3), 40 * at, np.uint8))
    return tmp_path


@pytest.fixture
def paws(folder: Path) -> AnnotationSet:
    return read_coco(folder / "paws.json")


def both(labels: AnnotationSet, images: Path) -> dict[str, SplitSource]:
    return {"train": SplitSource(labels, images), "val": SplitSource(labels, images)}


def test_annotations_become_a_data_set_that_vouches_for_itself(folder: Path, paws: AnnotationSet):
    manifest = prepare_dataset(both(paws, folder / "images"), out=folder / "new" / "out", name="paws")

    assert read_manifest(folder / "new" / "out") == manifest
    verify_checksums(manifest)
    assert {name: split.kind for name, split in manifest.splits.items()} == {
        "train": "region",
        "val": "exact",
    }
    for split in manifest.splits.values():
        assert (split.read, split.rows, split.skipped) == (13, 12, 1)
        assert split.source == "paws.json"
    assert (folder / "new" / "out" / "skipped.csv").read_text().splitlines()[1:] == [
        "train,annotation 99 (0.png),crowd,",
        "val,annotation 99 (0.png),crowd,",
    ]


def test_one_file_can_be_both_splits(folder: Path, paws: AnnotationSet):
    manifest = prepare_dataset(both(paws, folder / "images"), out=folder / "out", name="paws")

    train, val = (read_split(manifest, split, columns=["id"]) for split in ("train", "val"))
    assert train.equals(val)
    source = SplitSource(paws, folder / "images")
    assert find_shared_images(source, source) == [f"{at}.png" for at in range(PICTURES)]


def test_progress_is_told_of_each_split(folder: Path, paws: AnnotationSet):
    told = []

    def progress(split: str):
        return lambda done, total: told.append((split, done, total))

    prepare_dataset(both(paws, folder / "images"), out=folder / "out", name="paws", make_progress=progress)

    assert told == [(split, at + 1, 12) for split in ("train", "val") for at in range(12)]


def test_a_failed_second_time_leaves_nothing_that_vouches(folder: Path, paws: AnnotationSet):
    prepare_dataset(both(paws, folder / "images"), out=folder / "out", name="paws")
    (folder / "images" / "3.png").write_bytes(b"no image")

    with pytest.raises(DataError, match="1 images cannot be read"):
        prepare_dataset(both(paws, folder / "images"), out=folder / "out", name="paws")

    with pytest.raises(DataError, match="no prepared data set"):
        read_manifest(folder / "out")


def test_missing_pictures_of_both_splits_can_be_skipped(folder: Path, paws: AnnotationSet):
    (folder / "images" / "3.png").unlink()

    manifest = prepare_dataset(both(paws, folder / "images"), out=folder / "out", name="paws", skip_missing=True)

    assert [split.skipped for split in manifest.splits.values()] == [3, 3]
    assert (folder / "out" / "skipped.csv").read_text().count("3.png,missing image") == 4


@pytest.mark.parametrize("again", [False, True])
def test_pictures_that_ask_to_be_turned_are_named(folder: Path, paws: AnnotationSet, again: bool):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    for name in ("1.png", "3.png"):  # as JPEG, whatever their name
        Image.new("RGB", (36, 24)).save(folder / "images" / name, "JPEG", exif=exif)
    for _ in range(1 + again):
        prepare_dataset(both(paws, folder / "images"), out=folder / "out", name="paws")

    train = read_manifest(folder / "out").splits["train"]

    said = "2 images ask to be shown turned (EXIF), and are read as stored: do their labels fit?"
    assert f"{said} 1.png, 3.png" in train.notes


def test_a_file_where_the_folder_should_be_is_told(folder: Path, paws: AnnotationSet):
    sources = both(paws, folder / "images")

    with pytest.raises(DataError) as error:
        prepare_dataset(sources, out=folder / "paws.json", name="paws")
    with pytest.raises(DataError) as below:
        prepare_dataset(sources, out=folder / "paws.json" / "out", name="paws")

    assert str(error.value) == (f"a file where a folder is wanted\n  --out {folder}/paws.json\n  fix: give a folder")
    assert below.value.what == "a folder that cannot be made"


def test_the_same_name_in_two_folders_is_two_pictures(paws: AnnotationSet):
    assert find_shared_images(SplitSource(paws, Path("train")), SplitSource(paws, Path("val"))) == []


def test_a_mistyped_folder_leaves_an_earlier_data_set_as_it_was(folder: Path, paws: AnnotationSet):
    prepare_dataset(both(paws, folder / "images"), out=folder / "out", name="paws")
    before = (folder / "out" / "manifest.json").read_bytes()

    with pytest.raises(DataError, match="the folder is not there"):
        prepare_dataset(both(paws, folder / "imgaes"), out=folder / "out", name="paws")

    assert (folder / "out" / "manifest.json").read_bytes() == before


def test_splits_of_different_keypoints_are_refused(folder: Path, paws: AnnotationSet):
    images = folder / "images"
    sources = {
        "train": SplitSource(paws, images),
        "val": SplitSource(replace(paws, skeleton=ATRW), images),
    }

    with pytest.raises(DataError, match="the splits have different keypoints") as error:
        prepare_dataset(sources, out=folder / "out", name="paws")

    assert error.value.where == f"val: {', '.join(ATRW.keypoints)}"
    assert error.value.fix == "they must all be left_toe, right_toe"
    assert not (folder / "out").exists()


def test_all_instances_of_a_picture_go_to_one_side(paws: AnnotationSet):
    train, val = split_by_image(paws, val_fraction=0.34)

    here = Path("images")
    assert find_shared_images(SplitSource(train, here), SplitSource(val, here)) == []
    assert len({instance.image for instance in val.instances}) == 2
    assert len(val.instances) == 4
    assert sorted(i.id for i in train.instances + val.instances) == list(range(12))


def test_what_was_skipped_is_counted_once(paws: AnnotationSet):
    train, val = split_by_image(paws, val_fraction=0.5)

    assert train.skipped == [SkippedItem("annotation 99 (0.png)", "crowd")]
    assert val.skipped == []
    assert train.num_read + val.num_read == paws.num_read


def test_a_seed_gives_one_parting_whatever_the_order_of_the_file(paws: AnnotationSet):
    def val_pictures(labels: AnnotationSet, seed: int) -> set[str]:
        return {i.image for i in split_by_image(labels, val_fraction=0.5, seed=seed)[1].instances}

    backwards = replace(paws, instances=paws.instances[::-1])

    assert val_pictures(paws, 4) == val_pictures(backwards, 4)
    assert len({frozenset(val_pictures(paws, seed)) for seed in range(10)}) > 1


@pytest.mark.parametrize(("count", "val_share"), [(0, 0.5), (1, 0.5), (2, 0.9), (6, 1.0)])
def test_too_few_pictures_for_two_sides_are_told(paws: AnnotationSet, count: int, val_share: float):
    few = replace(paws, instances=[i for i in paws.instances if i.image_id < count])

    with pytest.raises(DataError, match=f"{count} images cannot be parted into training and val"):
        split_by_image(few, val_fraction=val_share)


@pytest.mark.parametrize(
    ("name", "read", "keypoints"),
    [("atrw", read_coco, 15), ("mpii", read_mpii, 16), ("ap10k", read_coco, 17)],
)
def test_real_pictures_are_prepared_completely(shared_data: Path, tmp_path: Path, name: str, read, keypoints: int):
    labels = read(shared_data / name / f"test_{name}.json")

    manifest = prepare_dataset(both(labels, shared_data / name), out=tmp_path / "out", name=name, canvas_px=96)

    train = records.decode_train_batch(read_split(manifest, "train"), canvas_px=96)
    val = records.decode_eval_batch(read_split(manifest, "val"), input_hw=(64, 48), padding=1.25)
    assert len(train["id"]) == len(val["id"]) == labels.num_read
    assert train["readable"].all()
    assert val["readable"].all()
    assert train["image_xy"].shape == (labels.num_read, keypoints, 2)
    assert (train["image_xy"] == np.stack([i.image_xy for i in labels.instances])).all()
    assert (train["canvas"].reshape(labels.num_read, -1).max(axis=1) > 100).all()


def test_a_shard_that_only_another_machine_has_is_told(folder: Path, paws: AnnotationSet):
    def make_elsewhere(tasks: Sequence[ShardTask], tell: DoneCallback) -> Iterator[ShardResult]:
        for report in write_shards_locally(tasks, tell):
            (folder / "out" / report.file).unlink()  # as if `out` were a disk of that machine
            yield report

    with pytest.raises(ClusterError) as error:
        prepare_dataset(
            both(paws, folder / "images"),
            out=folder / "out",
            name="paws",
            write_shards=make_elsewhere,
        )

    assert error.value.what == "a shard that was written, but is not here"
    assert error.value.where.startswith(f"{folder}/out/train/00000.parquet: ")
    assert "a folder that all machines share" in error.value.fix


def test_a_disk_that_takes_no_more_is_told(folder: Path, paws: AnnotationSet, tmp_path: Path):
    command = f"""
import resource, signal
from pathlib import Path
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.dataset_preparation import prepare_dataset, write_shards_locally
from hrnet_ray.data.shards import DoneCallback, ShardResult, ShardTask
from hrnet_ray.data.splits import SplitSource
from hrnet_ray.errors import ClusterError

folder = Path({str(folder)!r})
source = SplitSource(read_coco(folder / "paws.json"), folder / "images")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
try:
    prepare_dataset({{"train": source}}, out=folder / "out", name="paws")
except ClusterError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)

    assert ended.stdout.startswith(f"a storage that does not work\n  {folder}/out/train/00000.parquet: "), ended.stderr
    assert list((folder / "out" / "train").iterdir()) == []


def test_pictures_of_another_size_than_told_are_named(folder: Path, paws: AnnotationSet):
    codec.write_image(folder / "images" / "1.png", np.zeros((48, 72, 3), np.uint8))

    manifest = prepare_dataset(both(paws, folder / "images"), out=folder / "out", name="paws")

    (note,) = manifest.splits["train"].notes
    assert note == (
        "1 images have another size than the annotations tell, so labels may lie elsewhere: "
        "1.png (72 x 48, told 36 x 24)"
    )
