import csv
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_ray.cli import check
from hrnet_ray.data import pictures
from hrnet_ray.data.coco import read_coco
from hrnet_ray.data.drawing import LEFT, RIGHT
from hrnet_ray.data.manifest import Manifest, read_manifest
from hrnet_ray.data.prepare import prepare
from hrnet_ray.data.sources import Source
from hrnet_ray.data.synthetic import write_tigers
from hrnet_ray.errors import DataError
from hrnet_ray.inference.report import (
    crops_to_look_at,
    glow,
    read_samples,
    warp_captions,
    write_report,
)
from hrnet_ray.inference.report_counts import Suspects, count, stored_hw
from hrnet_ray.learning.batch import CanvasBatch, Recipe, augmented
from hrnet_ray.pose.augment import Augmentation
from hrnet_ray.skeletons import Skeleton

HOSTILE, FORMULA = "<script>alert(1).jpg", "=cmd().jpg"
PICTURE_HW = (90, 120)
INPUT_HW = (64, 96)
CATEGORY = {
    "id": 1,
    "name": "cat",
    "keypoints": ["=nose()", "left_paw", "right_paw", "tail"],
    "skeleton": [[1, 2], [1, 3], [1, 4]],
}
HIDDEN = (0, 0, 0)


def annotation(id: int, image: int, box: list[float], *points: tuple[float, ...], **more) -> dict:
    keypoints = [number for point in points for number in (point if point[2:] else (*point, 2))]
    return {"id": id, "image_id": image, "category_id": 1, "bbox": box, "keypoints": keypoints} | {
        **more
    }


# Boxes are 1 px shorter when read, as published: the first is (20, 20) to (79, 59).
TRAIN = [
    annotation(10, 0, [20, 20, 60, 40], (30, 30), (40, 50), (70, 40), (60, 30)),
    annotation(11, 1, [10, 10, 30, 60], (15, 15), (38, 69), (41.5, 40), HIDDEN),  # box ends at 39
    annotation(12, 2, [80, 50, 39, 39], (100, 60), (121.5, 70), (90, 80), HIDDEN),  # picture: 119
    annotation(13, 2, [0, 0, 9, 9], (1, 1), (2, 2), (3, 3), (4, 4), iscrowd=1),
    annotation(14, 2, [0, 0, 9, 9], HIDDEN, HIDDEN, HIDDEN, HIDDEN),
]
VAL = [annotation(20, 3, [10, 20, 80, 60], (30, 30), (40, 50), (70, 40), HIDDEN)]


