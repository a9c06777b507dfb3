"""Test the names of overlays."""

from pathlib import Path

from hrnet_ray.cli.prediction.overlays import assign_overlay_names


def overlay_names(*names: str) -> list[str]:
    assigned = assign_overlay_names([Path(name) for name in names])
    return [str(assigned[Path(name)]) for name in names]


def test_an_overlay_has_the_name_of_its_input():
    assert overlay_names("a.png", "day/b.jpg", "day/c.mov", "d.MP4") == [
        "a.jpg", "day/b.jpg", "day/c.mp4", "d.mp4",
    ]  # fmt: skip


def test_overlays_of_inputs_with_the_same_stem_keep_the_suffix():
    assert overlay_names("a.mov", "a.mp4", "b.mkv") == ["a.mov.mp4", "a.mp4.mp4", "b.mp4"]


def test_an_image_and_a_video_of_the_same_stem_do_not_collide():
    assert overlay_names("a.jpg", "a.mp4") == ["a.jpg", "a.mp4"]


def test_names_with_two_suffixes_do_not_collide():
    assert len(set(overlay_names("a.mp4", "a.mp4.mov", "a.mov"))) == 3
    assert len(set(overlay_names("a.jpg", "a.jpg.png", "a.png"))) == 3
