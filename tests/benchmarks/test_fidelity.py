"""Training crops are as near to an ideal warp of the original as the documents say."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import classic, fidelity
from hrnet_ray.data import records
from hrnet_ray.data.images.codec import cv2

FEWEST_DB = 34.0


@pytest.fixture(scope="module")
def found(shared_data: Path) -> list[fidelity.Scene]:
    return fidelity.scenes(shared_data, warps=8)


def test_training_crops_of_real_pictures_are_near_the_ideal(found: list[fidelity.Scene]):
    stored = fidelity.defaults(found)

    for recipe in fidelity.READERS:
        assert stored.median_db(recipe) >= FEWEST_DB
    assert stored.lost < 0.005


def test_exact_rows_are_one_warp_of_the_original(found: list[fidelity.Scene]):
    assert fidelity.check_exact(found) == 7


def test_exact_crops_of_people_are_those_of_the_published_loader(found: list[fidelity.Scene]):
    people = [scene for scene in found if scene.recipe == "mpii"]
    made = [records.build_full_image_record(scene.instance, scene.data) for scene in people]
    table = pa.Table.from_pylist(made, schema=records.build_arrow_schema(16))

    crops = records.decode_eval_batch(table, input_hw=(256, 256), padding=records.BOX_PADDING_FACTOR)["crop"]

    for scene, crop in zip(people, crops, strict=True):
        x, y, w, h = scene.instance.box_xywh
        matrix = classic.affine(
            np.array([x + w / 2, y + h / 2]),
            np.array([w, h]) * records.BOX_PADDING_FACTOR / classic.UNIT_PX,
            0.0,
            input_hw=(256, 256),
        )
        np.testing.assert_array_equal(crop, classic.cut(scene.picture, matrix, input_hw=(256, 256)))


def test_an_upright_crop_of_the_same_size_is_its_own_ideal():
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(picture, (0, 0), 3)

    crop, covered = fidelity.ideal_crop(smooth, np.eye(3), input_hw=(40, 30))

    # A pixel's own square, not one that lies half a pixel aside.
    assert np.abs(crop - smooth)[2:-2, 2:-2].max() < 1.0
    assert covered[1:-1, 1:-1].all()


def test_a_halved_crop_is_the_mean_of_four_pixels():
    stripes = np.zeros((16, 24, 3), np.uint8)
    stripes[:, ::2] = 200
    halved = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])

    crop, _ = fidelity.ideal_crop(stripes, halved, input_hw=(8, 12))

    assert np.abs(crop[1:-1, 1:-1] - 100).max() < 1.0