def write_coco(path: Path, names: dict[int, str], annotations: list[dict]) -> None:
    height, width = PICTURE_HW
    images = [{"id": i, "file_name": n, "width": width, "height": height} for i, n in names.items()]
    content = {"images": images, "annotations": annotations, "categories": [CATEGORY]}
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Drawn tigers under hostile names; `copy.jpg` in val is a picture of train."""
    raw = tmp_path_factory.mktemp("raw")
    write_tigers(raw, train=3, val=1, size_hw=PICTURE_HW, per_picture=(1, 1))
    images = raw / "images" / "train"
    (images / "000000.jpg").rename(images / "plain.jpg")
    (images / "000001.jpg").rename(images / HOSTILE)
    (images / "000002.jpg").rename(images / FORMULA)
    shutil.copy(images / FORMULA, images / "copy.jpg")
    write_coco(raw / "train.json", {0: "plain.jpg", 1: HOSTILE, 2: FORMULA}, TRAIN)
    write_coco(raw / "val.json", {3: "copy.jpg"}, VAL)
    sources = {s: Source(read_coco(raw / f"{s}.json"), images) for s in ("train", "val")}
    return prepare(sources, out=raw / "prepared", name="<b>cats</b>")


def recipe_of(manifest: Manifest, **changes) -> Recipe:
    return Recipe(
        skeleton=manifest.skeleton,
        input_hw=INPUT_HW,
        padding=1.25,
        augmentation=Augmentation(**changes),
        seed=0,
    )


@pytest.fixture(scope="module")
def report(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    return write_report(manifest, out, recipe=recipe_of(manifest), sigma=2.0)


def test_what_was_read_is_what_is_used_and_what_was_skipped_by_reason(manifest: Manifest):
    train = count(manifest).splits["train"]

    assert (train.read, train.used, train.pictures) == (5, 3, 3)
    assert train.skipped == {"crowd": 1, "no keypoints": 1}


def test_visible_keypoints_are_counted_by_name(manifest: Manifest):
    splits = count(manifest).splits

    assert splits["train"].shown == {"=nose()": 3, "left_paw": 3, "right_paw": 3, "tail": 1}
    assert splits["val"].shown == {"=nose()": 1, "left_paw": 1, "right_paw": 1, "tail": 0}
    assert splits["train"].points == 10


def test_points_outside_are_named(manifest: Manifest):
    train = count(manifest).splits["train"]

    assert train.outside_box == Suspects(
        2, [f"{HOSTILE} #11: right_paw", f"{FORMULA} #12: left_paw"]
    )
    assert train.outside_picture == Suspects(1, [f"{FORMULA} #12: left_paw"])
    assert train.few_keypoints == Suspects(2, [f"{HOSTILE} #11", f"{FORMULA} #12"])
    assert train.unreadable == Suspects(0, [])


def test_a_renamed_copy_in_the_other_split_is_found(manifest: Manifest):
    assert count(manifest).in_both == Suspects(1, ["copy.jpg"])


def test_boxes_fall_into_their_bins(manifest: Manifest):
    train = count(manifest).splits["train"]  # 59 x 39, 29 x 59, 38 x 38

    assert {span: n for span, n in train.box_px.items() if n} == {"32 to 64": 3}
    assert {span: n for span, n in train.aspect.items() if n} == {
        "0.4 to 0.6": 1,
        "0.8 to 1.25": 1,
        "1.25 to 1.67": 1,
    }


def test_a_split_without_rows_is_refused(manifest: Manifest):
    empty = replace(manifest.splits["val"], rows=0, read=2, skipped=2, shards=[])

    with pytest.raises(DataError) as caught:
        count(replace(manifest, splits=manifest.splits | {"val": empty}))

    assert str(caught.value) == (
        "no instance in val: 2 read, 2 skipped\n"
        f"  {manifest.root / 'skipped.csv'}\n"
        "  fix: its third column says why; correct the annotations and prepare them again"
    )


def test_files_that_do_not_add_up_are_refused(manifest: Manifest):
    more = replace(manifest.splits["train"], read=6)

    with pytest.raises(DataError, match=r"^train: 6 read, but 3 used \+ 2 skipped\n"):
        count(replace(manifest, splits=manifest.splits | {"train": more}))


def test_the_report_is_four_files(report: Path):
    names = ["check.html", "counts.csv", "samples.png", "samples_augmented.png"]

    assert report.name == "check.html"
    assert sorted(path.name for path in report.parent.iterdir()) == names


def test_the_table_of_counts_holds_no_formula(report: Path):
    lines = list(csv.reader((report.parent / "counts.csv").open(encoding="utf-8")))

    assert lines[0] == ["split", "what", "which", "count"]
    assert ["train", "instances", "read", "5"] in lines
    assert ["train", "skipped", "crowd", "1"] in lines
    assert ["train", "visible", "'=nose()", "3"] in lines
    assert ["all", "pictures", "in more than one split", "1"] in lines
    assert not [cell for line in lines for cell in line if cell.startswith("=")]


def test_the_page_shows_the_sum_and_escapes_every_name(report: Path):
    page = report.read_text(encoding="utf-8")

    assert "5 read = 3 used + 2 skipped" in page
    assert "<li>1 skipped: crowd</li>" in page
    assert "<h1>&lt;b&gt;cats&lt;/b&gt;</h1>" in page
    assert "<li>&lt;script&gt;alert(1).jpg #11: right_paw</li>" in page
    assert "<script" not in page
    assert "<b>" not in page


def test_the_page_needs_nothing_from_elsewhere(report: Path):
    page = report.read_text(encoding="utf-8")

    assert set(re.findall(r'\b(?:src|href)="([^"]{5})', page)) == {"data:"}
    assert "default-src 'none'" in page


def test_a_left_paw_is_drawn_warm_where_it_stands(report: Path):
    sheet = pictures.read(report.parent / "samples.png")
    # Instance 10 keeps columns 1 to 97 and rows 0 to 87; its tile of 300 px begins at (6, 6).
    zoom = 300 / 97
    down = (300 - 88 * zoom) / 2

    left_paw = sheet[6 + round(50 * zoom + down), 6 + round((40 - 1) * zoom)]
    right_paw = sheet[6 + round(40 * zoom + down), 6 + round((70 - 1) * zoom)]

    assert tuple(left_paw) == LEFT
    assert tuple(right_paw) == RIGHT


def test_samples_stand_at_equal_distances(manifest: Manifest):
    assert read_samples(manifest, most=2).rows["id"].tolist() == [10, 12]
    assert read_samples(manifest).images == ["plain.jpg", HOSTILE, FORMULA]


def test_heatmaps_glow_in_the_colour_of_their_side():
    pair = Skeleton("pair", ("left_paw", "right_paw"))
    heatmaps = np.zeros((2, 6, 8), np.float32)
    heatmaps[0, 1, 2] = heatmaps[1, 4, 5] = 1.0

    shown = glow(np.full((24, 32, 3), 100, np.uint8), heatmaps, pair)

    assert tuple(shown[4 * 1, 4 * 2]) == LEFT
    assert tuple(shown[4 * 4, 4 * 5]) == RIGHT
    assert tuple(shown[0, 31]) == (40, 40, 40)  # the crop, dimmed


def painted(count: int) -> CanvasBatch:
    """Canvases with a red square at the left paw and a blue one at the right paw."""
    image_xy = torch.tensor([[60.0, 50.0], [40.0, 40.0], [80.0, 44.0], [58.0, 70.0]])
    canvas = torch.zeros(128, 128, 3, dtype=torch.uint8)
    canvas[36:45, 36:45, 0] = 255
    canvas[40:49, 76:85, 2] = 255
    return CanvasBatch(
        ids=torch.arange(count),
        canvases=canvas.expand(count, -1, -1, -1),
        canvas_from_image=torch.eye(3).expand(count, -1, -1),
        box_xywh=torch.tensor([30.0, 30.0, 60.0, 50.0]).expand(count, -1),
        image_xy=image_xy.expand(count, -1, -1),
        visible=torch.ones(count, 4, dtype=torch.bool),
    )


def test_sides_are_exchanged_in_mirrored_crops_and_only_there(manifest: Manifest):
    batch, recipe = painted(32), recipe_of(manifest)
    poses = augmented(batch, recipe, epoch=0)

    x, y = poses.crop_xy[:, 1].round().int().T.numpy()
    at_left_paw = crops_to_look_at(poses)[np.arange(32), y, x]
    mirrored = ["mirrored" in caption for caption in warp_captions(batch, recipe)]

    assert 8 < sum(mirrored) < 24
    for pixel, turned in zip(at_left_paw.tolist(), mirrored, strict=True):
        assert pixel == ([0, 0, 255] if turned else [255, 0, 0])


def test_captions_say_what_happened_to_the_points(manifest: Manifest):
    batch, recipe = painted(32), recipe_of(manifest)
    crop_xy = augmented(batch, recipe, epoch=0).crop_xy.double()
    at_rest = augmented(batch, recipe_of(manifest, **STILL), epoch=0).crop_xy.double()

    for at, caption in enumerate(warp_captions(batch, recipe)):
        mirrored = "mirrored" in caption
        moved = crop_xy[at, [0, 2, 1, 3]] if mirrored else crop_xy[at]
        assert caption == f"#{at} " + _caption_of(at_rest[at], moved, mirrored)


STILL = {"scale_factor": 0.0, "rotation_share": 0.0, "flip_share": 0.0}


def _caption_of(before: torch.Tensor, after: torch.Tensor, mirrored: bool) -> str:
    """Tell turn and zoom from two edges of the pose, without any matrix of the program's."""
    (x0, y0), (x1, y1) = before[1] - before[2], after[1] - after[2]
    turn = math.degrees(math.atan2(y0, -x0 if mirrored else x0) - math.atan2(y1, x1))
    turn = (turn + 180) % 360 - 180  # y points down: this is counter-clockwise
    said = f"{turn:+.0f} deg, " if abs(turn) > 1e-3 else ""
    zoom = math.hypot(x1, y1) / math.hypot(x0, y0)
    return f"{'mirrored, ' if mirrored else ''}{said}{zoom:.2f}x"


