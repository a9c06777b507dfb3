import csv
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hrnet_ray.config import AugmentationConfig
from hrnet_ray.data.batch import AugmentationPipelineConfig, RawTrainBatch, augment_batch
from hrnet_ray.data.dataset_preparation import SplitSource, prepare_dataset
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.data.synthetic.datasets import write_tiger_dataset
from hrnet_ray.errors import DataError
from hrnet_ray.reports.dataset.augmented_samples import (
    convert_crops_to_uint8,
    describe_augmentation,
)
from hrnet_ray.reports.dataset.dataset_report import write_dataset_report
from hrnet_ray.reports.dataset.issues import DatasetIssue, IssueType
from hrnet_ray.reports.dataset.sample_grids import draw_issues, load_rows, load_samples
from hrnet_ray.reports.dataset.statistics import SkippedRow, compute_statistics
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.visualization.drawing import LEFT_COLOR, RIGHT_COLOR, transform_points
from tests.reports.dataset.cats import ANSI, FORMULA, HOSTILE, write_cats
from tests.reports.html_pages import FRAME_PAGE, Elements, browse

INPUT_HW = (64, 96)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_cats(tmp_path_factory.mktemp("raw"))


def make_pipeline_config(manifest: DatasetManifest, **changes) -> AugmentationPipelineConfig:
    return AugmentationPipelineConfig(
        skeleton=manifest.skeleton,
        input_hw=INPUT_HW,
        padding=1.25,
        augmentation=AugmentationConfig(**changes),
        seed=0,
    )


