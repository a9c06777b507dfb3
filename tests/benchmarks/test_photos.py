"""What the benchmarks are measured on is like photos, and what they measure with measures."""

from pathlib import Path

import numpy as np
import psutil

from benchmarks.meters import Peak, cpu_s, private_mb
from benchmarks.photos import PEOPLE, write_photos
from hrnet_ray.data.images import codec


def test_drawn_pictures_are_as_large_as_photos_and_the_same_each_time(tmp_path: Path):
    labels = write_photos(tmp_path / "a", count=2, size_hw=(720, 1280))
    write_photos(tmp_path / "b", count=2, size_hw=(720, 1280))

    assert len(labels.instances) == 2 * PEOPLE
    for name in {instance.image for instance in labels.instances}:
        data = (tmp_path / "a" / name).read_bytes()
        assert 150_000 < len(data) < 400_000
        assert codec.read_image(tmp_path / "a" / name).shape == (720, 1280, 3)
        assert (tmp_path / "b" / name).read_bytes() == data


def test_real_pictures_fill_the_size_asked_for(tmp_path: Path):
    white = np.full((50, 40, 3), 255, np.uint8)
    codec.write_image(tmp_path / "real" / "a.jpg", white)
    codec.write_image(tmp_path / "real" / "deep" / "b.jpg", white[:30])

    labels = write_photos(tmp_path / "made", count=3, size_hw=(90, 160), folder=tmp_path / "real")

    for name in {instance.image for instance in labels.instances}:
        picture = codec.read_image(tmp_path / "made" / name)
        assert picture.shape == (90, 160, 3)
        assert picture.min() > 200  # no black anywhere


def test_the_peak_sees_memory_that_is_already_free_again():
    before = private_mb([psutil.Process()])

    with Peak([]) as peak:
        held = np.ones(100 * 2**20, np.uint8)
        peak._stop.wait(0.6)
        del held

    assert 90 < peak.own_mb - before < 200
    assert peak.others_mb == 0


def test_cpu_time_of_others_is_counted():
    me = psutil.Process()

    assert cpu_s([me]) > cpu_s([]) > 0