def test_the_size_of_a_picture_is_told_by_its_header():
    jpeg = pictures.encode_jpeg(np.zeros((30, 50, 3), np.uint8))

    assert stored_hw(jpeg) == (30, 50)
    assert stored_hw(jpeg[:20]) is None
    assert stored_hw(b"no picture") is None


def test_check_prints_the_sums_and_where_the_page_is(manifest: Manifest, tmp_path: Path, capsys):
    check.run(check.Args(data=manifest.root, out=tmp_path, input_hw=INPUT_HW))

    assert capsys.readouterr().out == (
        f"<b>cats</b>: 4 keypoints, version {manifest.digest[:12]}, all shards as they were "
        "written\n"
        "  train        5 read = 3 used + 2 skipped (1 crowd, 1 no keypoints)\n"
        "  val          1 read = 1 used + 0 skipped\n"
        "  look: train, points outside the picture: 1\n"
        "  look: train, points outside their box: 2\n"
        "  look: train, poses with 3 visible keypoints or fewer: 2\n"
        "  look: val, poses with 3 visible keypoints or fewer: 1\n"
        "  look: pictures in more than one split: 1\n"
        f"page: {tmp_path / 'check.html'}\n"
    )


def test_check_refuses_a_shard_that_changed(manifest: Manifest, tmp_path: Path):
    data = Path(shutil.copytree(manifest.root, tmp_path / "data"))
    with (data / "val" / "00000.parquet").open("ab") as shard:
        shard.write(b"x")

    with pytest.raises(DataError, match=r"val/00000.parquet \(changed\)"):
        check.run(check.Args(data=data))

    assert not (data / "check").exists()
    assert read_manifest(data).digest == manifest.digest


@pytest.mark.browser
def test_a_browser_shows_the_page_and_runs_nothing(report: Path, tmp_path: Path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    screenshot = tmp_path / "page.png"

    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update --hide-scrollbars"
    done = subprocess.run(
        [
            chromium,
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,2600",
            f"--screenshot={screenshot}",
            "--dump-dom",
            report.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )

    assert "&lt;script&gt;alert(1).jpg #11: right_paw" in done.stdout
    assert "<script" not in done.stdout
    page = pictures.read(screenshot).astype(int)
    assert page[5, 5].tolist() == [251, 250, 248]  # the style sheet's paper
    warm = (abs(page - np.array(LEFT)).max(-1) < 40).sum()
    assert warm > 500  # the pictures are there, not only their frames