@pytest.fixture(scope="module")
def report(manifest: DatasetManifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    return write_dataset_report(manifest, out, pipeline_config=make_pipeline_config(manifest), sigma=2.0)


def test_rows_read_are_rows_used_plus_rows_skipped_by_reason(manifest: DatasetManifest):
    train = compute_statistics(manifest).splits["train"]

    assert (train.rows_read, train.rows_used, train.num_images) == (6, 4, 4)
    assert train.skip_reason_counts == {"crowd": 1, "no keypoints": 1}
    assert train.skipped_rows[0] == SkippedRow(f"annotation 13 ({FORMULA})", "crowd", "")


def test_visible_keypoints_are_counted_by_name_and_by_pose(manifest: DatasetManifest):
    splits = compute_statistics(manifest).splits

    assert splits["train"].visible_per_keypoint == {
        "=nose()": 4,
        "left_paw": 4,
        "right_paw": 4,
        "tail": 2,
    }
    assert splits["val"].visible_per_keypoint == {
        "=nose()": 1,
        "left_paw": 1,
        "right_paw": 1,
        "tail": 0,
    }
    assert splits["train"].num_visible_keypoints == 14
    assert splits["train"].poses_per_visible_count == {"0": 0, "1": 0, "2": 0, "3": 2, "4": 2}


def test_label_issues_are_named(manifest: DatasetManifest):
    train = compute_statistics(manifest).splits["train"].issues

    assert train[IssueType.KEYPOINT_OUTSIDE_BOX] == [
        DatasetIssue(2, f"{FORMULA} #12", "left_paw by 4 px", (1,)),
        DatasetIssue(1, f"{HOSTILE} #11", "right_paw by 2 px", (2,)),
    ]
    assert train[IssueType.KEYPOINT_OUTSIDE_IMAGE] == [DatasetIssue(2, f"{FORMULA} #12", "left_paw by 2 px", (1,))]
    assert train[IssueType.FEW_VISIBLE_KEYPOINTS] == [
        DatasetIssue(1, f"{HOSTILE} #11"),
        DatasetIssue(2, f"{FORMULA} #12"),
    ]
    assert train[IssueType.UNREADABLE_IMAGE] == []


def test_a_renamed_copy_in_the_other_split_is_found(manifest: DatasetManifest):
    splits = compute_statistics(manifest).splits

    assert splits["val"].issues[IssueType.IMAGE_IN_OTHER_SPLIT] == [
        DatasetIssue(0, "copy.jpg", f"in train as {FORMULA}", (), ("train", 2))
    ]
    assert splits["val"].issues[IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT] == []  # it is the same one


def test_boxes_are_counted_by_size_and_aspect_ratio(manifest: DatasetManifest):
    train = compute_statistics(manifest).splits["train"]  # 59 x 39, 29 x 59, 38 x 38, 59 x 39

    assert {span: n for span, n in train.box_size_px_histogram.items() if n} == {"32 to 64": 4}
    assert {span: n for span, n in train.aspect_ratio_histogram.items() if n} == {
        "0.4 to 0.6": 1,
        "0.8 to 1.25": 1,
        "1.25 to 1.67": 2,
    }


def test_a_split_without_rows_is_refused(manifest: DatasetManifest):
    empty = replace(manifest.splits["val"], rows=0, read=2, skipped=2, shards=[])

    with pytest.raises(DataError) as caught:
        compute_statistics(replace(manifest, splits=manifest.splits | {"val": empty}))

    assert str(caught.value) == (
        "val has no instances: 2 read, 2 skipped\n"
        f"  {manifest.root}/skipped.csv\n"
        "  fix: the third column has the reasons; correct the annotations and prepare again"
    )


def test_counts_that_disagree_are_refused(manifest: DatasetManifest):
    more = replace(manifest.splits["train"], read=7)

    with pytest.raises(DataError, match=r"^train: 7 read, but 4 used \+ 2 skipped\n"):
        compute_statistics(replace(manifest, splits=manifest.splits | {"train": more}))


def test_an_invalid_list_of_skipped_rows_is_refused(manifest: DatasetManifest, tmp_path: Path):
    shutil.copytree(manifest.root, tmp_path / "data")
    (tmp_path / "data" / "skipped.csv").write_text("a,b\n1,2\n")

    with pytest.raises(DataError, match="the list of skipped rows cannot be read"):
        compute_statistics(replace(manifest, root=tmp_path / "data"))


def test_the_report_is_a_page_with_image_grids_and_tables(report: Path):
    assert report.name == "report.html"
    assert sorted(path.name for path in report.parent.iterdir()) == [
        "counts.csv",
        "issues.csv",
        "issues.png",
        "report.html",
        "samples.png",
        "samples_augmented.png",
        "skipped.csv",
    ]


def read_cells(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_tables_are_complete_and_have_no_formulas(report: Path):
    counts, issues, skipped = (read_cells(report.parent / f"{name}.csv") for name in ("counts", "issues", "skipped"))

    assert counts[0] == ["split", "what", "which", "count"]
    assert ["train", "instances", "read", "6"] in counts
    assert ["train", "skipped", "crowd", "1"] in counts
    assert ["train", "visible", "'=nose()", "4"] in counts
    assert ["val", "issues", "images that are also in another split", "1"] in counts
    assert [
        "train",
        str(IssueType.KEYPOINT_OUTSIDE_BOX),
        f"'{FORMULA} #12",
        "left_paw by 4 px",
    ] in issues
    assert ["train", f"annotation 13 ({FORMULA})", "crowd", ""] in skipped
    all_cells = [cell for table in (counts, issues, skipped) for line in table for cell in line]
    assert not [cell for cell in all_cells if cell.startswith(("=", "+", "-", "@"))]
    assert not [cell for cell in all_cells if "\n" in cell or "\x1b" in cell]


def test_the_page_shows_the_sums_and_escapes_every_name(report: Path):
    page = Elements(report.read_text(encoding="utf-8"))

    assert "6 read = 4 used + 2 skipped" in page.text
    assert "annotation 13 (=bill().jpg)" in page.text
    assert "<b>cats</b>" in page.text
    assert f"{HOSTILE} #11: right_paw by 2 px" in page.text
    assert r"\x1b[31mred\nline.jpg #15" in page.text
    assert "\x1b" not in page.text
    assert {"script", "b", "iframe", "object", "form", "link"}.isdisjoint(page.tags)
    assert not [name for name in page.attributes if name.startswith("on")]


def test_the_page_has_no_external_resources(report: Path):
    text = report.read_text(encoding="utf-8")
    links = Elements(text).links

    files = {"counts.csv", "issues.csv", "skipped.csv"}
    assert {link for link in links if not link.startswith("data:image/jpeg;base64,")} == files
    assert all((report.parent / file).is_file() for file in files)
    assert "default-src 'none'" in text


def test_every_kind_of_issue_has_a_tile_with_its_reason(manifest: DatasetManifest):
    captions = [tile.caption for tile in draw_issues(manifest, compute_statistics(manifest))]

    assert captions == [
        f"train, images that are also in another split: {FORMULA}: in val as copy.jpg",
        f"train, {IssueType.KEYPOINT_OUTSIDE_IMAGE}: {FORMULA} #12: left_paw by 2 px",
        f"train, keypoints outside their box: {FORMULA} #12: left_paw by 4 px",
        f"train, keypoints outside their box: {HOSTILE} #11: right_paw by 2 px",
        f"train, poses with 3 visible keypoints or fewer: {HOSTILE} #11",
        "val, poses with 3 visible keypoints or fewer: copy.jpg #20",
        f"train, poses with 3 visible keypoints or fewer: {FORMULA} #12",
    ]
    assert len(draw_issues(manifest, compute_statistics(manifest), max_tiles=3)) == 3


def test_a_corrupt_image_is_named_and_the_report_is_written(manifest: DatasetManifest, tmp_path: Path):
    data = Path(shutil.copytree(manifest.root, tmp_path / "data"))
    path = data / "train" / "00000.parquet"
    table = pq.read_table(path)
    corrupt = pa.array([*table["picture"].to_pylist()[:3], b"junk"], pa.binary())
    column = table.schema.get_field_index("picture")
    pq.write_table(table.set_column(column, table.schema.field(column), corrupt), path)
    damaged = replace(manifest, root=data)

    issues = compute_statistics(damaged).splits["train"].issues
    page = write_dataset_report(damaged, tmp_path, pipeline_config=make_pipeline_config(damaged), sigma=2.0)

    assert issues[IssueType.UNREADABLE_IMAGE] == [DatasetIssue(3, f"{ANSI} #15")]
    assert "stored images that cannot be read" in page.read_text(encoding="utf-8")


def test_rows_are_loaded_in_the_requested_order(manifest: DatasetManifest):
    assert load_rows(manifest, "train", [3, 0, 3]).rows["id"].tolist() == [15, 10, 15]


def test_a_left_paw_has_a_warm_colour_at_its_position(manifest: DatasetManifest, report: Path):
    grid = codec.read_image(report.parent / "samples.png")
    samples = load_samples(manifest)  # instance 10 is the first, on a tile of 300 px from (6, 6)
    height, width = samples.stored_hw[0]
    zoom = 300 / max(height, width)
    paws = transform_points(samples.rows["canvas_from_image"][0], np.array([[40.0, 50], [70, 40]]))

    x, y = np.rint(6 + zoom * paws + (300 - zoom * np.array([width, height])) / 2).astype(int).T

    assert tuple(grid[y[0], x[0]]) == LEFT_COLOR
    assert tuple(grid[y[1], x[1]]) == RIGHT_COLOR


def test_samples_are_at_equal_distances(manifest: DatasetManifest):
    assert load_samples(manifest, max_samples=2).rows["id"].tolist() == [10, 15]
    assert load_samples(manifest).image_names == ["plain.jpg", HOSTILE, FORMULA, ANSI]


def make_painted_batch(count: int) -> RawTrainBatch:
    """Canvases with a red square at the left paw and a blue one at the right paw."""
    image_xy = torch.tensor([[60.0, 50.0], [40.0, 40.0], [80.0, 44.0], [58.0, 70.0]])
    canvas = torch.zeros(128, 128, 3, dtype=torch.uint8)
    canvas[36:45, 36:45, 0] = 255
    canvas[40:49, 76:85, 2] = 255
    return RawTrainBatch(
        ids=torch.arange(count),
        canvases=canvas.expand(count, -1, -1, -1),
        canvas_from_image=torch.eye(3).expand(count, -1, -1),
        box_xywh=torch.tensor([30.0, 30.0, 60.0, 50.0]).expand(count, -1),
        image_xy=image_xy.expand(count, -1, -1),
        visible=torch.ones(count, 4, dtype=torch.bool),
    )


def test_left_and_right_are_swapped_in_mirrored_crops_only(manifest: DatasetManifest):
    batch, config = make_painted_batch(32), make_pipeline_config(manifest)
    poses = augment_batch(batch, config, epoch=0)

    x, y = poses.crop_xy[:, 1].round().int().T.numpy()
    at_left_paw = convert_crops_to_uint8(poses)[np.arange(32), y, x]
    mirrored = ["mirrored" in caption for caption in describe_augmentation(batch, config)]

    assert 8 < sum(mirrored) < 24
    for pixel, is_mirrored in zip(at_left_paw.tolist(), mirrored, strict=True):
        assert pixel == ([0, 0, 255] if is_mirrored else [255, 0, 0])


def test_captions_describe_the_augmentation(manifest: DatasetManifest):
    batch, config = make_painted_batch(32), make_pipeline_config(manifest)
    crop_xy = augment_batch(batch, config, epoch=0).crop_xy.double()
    unaugmented = augment_batch(batch, make_pipeline_config(manifest, **NO_AUGMENTATION), epoch=0).crop_xy.double()

    for row, caption in enumerate(describe_augmentation(batch, config)):
        mirrored = "mirrored" in caption
        moved = crop_xy[row, [0, 2, 1, 3]] if mirrored else crop_xy[row]
        assert caption == f"#{row} " + _caption_of(unaugmented[row], moved, mirrored)


NO_AUGMENTATION = {"scale_factor": 0.0, "rotation_prob": 0.0, "flip_prob": 0.0}


def _caption_of(before: torch.Tensor, after: torch.Tensor, mirrored: bool) -> str:
    """Measure rotation and zoom from two edges of the pose, without any matrix of the package."""
    (x0, y0), (x1, y1) = before[1] - before[2], after[1] - after[2]
    angle = math.degrees(math.atan2(y0, -x0 if mirrored else x0) - math.atan2(y1, x1))
    angle = (angle + 180) % 360 - 180  # y points down: this is counter-clockwise
    rotation = f"{angle:+.0f} deg, " if abs(angle) > 1e-3 else ""
    zoom = math.hypot(x1, y1) / math.hypot(x0, y0)
    return f"{'mirrored, ' if mirrored else ''}{rotation}{zoom:.2f}x"


@pytest.mark.browser
def test_a_browser_shows_the_page_without_console_messages(chromium: str, report: Path, tmp_path: Path):
    shot = tmp_path / "page.png"
    flags = ("--window-size=1400,2600", f"--screenshot={shot}", "--dump-dom")

    done = browse(chromium, report.as_uri(), tmp_path, *flags)

    assert "CONSOLE" not in done.stderr
    shown = Elements(done.stdout)
    assert f"{HOSTILE} #11: right_paw by 2 px" in shown.text
    assert "6 read = 4 used + 2 skipped" in shown.text
    assert "script" not in shown.tags
    page = codec.read_image(shot).astype(int)
    assert page[5, 5].tolist() == [251, 250, 248]  # the page colour of the style sheet
    warm = (abs(page - np.array(LEFT_COLOR)).max(-1) < 40).sum()
    assert warm > 500  # the images are there, not only their frames


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "flags", "paper"),
    [
        pytest.param(1400, (), "rgb(251, 250, 248)", id="desk"),
        pytest.param(375, (), "rgb(251, 250, 248)", id="phone"),
        pytest.param(
            375,
            ("--blink-settings=preferredColorScheme=0",),
            "rgb(23, 24, 26)",
            id="phone in dark mode",
        ),
    ],
)
def test_all_images_load_and_nothing_is_wider_than_the_screen(
    chromium: str, report: Path, tmp_path: Path, width: int, flags: tuple[str, ...], paper: str
):
    text = report.read_text(encoding="utf-8")
    # Our own page measures the report in a frame, without its policy that forbids scripts.
    without_policy = re.sub(r"<meta http-equiv[^>]*>", "", text)
    page = json.dumps(without_policy).replace("</", "<\\/")
    measuring_page = tmp_path / "measure.html"
    measuring_page.write_text(FRAME_PAGE.format(width=width, page=page))

    done = browse(chromium, measuring_page.as_uri(), tmp_path, *flags, "--dump-dom")

    result = json.loads(re.search(r'<pre id="result">(.*?)</pre>', done.stdout)[1])
    tiles = text.count("<img ")
    assert result == {"images": tiles, "loaded": tiles, "wide": 0, "paper": paper}
    assert tiles == 4 + 4 + 7


def test_a_skeleton_without_left_and_right_has_a_page(tmp_path: Path):
    write_tiger_dataset(tmp_path, num_train=2, num_val=1, size_hw=(90, 120), tigers_per_image=(1, 1))
    worm = Skeleton(name="worm", keypoints=("head", "middle", "tail"))
    sources = {}
    for split in ("train", "val"):
        path = tmp_path / "annotations" / f"keypoint_{split}.json"
        document = json.loads(path.read_text()) | {"categories": []}
        for annotation in document["annotations"]:
            annotation["keypoints"] = annotation["keypoints"][:9]
        path.write_text(json.dumps(document))
        sources[split] = SplitSource(read_coco(path, skeleton=worm), tmp_path / "images" / split)
    manifest = prepare_dataset(sources, out=tmp_path / "prepared", name="worms")

    page = write_dataset_report(manifest, tmp_path / "out", pipeline_config=make_pipeline_config(manifest), sigma=2.0)

    assert "This skeleton has no left/right pairs." in page.read_text()
