"""A drawing lies where its picture or video lay, and has its name."""

from pathlib import Path

from hrnet_ray.cli.prediction.overlays import assign_overlay_names


def names(*given: str) -> list[str]:
    found = assign_overlay_names([Path(name) for name in given])
    return [str(found[Path(name)]) for name in given]


def test_a_drawing_has_its_pictures_name():
    assert names("a.png", "day/b.jpg", "day/c.mov", "d.MP4") == [
        "a.jpg", "day/b.jpg", "day/c.mp4", "d.mp4",
    ]  # fmt: skip


def test_drawings_of_one_stem_keep_the_whole_name():
    assert names("a.mov", "a.mp4", "b.mkv") == ["a.mov.mp4", "a.mp4.mp4", "b.mp4"]


def test_a_picture_and_a_video_of_one_stem_are_no_twins():
    assert names("a.jpg", "a.mp4") == ["a.jpg", "a.mp4"]


def test_a_name_that_ends_twice_meets_no_other():
    assert len(set(names("a.mp4", "a.mp4.mov", "a.mov"))) == 3
    assert len(set(names("a.jpg", "a.jpg.png", "a.png"))) == 3
