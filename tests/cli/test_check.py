"""Test `hrnet-ray check`: its output, its report and `--strict`."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray import cli
from hrnet_ray.cli import check
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.reports.dataset.statistics import compute_statistics
from tests.reports.dataset.cats import FORMULA, HOSTILE, write_cats

INPUT_HW = (64, 96)


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_cats(tmp_path_factory.mktemp("raw"))


def test_check_prints_counts_issues_and_the_path_of_the_report(cats: DatasetManifest, tmp_path: Path, capsys):
    check.run(check.CheckArgs(data=str(cats.root), out=tmp_path, input_hw=INPUT_HW))

    lines = [line for line in capsys.readouterr().out.splitlines() if "/s  " not in line]
    assert lines == [
        f"<b>cats</b>: 4 keypoints, version {cats.digest[:12]}, all checksums match",
        "  train        6 read = 4 used + 2 skipped (1 crowd, 1 no keypoints)",
        "  val          1 read = 1 used + 0 skipped",
        f"  issue: train, images that are also in another split: 1 ({FORMULA}: in val as copy.jpg)",
        f"  issue: val, images that are also in another split: 1 (copy.jpg: in train as {FORMULA})",
        "  issue: val, keypoints that are never visible: 1 (tail)",
        "  issue: train, keypoints outside the image, or too far from the box to be stored: 1 "
        f"({FORMULA} #12: left_paw by 2 px)",
        f"  issue: train, keypoints outside their box: 2 ({FORMULA} #12: left_paw by 4 px)",
        f"  issue: train, poses with 3 visible keypoints or fewer: 2 ({HOSTILE} #11)",
        "  issue: val, poses with 3 visible keypoints or fewer: 1 (copy.jpg #20)",
        "possible issues: images that are also in another split: 2; keypoints that are never "
        f"visible: 1; 3 more kinds of issues; page: {tmp_path / 'report.html'}",
    ]


def test_a_dataset_without_issues_gets_one_line(cats: DatasetManifest):
    counts = compute_statistics(cats)
    for split in counts.splits.values():
        split.issues.clear()
        split.issues.update({kind: [] for kind in check.IssueType})

    assert check.format_summary_line(counts, Path("page.html")) == "no issues found; page: page.html"


def test_control_characters_of_names_are_escaped(cats: DatasetManifest):
    renamed = replace(cats, name="cats\x1b[2J\nall is well")

    lines = check.format_summary(renamed, compute_statistics(cats)).splitlines()

    assert lines[0].startswith(r"cats\x1b[2J\nall is well: 4 keypoints")
    assert all(line.isprintable() for line in lines)


def test_strict_makes_some_issues_an_error(cats: DatasetManifest, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", str(cats.root), "--out", str(tmp_path), "--strict"])

    assert ended.value.code == 3
    assert capsys.readouterr().err.splitlines() == [
        "error: --strict: images that are also in another split: 2; keypoints that are never visible: 1",
        f"  listed in {tmp_path / 'issues.csv'}",
        "  fix: correct the annotations and prepare them again, or omit --strict",
    ]
    assert (tmp_path / "report.html").is_file()


def test_without_strict_issues_are_no_error(cats: DatasetManifest, tmp_path: Path):
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", str(cats.root), "--out", str(tmp_path)])

    assert ended.value.code == 0


def test_the_report_is_in_the_dataset_folder_by_default(cats: DatasetManifest, tmp_path: Path):
    data = Path(shutil.copytree(cats.root, tmp_path / "data"))

    check.run(check.CheckArgs(data=str(data)))

    assert (data / "check" / "report.html").is_file()


def test_a_report_on_a_remote_dataset_needs_a_local_folder(cats: DatasetManifest):
    remote = replace(cats, root="s3://poses/cats")

    with pytest.raises(UsageError, match="--out must be given for a dataset in remote storage"):
        check._resolve_output_dir(check.CheckArgs(data="s3://poses/cats"), remote)


def test_a_folder_that_cannot_be_written_is_named(cats: DatasetManifest, tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(DataError, match="the dataset report cannot be written"):
        check.run(check.CheckArgs(data=str(cats.root), out=tmp_path / "file" / "out"))


def test_a_changed_shard_is_refused(cats: DatasetManifest, tmp_path: Path):
    data = Path(shutil.copytree(cats.root, tmp_path / "data"))
    with (data / "val" / "00000.parquet").open("ab") as shard:
        shard.write(b"x")

    with pytest.raises(DataError, match=r"val/00000.parquet \(changed\)"):
        check.run(check.CheckArgs(data=str(data)))

    assert not (data / "check").exists()
    assert read_manifest(data).digest == cats.digest


def test_a_missing_folder_is_named_as_on_the_command_line(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder") as refused:
        check.run(check.CheckArgs(data=str(tmp_path / "nowhere")))

    assert refused.value.where == f"DATA {tmp_path / 'nowhere'}"
