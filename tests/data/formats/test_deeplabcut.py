"""DeepLabCut projects, of one animal and of several, in the forms that its versions write."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from hrnet_ray.cli import parse_args
from hrnet_ray.cli.prepare import PrepareArgs, run
from hrnet_ray.cli.prepare_args import DeepLabCutArgs
from hrnet_ray.data.annotations import SkippedItem, SkipReason
from hrnet_ray.data.formats.deeplabcut import DlcDataset as Found, read_deeplabcut
from hrnet_ray.data.formats.deeplabcut_csv import HEADER_ROWS
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import read_manifest, read_split
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import load_skeleton

PARTS = ["leftear", "rightear", "snout"]
ONE = {
    "Task": "openfield",
    "scorer": "Ann",
    "bodyparts": PARTS,
    "skeleton": [["leftear", "snout"], ["objectA", "snout"]],
}
SEVERAL = {
    "Task": "trimice",
    "scorer": "Ann",
    "multianimalproject": True,
    "bodyparts": "MULTI!",
    "multianimalbodyparts": PARTS,
    "uniquebodyparts": ["corner"],
    "individuals": ["m1", "m2"],
}
POINTS = [("", part) for part in PARTS]
"""Individual and bodypart, in the order of the columns."""
LABELS = (20, 10, 60, 12, 40, 30)
"""In an image of 100 x 50: a box of 40 x 20, widened by 4 on each side."""

Cells = Sequence[float | str]


def written(
    project: Path,
    videos: dict[str, dict[str, Cells]],
    *,
    points: Sequence[tuple[str, str]] = POINTS,
    naming: str = "cells",
    scorer: str = "Ann",
    **entries: Any,
) -> Path:
    """A project with images of 100 x 50: by video and frame, the cells of its row."""
    for video, frames in videos.items():
        for frame in frames:
            grey = np.full((50, 100, 3), 90, np.uint8)
            codec.write_image(project / "labeled-data" / video / frame, grey)
        text = table(video, frames, points=points, naming=naming, scorer=scorer)
        (project / "labeled-data" / video / f"CollectedData_{scorer}.csv").write_text(text)
    sets = {f"C:\\videos\\{video}.avi": {"crop": "0, 100, 0, 50"} for video in videos}
    config = ONE | {"video_sets": sets} | entries
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return project


def table(
    video: str,
    frames: dict[str, Cells],
    *,
    points: Sequence[tuple[str, str]],
    naming: str,
    scorer: str,
) -> str:
    """A CollectedData CSV; frames are named in `cells`, with a `slash` or with a `backslash`."""
    columns = [(scorer, *point, axis) for point in points for axis in "xy"]
    heads = zip(HEADER_ROWS, zip(*columns, strict=True), strict=True)
    said = io.StringIO()
    rows = csv.writer(said)
    for name, cells in heads:
        if any(cells):
            rows.writerow([name, *([""] * 2 if naming == "cells" else []), *cells])
    for frame, cells in frames.items():
        named = ["labeled-data", video, frame]
        mark = {"slash": "/", "backslash": "\\"}.get(naming)
        rows.writerow([*([mark.join(named)] if mark else named), *cells])
    return said.getvalue()


def read(project: Path, **more: Any):
    return read_deeplabcut(project, **{"skeleton": None, "progress": lambda *_: None} | more)


BOXES = "DeepLabCut has no boxes: each was taken around the points, and widened by 10%"


def refusal(project: Path, **more: Any) -> DataError:
    with pytest.raises(DataError) as refused:
        read(project, **more)
    return refused.value


def test_a_frame_becomes_an_instance_with_a_box_around_its_points(tmp_path: Path):
    found = read(written(tmp_path, {"m1": {"img01.png": LABELS}}))

    (one,) = found.labels.instances
    assert one.image == "m1/img01.png"
    assert (found.images_dir / one.image).is_file()
    assert one.box_xywh == (16.0, 6.0, 48.0, 28.0)
    assert one.area == 48 * 28
    assert one.visible.all()
    assert one.image_xy.tolist() == [[20, 10], [60, 12], [40, 30]]
    assert found.labels.skeleton.name == "openfield"
    assert found.labels.skeleton.flip_order == (1, 0, 2)


def test_a_box_ends_at_the_last_pixel_of_its_picture(tmp_path: Path):
    found = read(written(tmp_path, {"m1": {"img01.png": (1, 2, 98, 49, "", "")}}))

    assert found.labels.instances[0].box_xywh == (0.0, 0.0, 99.0, 49.0)


@pytest.mark.parametrize("naming", ["cells", "slash", "backslash"])
@pytest.mark.parametrize("given", ["folder", "file"])
def test_all_ways_to_name_a_frame_are_one(tmp_path: Path, naming: str, given: str):
    project = written(tmp_path, {"m 1.b": {"img01.png": LABELS}}, naming=naming)

    found = read(project if given == "folder" else project / "config.yaml")

    assert [one.image for one in found.labels.instances] == ["m 1.b/img01.png"]


def test_points_are_found_by_name_whatever_their_order(tmp_path: Path):
    swapped = [POINTS[2], POINTS[0], POINTS[1]]
    project = written(tmp_path, {"m1": {"a.png": (40, 30, 20, 10, 60, 12)}}, points=swapped)

    (one,) = read(project).labels.instances

    assert one.image_xy.tolist() == [[20, 10], [60, 12], [40, 30]]


def test_of_several_animals_each_is_an_instance_where_it_is_labelled(tmp_path: Path):
    points = [(who, part) for who in ("m1", "m2") for part in PARTS] + [("single", "corner")]
    frames = {
        "a.png": (*LABELS, *LABELS, 5, 5),
        "b.png": ("", "", *LABELS[2:], *[""] * 6, "", ""),
        "c.png": (*[""] * 12, 5, 5),
        "d.png": [""] * 14,
    }
    found = read(written(tmp_path, {"cage": frames}, points=points, **SEVERAL)).labels

    assert [one.image for one in found.instances] == ["cage/a.png", "cage/a.png", "cage/b.png"]
    assert [one.image_id for one in found.instances] == [1, 1, 2]
    assert found.instances[2].visible.tolist() == [False, True, True]
    assert found.instances[2].image_xy[0].tolist() == [0, 0]
    assert found.skipped == [
        SkippedItem("cage/a.png (single)", SkipReason.OTHER_CATEGORY, "unique bodyparts"),
        SkippedItem("cage/c.png (single)", SkipReason.OTHER_CATEGORY, "unique bodyparts"),
        SkippedItem("cage/d.png", SkipReason.NO_KEYPOINTS, "none of its points is labelled"),
    ]
    assert found.skeleton.keypoints == tuple(PARTS)


def test_what_cannot_be_learnt_is_named(tmp_path: Path):
    frames = {
        "a.png": LABELS,
        "b.png": ["", "", "nan", "NaN", "", ""],
        "c.png": (-3, 10, 60, 12, 0, 0),
        "d.png": (100, 10, 60, 50, "", ""),
        "e.png": (60, 12, 60, 12, "", ""),
    }
    found = read(written(tmp_path, {"m1": frames})).labels

    assert [one.image for one in found.instances] == ["m1/a.png"]
    assert found.num_read == 5
    assert found.skipped == [
        SkippedItem("m1/b.png", SkipReason.NO_KEYPOINTS, "none of its points is labelled"),
        SkippedItem("m1/c.png", SkipReason.EMPTY_BOX, "labelled points: 1"),
        SkippedItem("m1/d.png", SkipReason.NO_KEYPOINTS, "labelled outside the image only"),
        SkippedItem("m1/e.png", SkipReason.EMPTY_BOX, "labelled points: 2"),
    ]
    assert (
        "4 labelled points are outside their image, or at (0, 0): they were taken as not "
        "labelled, as in DeepLabCut: m1/c.png, m1/d.png"
    ) in found.notes


def test_bones_that_the_config_was_born_with_are_told(tmp_path: Path):
    found = read(written(tmp_path, {"m1": {"a.png": LABELS}})).labels

    assert found.skeleton.bones == (("leftear", "snout"),)
    assert found.notes == [
        "1 bones of the config do not join two bodyparts: ['objectA', 'snout']",
        BOXES,
    ]


def test_names_without_sides_are_told_and_pairs_can_be_given(tmp_path: Path):
    points = [("", "ear1"), ("", "ear2"), ("", "nose")]
    project = written(tmp_path, {"m1": {"a.png": LABELS}}, points=points, bodyparts=["ear1", "ear2", "nose"])
    (tmp_path / "mouse.yaml").write_text("keypoints: [Nose, Ear2, ear1]\npairs: [[ear1, Ear2]]")

    told = read(project).labels
    found = read(project, skeleton=load_skeleton(str(tmp_path / "mouse.yaml"))).labels

    assert any("nothing tells left from right" in note for note in told.notes)
    assert found.notes == [BOXES]
    assert found.skeleton.flip_order == (0, 2, 1)
    assert found.instances[0].image_xy.tolist() == [[40, 30], [60, 12], [20, 10]]


def test_a_skeleton_may_take_some_of_the_bodyparts(tmp_path: Path):
    project = written(tmp_path, {"m1": {"a.png": LABELS}})
    (tmp_path / "ears.yaml").write_text("keypoints: [leftear, rightear]")
    (tmp_path / "other.yaml").write_text("keypoints: [leftear, rightear, tail]")

    found = read(project, skeleton=load_skeleton(str(tmp_path / "ears.yaml"))).labels
    error = refusal(project, skeleton=load_skeleton(str(tmp_path / "other.yaml")))

    assert found.notes == ["1 bodyparts are not in the skeleton, and not used: snout", BOXES]
    assert found.instances[0].image_xy.tolist() == [[20, 10], [60, 12]]
    assert error.what == "keypoint 'tail' of 'other' is no bodypart of its own"
    assert error.where.endswith("config.yaml: leftear, rightear, snout")


def test_bodyparts_of_one_side_only_are_told(tmp_path: Path):
    videos = {"m1": {"a.png": (*LABELS, 7, 8)}}
    project = written(tmp_path, videos, points=[*POINTS, ("", "tail")])
    assert "bodypart 'tail' is not in the config, and was not used: 1 labels" in (read(project).labels.notes)

    project = written(tmp_path, {"m1": {"a.png": LABELS[:4]}}, points=POINTS[:2])
    notes = read(project).labels.notes
    assert "bodypart 'snout' has no column in the labels of m1" in notes
    assert "1 bodyparts are labelled in no frame: snout" in notes


def test_a_bodypart_that_was_renamed_is_refused(tmp_path: Path):
    points = [*POINTS[:2], ("", "nose")]

    error = refusal(written(tmp_path, {"m1": {"a.png": LABELS}}, points=points))

    assert error.what == "bodyparts called otherwise than in the config: nose"
    assert error.where.endswith("m1/CollectedData_Ann.csv has no snout")


def test_the_config_says_whose_labels_count(tmp_path: Path):
    project = written(tmp_path, {"m1": {"a.png": LABELS}})
    folder = project / "labeled-data" / "m1"
    other = (folder / "CollectedData_Ann.csv").read_text().replace("20", "33")
    (folder / "CollectedData_Bob.csv").write_text(other)

    found = read(project).labels
    assert found.instances[0].image_xy[0].tolist() == [20, 10]
    assert "m1: labels that were not read: CollectedData_Bob.csv" in found.notes

    (folder / "CollectedData_Ann.csv").rename(folder / "CollectedData_Cy.csv")
    error = refusal(project)
    assert error.what == "labels of several people, and none by 'Ann'"
    assert error.where.endswith("m1: CollectedData_Bob.csv, CollectedData_Cy.csv")

    (folder / "CollectedData_Cy.csv").unlink()
    assert "m1: labels by another than 'Ann': CollectedData_Bob.csv" in read(project).labels.notes


def test_hdf5_alone_is_refused_with_the_way_out(tmp_path: Path):
    project = written(tmp_path, {"m1": {"a.png": LABELS}})
    table = project / "labeled-data" / "m1" / "CollectedData_Ann.csv"
    table.rename(table.with_suffix(".h5"))

    error = refusal(project)

    assert error.what == "labels in HDF5 without the CSV that DeepLabCut writes beside it"
    assert error.fix.endswith("import pandas; pandas.read_hdf('CollectedData_Ann.h5').to_csv('CollectedData_Ann.csv')")


def test_only_videos_of_the_config_are_read(tmp_path: Path):
    videos = {"m1": {"a.png": LABELS}, "m1_cropped": {"a.png": LABELS}}
    project = written(tmp_path, videos, video_sets={"/home/x/m1.avi": {}, "/home/x/m2.avi": {}})
    labeled = project / "labeled-data"
    (labeled / "m1_labeled").mkdir()
    (labeled / ".hidden").mkdir()
    (labeled / "linked").symlink_to(labeled / "m1")

    found = read(project).labels

    assert [one.image for one in found.instances] == ["m1/a.png"]
    for note in (
        "1 folders with labels are of no video in video_sets, and were not read, as in DeepLabCut: m1_cropped",
        "1 linked folders were not looked into: linked",
        "1 videos have no labels: m2",
    ):
        assert note in found.notes


def test_a_config_may_name_many_videos(tmp_path: Path):
    others = {f"/home/ann/experiments/mice/day 1/{'x' * 60}{at}.avi": {} for at in range(1000)}
    project = written(tmp_path, {"m1": {"a.png": LABELS}}, video_sets=others | {"m1.avi": {}})

    assert (project / "config.yaml").stat().st_size > 10**5
    assert "1,000 videos have no labels" in read(project).labels.notes[1]


def test_a_config_that_names_none_of_the_folders_leaves_all(tmp_path: Path):
    project = written(tmp_path, {"m1": {"a.png": LABELS}}, video_sets={"TO BE UPDATED": {}})

    found = read(project).labels

    assert len(found.instances) == 1
    assert "no folder of labeled-data is of a video in video_sets: all were read" in found.notes


def test_frames_that_are_not_there_are_named(tmp_path: Path):
    project = written(tmp_path, {"m1": {"a.png": LABELS, "b.png": LABELS}, "m2": {"c.png": LABELS}})
    (project / "labeled-data" / "m1" / "b.png").unlink()

    error = refusal(project)

    assert error.what == "1 of 3 frames are not there"
    assert "m1/b.png" in error.where
    run(DeepLabCutArgs(project=project, out=tmp_path / "out", max_image_size=32, skip_missing=True))
    skipped = (tmp_path / "out" / "skipped.csv").read_text()
    assert "m1/b.png,missing image" in skipped


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        ((*LABELS[:5], "x"), "'x' where a number is wanted"),
        ((*LABELS[:5], "inf"), "'inf' where a number is wanted"),
        ((*LABELS[:5], "1_0"), "'1_0' where a number is wanted"),
        ((*LABELS[:5], "1e12"), "'1e12' where a number is wanted"),
        ((*LABELS[:5], ""), "bodypart 'snout' has one number of two"),
        (LABELS[:5], "8 cells where 9 are wanted"),
        ((*LABELS, 1), "10 cells where 9 are wanted"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, cells: Cells, what: str):
    error = refusal(written(tmp_path, {"m1": {"a.png": LABELS, "b.png": cells}}))

    assert error.what == f"a row of labels that cannot be read ({what})"
    assert error.where.endswith("m1/CollectedData_Ann.csv: line 5")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("b.png", "a.png", "'a.png' is there twice"),
        ("m1,b.png", "m2,b.png", "a frame of 'm2' in the folder 'm1'"),
        ("b.png", "..", "'labeled-data/m1/..' where an image is named"),
        ("coords", "axes", "no row 'coords' above it"),
        ("snout,snout", "leftear,leftear", "bodypart 'leftear' has its columns twice"),
        ("x,y,x,y,x,y", "x,y,x,y,y,x", "columns other than x and y of each bodypart"),
        ("x,y,x,y,x,y", "x,y,x,y,x,z", "columns other than x and y of each bodypart"),
        ("x,y,x,y,x,y", "x,y,x,y,x", "the rows above it do not fit together"),
        ("scorer,,,Ann,Ann", "scorer,,,Bob,Bob", "labels of several scorers in one file"),
        ("\ncoords", "\nscorer,,,Ann\ncoords", "no row 'coords' above it"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, old: str, new: str, what: str):
    project = written(tmp_path, {"m1": {"a.png": LABELS, "b.png": LABELS}})
    path = project / "labeled-data" / "m1" / "CollectedData_Ann.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))

    error = refusal(project)

    assert error.what == f"a row of labels that cannot be read ({what})"
    assert error.where.startswith(f"{path}: line ")


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"bodyparts": None}, "a project without bodyparts"),
        ({"bodyparts": "leftear"}, "bodyparts is 'leftear' where names are wanted"),
        ({"bodyparts": ["leftear", 3]}, "bodyparts is ['leftear', 3] where names are wanted"),
        ({"bodyparts": ["snout"]}, "one keypoint only: nothing tells how large"),
        ({"bodyparts": ["snout", "snout"]}, "keypoints named twice: ['snout']"),
        ({"bodyparts": ["left_ear", "snout"]}, "'left_ear' has no keypoint 'right_ear'"),
        ({"multianimalproject": True}, "a project without multianimalbodyparts"),
    ],
)
def test_a_wrong_config_is_named(tmp_path: Path, entries: dict[str, Any], what: str):
    error = refusal(written(tmp_path, {"m1": {"a.png": LABELS}}, **entries))

    assert error.what.startswith(what)
    assert str(tmp_path / "config.yaml") in error.where


def test_a_folder_that_is_no_project_is_named(tmp_path: Path):
    assert refusal(tmp_path).what == "the file is not there"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(ONE))
    assert refusal(tmp_path).what == "the folder is not there"
    (tmp_path / "labeled-data" / "m1").mkdir(parents=True)
    assert refusal(tmp_path).what == "a project without labels"
    (tmp_path / "labeled-data" / "m1" / "CollectedData_Ann.csv").write_text("scorer,Ann\n")
    assert refusal(tmp_path).what == "labels of no frame"


def test_a_broken_picture_is_named_like_any_other(tmp_path: Path):
    project = written(tmp_path, {"m1": {"a.png": LABELS}, "m2": {"b.png": LABELS}})
    (project / "labeled-data" / "m1" / "a.png").write_bytes(b"no image")

    with pytest.raises(DataError, match="1 images cannot be read") as refused:
        run(DeepLabCutArgs(project=project, out=tmp_path / "out", val_videos=("m2",)))

    assert "m1/a.png" in refused.value.where


def test_a_folder_whose_name_is_no_text_is_named(tmp_path: Path):
    project = written(tmp_path, {"m1": {"a.png": LABELS}}, naming="slash", video_sets={})
    labeled = project / "labeled-data"
    table = labeled / "m1" / "CollectedData_Ann.csv"
    table.write_text(table.read_text().replace("labeled-data/m1/", ""))
    assert len(read(project).labels.instances) == 1

    os.rename(labeled / "m1", os.fsencode(labeled) + b"/m\xff")

    assert "surrogates not allowed" in refusal(project).what


@pytest.mark.timeout(20)
def test_what_never_ends_is_not_read(tmp_path: Path):
    project = written(tmp_path, {"m1": {"a.png": LABELS}})
    (project / "labeled-data" / "m1" / "a.png").unlink()
    os.mkfifo(project / "labeled-data" / "m1" / "a.png")
    os.mkfifo(project / "labeled-data" / "m1" / "CollectedData_Bob.csv")

    assert refusal(project).what == "1 of 1 frames are not there"


@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.data())
def test_whatever_stands_in_a_table_becomes_rows_or_one_sentence(tmp_path: Path, data):
    project = written(tmp_path, {"m1": {"a.png": LABELS, "b.png": LABELS}})
    path = project / "labeled-data" / "m1" / "CollectedData_Ann.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for _ in range(data.draw(st.integers(1, 3))):
        row = data.draw(st.sampled_from(lines))
        odd = st.sampled_from(["", "nan", "-1", "x", "scorer", '"', "1e400", "..", "\0", "Ann"])
        row[data.draw(st.integers(0, len(row) - 1))] = data.draw(odd | st.text(max_size=4))
    path.write_text("\n".join(map(",".join, lines)), encoding="utf-8", errors="replace")

    found = outcome(project)

    if isinstance(found, DataError):
        assert str(found).count("\n") == 2
    else:
        assert found.labels.num_read == 2
        for one in found.labels.instances:
            x, y, w, h = one.box_xywh
            assert min(x, y) >= 0 < min(w, h)
            assert x + w <= 99 or one.image not in ("m1/a.png", "m1/b.png")
            assert y + h <= 49 or one.image not in ("m1/a.png", "m1/b.png")


def outcome(project: Path) -> Found | DataError:
    try:
        return read(project, skip_missing=True)
    except DataError as error:
        return error


def test_a_project_becomes_a_data_set_parted_by_videos(tmp_path: Path, capsys):
    frames = {f"img{at}.png": LABELS for at in range(4)}
    videos = {f"m{at}": frames for at in range(5)} | {"m5": {"img0.png": [""] * 6}}
    project = written(tmp_path / "mice", videos)
    out = tmp_path / "out"

    run(parse_args(PrepareArgs, ["dlc", "--project", str(project), "--out", str(out)], prog="prepare"))

    manifest = read_manifest(out)
    train, val = (
        {image.split("/")[0] for image in read_split(manifest, split)["image"].to_pylist()}
        for split in ("train", "val")
    )
    assert len(train) == 4
    assert len(val) == 1
    assert not train & val
    assert manifest.skeleton.flip_order == (1, 0, 2)
    assert manifest.splits["val"].notes == [f"validation is 1 of 5 videos, 4 of 20 frames: {min(val)}"]
    said = capsys.readouterr().out
    assert "  train 17 read = 16 used + 1 skipped (see skipped.csv)\n" in said
    assert "  val   4 read = 4 used + 0 skipped\n" in said
    assert "m5/img0.png,no keypoints" in (out / "skipped.csv").read_text()


def test_it_is_the_data_set_that_the_same_labels_in_coco_form_give(tmp_path: Path):
    """Once the box is the same: rows, images and their checksums."""
    project = written(tmp_path / "mice", {"m1": {"a.png": LABELS}, "m2": {"b.png": LABELS}})
    run(DeepLabCutArgs(project=project, out=tmp_path / "a", max_image_size=64, val_videos=("m2",)))
    for split, name in (("train", "m1/a.png"), ("val", "m2/b.png")):
        document = {
            "images": [{"id": 1, "file_name": name}],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 1,
                    "category_id": 1,
                    "bbox": [16, 6, 49, 29],
                    "keypoints": [20, 10, 2, 60, 12, 2, 40, 30, 2],
                }
            ],
            "categories": [{"id": 1, "name": "mouse", "keypoints": PARTS}],
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(document))
    flags = ["coco", "--images", str(project / "labeled-data"), "--max-image-size", "64"]
    flags += ["--annotations", str(tmp_path / "train.json"), "--out", str(tmp_path / "b")]
    run(parse_args(PrepareArgs, [*flags, "--val-annotations", str(tmp_path / "val.json")], prog="prepare"))

    ours, theirs = read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")
    for split in ("train", "val"):
        (mine,), (coco,) = (read_split(one, split).to_pylist() for one in (ours, theirs))
        for key in mine.keys() - {"id", "image_id"}:
            np.testing.assert_equal(mine[key], coco[key], err_msg=key)
