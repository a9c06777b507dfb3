"""`hrnet-ray prepare`, from pictures and labels to a data set that reads back."""

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from hrnet_ray.cli.prepare import Coco, Synthetic, counter, run
from hrnet_ray.data import pictures
from hrnet_ray.data.manifest import read_manifest, read_table
from hrnet_ray.data.vouch import verify
from hrnet_ray.skeletons import ATRW, MPII, Skeleton

PICTURES = 10


@pytest.fixture
def toes(tmp_path: Path) -> Path:
    """Ten pictures of 60 x 40 pixels, two toes in each but the last, and their COCO file."""
    for at in range(PICTURES):
        grey = np.full((40, 60, 3), 20 * at, np.uint8)
        pictures.write(tmp_path / "images" / f"{at}.png", grey)
    document = {
        "images": [{"id": at, "file_name": f"{at}.png"} for at in range(PICTURES)],
        "annotations": [
            {
                "id": at,
                "image_id": at,
                "category_id": 1,
                "bbox": [5, 5, 40, 30],
                "keypoints": [10 + at, 11, 2, 30, 20, 2] if at < 9 else [0] * 6,
            }
            for at in range(PICTURES)
        ],
        "categories": [{"id": 1, "name": "toes", "keypoints": ["left_toe", "right_toe"]}],
    }
    (tmp_path / "toes.json").write_text(json.dumps(document))
    return tmp_path


def images_of(root: Path, split: str) -> list[str]:
    return read_table(read_manifest(root), split, columns=["image"])["image"].to_pylist()


@pytest.mark.parametrize(("kind", "skeleton"), [("tigers", ATRW), ("people", MPII)])
def test_drawn_pictures_become_a_data_set(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: Literal["tigers", "people"],
    skeleton: Skeleton,
):
    run(Synthetic(kind=kind, train=3, val=2, seed=5, out=tmp_path / "zoo", canvas=96))

    manifest = read_manifest(tmp_path / "zoo")
    verify(manifest)
    assert manifest.name == "zoo"
    assert manifest.canvas_px == 96
    assert manifest.skeleton.keypoints == skeleton.keypoints
    assert len(set(images_of(tmp_path / "zoo", "train"))) == 3
    assert len(set(images_of(tmp_path / "zoo", "val"))) == 2
    heads = read_table(manifest, "val", columns=["head_size"])["head_size"].to_numpy()
    assert np.isfinite(heads).all() == (kind == "people")
    assert not (set(images_of(tmp_path / "zoo", "train")) & set(images_of(tmp_path / "zoo", "val")))
    said = capsys.readouterr().out
    assert f"zoo: {len(skeleton)} keypoints, version {manifest.digest[:12]}\n" in said
    assert "both splits" not in said
    assert said.endswith(f"next: hrnet-ray check {manifest.root}\n")


def test_the_same_seed_draws_the_same_data_set_and_another_seed_another(tmp_path: Path):
    digests = []
    for at, seed in enumerate((1, 1, 2)):
        run(Synthetic(train=1, val=1, seed=seed, out=tmp_path / str(at), canvas=64))
        digests.append(read_manifest(tmp_path / str(at)).digest)

    assert digests[0] == digests[1] != digests[2]


def test_a_share_of_the_pictures_is_kept_for_validation(
    toes: Path, capsys: pytest.CaptureFixture[str]
):
    run(
        Coco(
            images=toes / "images",
            annotations=toes / "toes.json",
            val_share=0.3,
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
        f"next: hrnet-ray check {toes / 'out'}\n"
    )
    assert "annotation 9 (9.png),no keypoints" in (toes / "out" / "skipped.csv").read_text()


def test_another_seed_keeps_other_pictures_for_validation(toes: Path):
    kept = []
    for seed in (0, 0, 1):
        run(
            Coco(
                images=toes / "images",
                annotations=toes / "toes.json",
                val_share=0.3,
                seed=seed,
                out=toes / "out",
            )
        )
        kept.append(images_of(toes / "out", "val"))

    assert kept[0] == kept[1] != kept[2]


def test_pictures_that_are_in_both_splits_are_told(toes: Path, capsys: pytest.CaptureFixture[str]):
    run(
        Coco(
            images=toes / "images",
            annotations=toes / "toes.json",
            val_annotations=toes / "toes.json",
            out=toes / "out",
        )
    )

    said = capsys.readouterr().out
    assert "  note: 9 pictures are in both splits; scores on them say little\n" in said


def test_two_folders_that_count_their_files_alike_share_nothing(
    toes: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(toes / "images", toes / "others")

    run(
        Coco(
            images=toes / "images",
            annotations=toes / "toes.json",
            val_images=toes / "others",
            val_annotations=toes / "toes.json",
            out=toes / "out",
        )
    )

    assert "both splits" not in capsys.readouterr().out


def test_progress_speaks_at_the_end_and_not_for_every_picture(capsys: pytest.CaptureFixture[str]):
    count = counter("drawn")
    for done in range(1, 1_201):
        count(done, 1_200)

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("drawn   1,200/1,200  ")
    assert line.endswith("  0 s left")
