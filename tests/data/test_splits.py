from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data.annotations import AnnotationSet, SkippedItem
from hrnet_ray.data.images import codec
from hrnet_ray.data.splits import split_by_video
from hrnet_ray.errors import DataError
from tests.data.paws import instance, labels, written


def test_missing_pictures_are_named_and_each_once(images: Path):
    found = labels(instance(0), instance(7), instance(8, "7.png"), *(instance(at) for at in (9, 10, 11)))

    with pytest.raises(DataError) as error:
        written(images, found)

    assert str(error.value) == (
        "4 of 5 images are not there\n"
        f"  paws.json: 10.png, 11.png, 7.png and 1 more (below {images})\n"
        "  fix: check --images, or add --skip-missing to leave them out (listed in skipped.csv)"
    )


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/hostname", "out.png", "0.png\0", "a\0b"])
def test_a_name_that_leaves_the_folder_is_refused(images: Path, name: str):
    codec.write_image(images.parent / "secret.png", np.zeros((4, 6, 3), np.uint8))
    (images / "out.png").symlink_to(images.parent / "secret.png")

    with pytest.raises(DataError) as error:
        written(images, labels(instance(0), instance(1, name)), skip_missing=True)

    assert error.value.what == "an annotation that names a file outside the folder of images"
    assert error.value.where == f"{name!r} below {images}"


def test_names_of_subfolders_and_links_within_the_folder_are_followed(images: Path):
    codec.write_image(images / "day 1" / "a.png", np.zeros((24, 36, 3), np.uint8))
    (images / "b.png").symlink_to(images / "0.png")

    manifest = written(images, labels(instance(0, "day 1/a.png"), instance(1, "b.png"), instance(2, "./2.png")))

    assert manifest.splits["train"].rows == 3


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "0.png/1.png", "sub"])
def test_a_name_that_no_file_can_have_is_missing(images: Path, name: str):
    (images / "sub").mkdir()

    manifest = written(images, labels(instance(0), instance(1, name)), skip_missing=True)

    (line,) = (manifest.root / "skipped.csv").read_text().splitlines()[1:]
    assert line == f"train,{name},missing image,instance 1"


def test_a_link_that_leads_to_itself_is_an_error_or_missing_but_no_crash(images: Path):
    (images / "loop.png").symlink_to(images / "loop.png")

    with pytest.raises(DataError, match=r"loop\.png"):
        written(images, labels(instance(0), instance(1, "loop.png")))


def test_nothing_left_is_no_data_set(images: Path):
    found = labels(instance(7), skipped=(SkippedItem("a", "crowd"), SkippedItem("b", "crowd")))

    with pytest.raises(DataError) as error:
        written(images, found, skip_missing=True)

    assert str(error.value) == (
        "nothing to learn or score\n"
        "  /data/paws.json: 3 instances read, none can be used (2 crowd, 1 missing image)\n"
        "  fix: give a file with labelled keypoints, and the folder with its images"
    )


def frames(**videos: int) -> AnnotationSet:
    """So many frames of each video, with two paws in each."""
    names = [f"{video}/{at}.png" for video, count in videos.items() for at in range(count)]
    return labels(*(instance(at, name) for at, name in enumerate([*names, *names])))


def kept(found: AnnotationSet, **more) -> set[str]:
    """The videos of validation; they are in no other split."""
    train, val = split_by_video(found, **{"val_fraction": 0.1} | more)
    sides = [{one.image.split("/")[0] for one in side.instances} for side in (train, val)]
    assert not sides[0] & sides[1]
    assert len(train.instances) + len(val.instances) == len(found.instances)
    return sides[1]


@pytest.mark.parametrize(
    ("videos", "share", "count"),
    [
        ({f"v{at}": 20 for at in range(10)}, 0.1, 1),
        ({f"v{at}": 20 for at in range(10)}, 0.35, 3),
        ({f"v{at}": 20 for at in range(3)}, 0.1, 1),
        ({"a": 20, "b": 20}, 0.5, 1),
    ],
)
def test_whole_videos_are_kept_for_validation(videos: dict[str, int], share: float, count: int):
    assert len(kept(frames(**videos), val_fraction=share)) == count


def test_a_video_larger_than_its_share_is_learnt_from():
    for seed in range(5):
        assert kept(frames(a=100, b=5), seed=seed) == {"b"}
        assert kept(frames(a=100, b=60, c=18, d=2), seed=seed) <= {"c", "d"}


def test_a_seed_decides_which_videos_are_kept():
    found = frames(**{f"v{at}": 4 for at in range(20)})

    assert kept(found, seed=0) == kept(found, seed=0) != kept(found, seed=1)


def test_videos_can_be_named():
    found = frames(a=3, b=3, c=3)

    assert kept(found, val_videos=("c", "a")) == {"a", "c"}
    with pytest.raises(DataError, match="no labelled frames of the videos d"):
        kept(found, val_videos=("a", "d"))
    with pytest.raises(DataError, match="none is left to learn from"):
        kept(found, val_videos=("a", "b", "c"))
    with pytest.raises(DataError, match="none is left to learn from"):
        kept(frames(a=3, b=3), val_fraction=0.95)


def test_one_video_is_parted_by_its_frames_and_that_is_told():
    train, val = split_by_video(frames(a=10), val_fraction=0.2)

    assert len({one.image for one in val.instances}) == 2
    assert not {one.image for one in train.instances} & {one.image for one in val.instances}
    assert val.notes[0].startswith("all frames are of one video, a: ")


def test_without_instances_there_is_nothing_to_part():
    with pytest.raises(DataError, match="nothing to learn or score"):
        split_by_video(labels(skipped=(SkippedItem("a", "no keypoints"),)), val_fraction=0.1)
