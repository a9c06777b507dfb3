"""Test `hrnet-ray prepare`: the dataset that it writes, and its output."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from hrnet_ray.cli.prepare import (
    AtrwArgs,
    CocoArgs,
    MpiiArgs,
    SyntheticArgs,
    make_progress_line,
    run,
)
from hrnet_ray.data import records
from hrnet_ray.data.images import codec
from hrnet_ray.data.integrity import verify_checksums
from hrnet_ray.data.manifest import read_manifest, read_split
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.skeletons import ATRW, MPII, Skeleton
from tests.data.formats.test_mpii_release import person, picture, save

NUM_IMAGES = 10


@pytest.fixture
def toes(tmp_path: Path) -> Path:
    """Write ten images of 60 x 40 pixels, all but the last with two toes, and their COCO file."""
    for at in range(NUM_IMAGES):
        grey = np.full((40, 60, 3), 20 * at, np.uint8)
        codec.write_image(tmp_path / "images" / f"{at}.png", grey)
    document = {
        "images": [{"id": at, "file_name": f"{at}.png"} for at in range(NUM_IMAGES)],
        "annotations": [
            {
                "id": at,
                "image_id": at,
                "category_id": 1,
                "bbox": [5, 5, 40, 30],
                "keypoints": [10 + at, 11, 2, 30, 20, 2] if at < 9 else [0] * 6,
            }
            for at in range(NUM_IMAGES)
        ],
        "categories": [{"id": 1, "name": "toes", "keypoints": ["left_toe", "right_toe"]}],
    }
    (tmp_path / "toes.json").write_text(json.dumps(document))
    return tmp_path


def images_of(root: Path, split: str) -> list[str]:
    return read_split(read_manifest(root), split, columns=["image"])["image"].to_pylist()


@pytest.mark.parametrize(("kind", "skeleton"), [("tigers", ATRW), ("people", MPII)])
def test_synthetic_images_become_a_dataset(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: Literal["tigers", "people"],
    skeleton: Skeleton,
):
    run(SyntheticArgs(kind=kind, num_train=3, num_val=2, seed=5, out=tmp_path / "zoo", max_image_size=96))

    manifest = read_manifest(tmp_path / "zoo")
    verify_checksums(manifest)
    assert manifest.name == "zoo"
    assert manifest.canvas_px == 96
    assert manifest.skeleton.keypoints == skeleton.keypoints
    assert len(set(images_of(tmp_path / "zoo", "train"))) == 3
    assert len(set(images_of(tmp_path / "zoo", "val"))) == 2
    heads = read_split(manifest, "val", columns=["head_size"])["head_size"].to_numpy()
    assert np.isfinite(heads).all() == (kind == "people")
    assert not (set(images_of(tmp_path / "zoo", "train")) & set(images_of(tmp_path / "zoo", "val")))
    stdout = capsys.readouterr().out
    assert f"zoo: {len(skeleton)} keypoints, version {manifest.digest[:12]}\n" in stdout
    assert "both splits" not in stdout
    assert stdout.endswith(f"next: hrnet-ray check {manifest.root}\n")


def test_the_seed_determines_the_synthetic_dataset(tmp_path: Path):
    digests = []
    for at, seed in enumerate((1, 1, 2)):
        run(SyntheticArgs(num_train=1, num_val=1, seed=seed, out=tmp_path / str(at), max_image_size=64))
        digests.append(read_manifest(tmp_path / str(at)).digest)

    assert digests[0] == digests[1] != digests[2]


def test_a_fraction_of_the_images_is_for_validation(toes: Path, capsys: pytest.CaptureFixture[str]):
    run(
        CocoArgs(
            images=toes / "images",
            annotations=toes / "toes.json",
            val_fraction=0.3,
            out=toes / "out",
            name="little toes",
        )
    )

    train, val = images_of(toes / "out", "train"), images_of(toes / "out", "val")
    assert sorted(train + val) == [f"{at}.png" for at in range(9)]
    assert len(val) == 3
    manifest = read_manifest(toes / "out")
    assert manifest.skeleton.keypoints == ("left_toe", "right_toe")
    assert capsys.readouterr().out.endswith(
        f"little toes: 2 keypoints, version {manifest.digest[:12]}\n"
        "  train 7 read = 6 used + 1 skipped (see skipped.csv)\n"
        "  val   3 read = 3 used + 0 skipped\n"
        "  note: no OKS sigmas given: OKS uses 0.05 for each keypoint (a --skeleton in YAML may "
        "define `oks_sigmas`)\n"
        f"next: hrnet-ray check {toes / 'out'}\n"
    )
    assert "annotation 9 (9.png),no keypoints" in (toes / "out" / "skipped.csv").read_text()


def test_the_seed_selects_the_validation_images(toes: Path):
    val_images = []
    for seed in (0, 0, 1):
        run(
            CocoArgs(
                images=toes / "images",
                annotations=toes / "toes.json",
                val_fraction=0.3,
                seed=seed,
                out=toes / "out",
            )
        )
        val_images.append(images_of(toes / "out", "val"))

    assert val_images[0] == val_images[1] != val_images[2]


def test_images_in_both_splits_are_counted(toes: Path, capsys: pytest.CaptureFixture[str]):
    run(
        CocoArgs(
            images=toes / "images",
            annotations=toes / "toes.json",
            val_annotations=toes / "toes.json",
            out=toes / "out",
        )
    )

    stdout = capsys.readouterr().out
    assert "  note: 9 images are in both splits, which inflates the scores\n" in stdout


def test_equal_names_in_two_folders_are_different_images(toes: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(toes / "images", toes / "others")

    run(
        CocoArgs(
            images=toes / "images",
            annotations=toes / "toes.json",
            val_images=toes / "others",
            val_annotations=toes / "toes.json",
            out=toes / "out",
        )
    )

    assert "both splits" not in capsys.readouterr().out


def test_progress_is_printed_at_the_end_and_not_per_image(capsys: pytest.CaptureFixture[str]):
    count = make_progress_line("generated")
    for done in range(1, 1_201):
        count(done, 1_200)

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("generated  1,200/1,200  ")
    assert line.endswith("  0 s left")


@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
def test_an_archive_is_unpacked_below_the_dataset(toes: Path, ending: str):
    kind = {".tar.gz": "gztar", ".zip": "zip"}[ending]
    shutil.make_archive(str(toes / "atrw"), kind, root_dir=toes, base_dir="images")
    shutil.rmtree(toes / "images")
    args = CocoArgs(images=toes / f"atrw{ending}", annotations=toes / "toes.json", out=toes / "out", seed=1)

    for _ in range(2):  # the second run unpacks and writes nothing
        run(args)

    assert sorted(images_of(toes / "out", "train") + images_of(toes / "out", "val")) == [f"{at}.png" for at in range(9)]
    assert (toes / "out" / "pictures" / "atrw" / "images" / "0.png").is_file()


def test_atrw_is_read_from_the_downloaded_archives(tmp_path: Path):
    drawn = tmp_path / "drawn"
    run(SyntheticArgs(kind="tigers", num_train=3, num_val=2, out=drawn, max_image_size=96, name="tigers"))
    downloads = tmp_path / "downloads"
    for name, inside in {
        "atrw_pose_train": "images/train",
        "atrw_pose_val": "images/val",
        "atrw_anno_pose_train": "annotations",
    }.items():
        parent, base = (drawn / "pictures" / inside).parent, Path(inside).name
        shutil.make_archive(str(downloads / name), "gztar", root_dir=parent, base_dir=base)

    run(AtrwArgs(archives_dir=downloads, out=tmp_path / "atrw", max_image_size=96))

    manifest = read_manifest(tmp_path / "atrw")
    assert manifest.digest == read_manifest(drawn).digest

    (downloads / "atrw_pose_val.tar.gz").unlink()
    with pytest.raises(DataError, match=r"the file is not there\n  --archives-dir .*pose_val"):
        run(AtrwArgs(archives_dir=downloads, out=tmp_path / "again"))


def test_an_archive_with_an_unsafe_path_is_refused(toes: Path):
    with zipfile.ZipFile(toes / "bad.zip", "w") as archive:
        archive.writestr("../evil.png", b"")

    with pytest.raises(DataError, match=r"evil\.png"):
        run(CocoArgs(images=toes / "bad.zip", annotations=toes / "toes.json", out=toes / "out"))

    assert not list(toes.rglob("evil.png"))


def release(folder: Path) -> Path:
    """Write the original release with four images, each of another video."""
    for at in range(4):
        codec.write_image(folder / "images" / f"{at}.jpg", np.full((80, 160, 3), 50 * at, np.uint8))
    return save(folder, *(picture(f"{at}.jpg", person(), video=float(at)) for at in range(4)))


def test_the_original_release_of_mpii_is_prepared(tmp_path: Path):
    run(
        MpiiArgs(
            images=tmp_path / "images",
            annotations=release(tmp_path),
            val_fraction=0.25,
            out=tmp_path / "out",
        )
    )

    manifest = read_manifest(tmp_path / "out")
    assert [manifest.splits[split].rows for split in ("train", "val")] == [3, 1]
    assert manifest.skeleton.keypoints == MPII.keypoints
    assert manifest.splits["train"].source == "mpii.mat"
    heads = read_split(manifest, "val", columns=["head_size"])["head_size"].to_numpy()
    assert np.isfinite(heads).all()


def test_gt_valid_cannot_be_combined_with_the_release(tmp_path: Path):
    with pytest.raises(UsageError, match="--gt-valid cannot be combined with the original release"):
        run(
            MpiiArgs(
                images=tmp_path / "images",
                annotations=release(tmp_path),
                val_annotations=tmp_path / "mpii.mat",
                gt_valid=tmp_path / "gt_valid.mat",
                out=tmp_path / "out",
            )
        )


def test_full_images_and_small_shards_can_be_stored(toes: Path):
    args = {"images": toes / "images", "annotations": toes / "toes.json", "val_fraction": 0.3}
    run(CocoArgs(**args, out=toes / "out", store_full_images=True, rows_per_shard=2))

    manifest = read_manifest(toes / "out")
    assert [shard.rows for shard in manifest.splits["train"].shards] == [2, 2, 2]
    assert manifest.splits["train"].kind == "exact"
    names = read_split(manifest, "train", columns=["image", "picture"]).to_pylist()
    assert all(row["picture"] == (toes / "images" / row["image"]).read_bytes() for row in names)
    arrays = records.decode_train_batch(read_split(manifest, "train"), canvas_px=32)
    assert arrays["readable"].all()
    assert arrays["canvas"].shape == (6, 32, 32, 3)


@pytest.mark.parametrize("shard_rows", [0, -1, 2**16 + 1])
def test_an_invalid_shard_size_is_refused(toes: Path, shard_rows: int):
    with pytest.raises(UsageError, match=f"--rows-per-shard {shard_rows:,}"):
        run(
            CocoArgs(
                images=toes / "images",
                annotations=toes / "toes.json",
                out=toes / "out",
                rows_per_shard=shard_rows,
            )
        )


def test_synthetic_images_cannot_be_written_to_a_bucket():
    with pytest.raises(UsageError, match="--out must be a local folder for synthetic images, got a URI"):
        run(SyntheticArgs(out="s3://bucket/zoo"))
