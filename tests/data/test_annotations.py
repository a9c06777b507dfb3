import os
from pathlib import Path

import pytest

from hrnet_ray.data.annotations import (
    AnnotationSet,
    SkippedItem,
    SkipReason,
    build_count_note,
    format_value,
    resolve_image_path,
)
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import ATRW


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images with one image, a secret beside it, and links to both."""
    folder = tmp_path / "images"
    (folder / "day").mkdir(parents=True)
    (folder / "day" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "up").symlink_to(tmp_path)
    (folder / "in.jpg").symlink_to(folder / "day" / "a.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    return folder


OUTSIDE = "an annotation that names a file outside the folder of images"
ADDRESS = "an annotation that names an address where a file is wanted"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("../../etc/passwd", OUTSIDE),
        ("/etc/passwd", OUTSIDE),
        ("out.jpg", OUTSIDE),
        ("file:///etc/passwd", ADDRESS),
        ("http://169.254.169.254/latest/meta-data", ADDRESS),
        ("a.jpg\0.png", OUTSIDE),
        ("a" * 5000, OUTSIDE),
        # Their cousins.
        ("day/../../secret.jpg", OUTSIDE),
        ("up/secret.jpg", OUTSIDE),
        ("loop.jpg", OUTSIDE),
        ("s3://bucket/a.jpg", ADDRESS),
        ("HTTPS://example.com/a.jpg", ADDRESS),
        ("day/" * 1500 + "a.jpg", OUTSIDE),
    ],
    ids=lambda value: value[:24],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(images: Path, name: str, what: str):
    with pytest.raises(DataError) as error:
        resolve_image_path(images, name)

    assert error.value.what == what
    assert len(error.value.where) < 200 + len(str(images))
    assert error.value.fix


@pytest.mark.parametrize("name", ["day/a.jpg", "in.jpg", "day/../day/a.jpg", "./day//a.jpg"])
def test_only_the_real_path_below_the_folder_is_given_to_open(images: Path, name: str):
    path = resolve_image_path(images, name)

    assert path == Path(os.path.realpath(images / "day" / "a.jpg"))
    assert path.read_bytes() == b"picture"


def test_a_folder_of_pictures_may_itself_be_a_link(images: Path, tmp_path: Path):
    (tmp_path / "linked").symlink_to(images)

    assert resolve_image_path(tmp_path / "linked", "day/a.jpg") == images.resolve() / "day" / "a.jpg"


@pytest.mark.parametrize("name", ["missing.jpg", "ünï ☃.jpg", "a" * 300 + ".jpg", "c:/a.jpg"])
def test_a_file_that_is_not_there_is_no_danger(images: Path, name: str):
    assert not os.path.isfile(resolve_image_path(images, name))


def test_a_reason_is_written_as_its_words():
    skipped = SkippedItem("annotation 3", SkipReason.NO_KEYPOINTS)

    assert skipped.reason == "no keypoints"
    assert f"{skipped.reason}" == str(skipped.reason) == "no keypoints"
    assert all(len(reason) <= 24 and "," not in reason for reason in SkipReason)


def test_what_was_read_is_what_is_used_and_what_is_skipped():
    labels = AnnotationSet(
        source=Path("a.json"),
        skeleton=ATRW,
        instances=[],
        skipped=[SkippedItem("a", SkipReason.CROWD)] * 3,
    )

    assert labels.num_read == 3


def test_a_value_is_quoted_shortly_however_long_or_deep_it_is():
    deep: object = 7
    for _ in range(100_000):
        deep = [deep]

    assert format_value(deep) == "[[[...]]]"
    assert len(format_value("x" * 10**6)) == 60
    assert len(format_value(10**4000)) == 60
    assert len(format_value([1.0] * 10**6)) < 60
    assert format_value([1, 2, 3]) == "[1, 2, 3]"


def test_a_note_counts_all_names_and_lists_the_first():
    assert build_count_note(["a", "b", "c", "d"], "videos have no labels") == [
        "4 videos have no labels: a, b, c and 1 more"
    ]
    assert build_count_note([], "videos have no labels") == []
