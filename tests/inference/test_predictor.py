"""A predictor finds in an image what the scoring of the same row finds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from hrnet_ray.data import records
from hrnet_ray.data.annotations import PoseInstance
from hrnet_ray.inference.model_package import save_model
from hrnet_ray.inference.predictor import Predictor, build_decode_config
from tests.inference.paws import BOXES, SPEC, blotched_picture, lively_model


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(lively_model(), SPEC)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return blotched_picture()


def table_of(picture: np.ndarray, boxes: np.ndarray) -> pa.Table:
    _, png = cv2.imencode(".png", picture[..., ::-1])
    instances = [
        PoseInstance(
            id=at,
            image_id=0,
            image="0.png",
            category_id=1,
            box_xywh=(x, y, w, h),
            area=w * h,
            head_size=float("nan"),
            image_xy=np.zeros((3, 2)),
            visible=np.ones(3, bool),
        )
        for at, (x, y, w, h) in enumerate(boxes.tolist())
    ]
    made = [records.build_full_image_record(instance, png.tobytes()) for instance in instances]
    return pa.Table.from_pylist(made, schema=records.build_arrow_schema(3))


def test_a_picture_with_boxes_gives_what_its_exact_rows_give(predictor: Predictor, picture: np.ndarray):
    found = predictor(picture, BOXES)
    scored = predictor.predict_table(table_of(picture, BOXES))

    assert found.ids.tolist() == scored.ids.tolist() == [0, 1, 2]
    assert torch.equal(found.image_xy, scored.image_xy)
    assert torch.equal(found.scores, scored.scores)
    assert len(found.image_xy.flatten(0, 1).unique(dim=0)) == 9  # nine different places


def test_the_size_of_batches_changes_nothing(predictor: Predictor, picture: np.ndarray):
    whole = predictor(picture, BOXES)

    for found in (
        predictor(picture, BOXES, batch_size=2),
        predictor.predict_table(table_of(picture, BOXES), batch_size=1),
    ):
        assert found.ids.tolist() == [0, 1, 2]
        assert torch.allclose(found.image_xy, whole.image_xy, atol=1e-3)
        assert torch.allclose(found.scores, whole.scores, rtol=1e-4)


def test_points_move_with_the_box(predictor: Predictor, picture: np.ndarray):
    moved = np.zeros((160, 200, 3), np.uint8)
    moved[40:, 50:] = picture

    found = predictor(moved, BOXES[:2] + np.array([50, 40, 0, 0]))

    expected_xy = predictor(picture, BOXES[:2]).image_xy + torch.tensor([50.0, 40.0])
    assert torch.allclose(found.image_xy, expected_xy, atol=1e-3)


def test_a_picture_without_boxes_has_no_poses(predictor: Predictor, picture: np.ndarray):
    found = predictor(picture, np.zeros((0, 4)))

    assert found.ids.shape == (0,)
    assert found.image_xy.shape == (0, 3, 2)
    assert found.scores.shape == (0, 3)


def test_several_pictures_at_once_give_what_one_by_one_gives(predictor: Predictor, picture: np.ndarray):
    pictures = [picture, np.ascontiguousarray(picture[:, ::-1]), picture[:90], picture]
    boxes = [BOXES, BOXES[1:], BOXES[:0], BOXES[:1] + 5]

    together = predictor.predict_images(pictures, boxes, batch_size=4)

    for found, one, its in zip(together, pictures, boxes, strict=True):
        alone = predictor(one, its)
        assert found.ids.tolist() == alone.ids.tolist() == list(range(len(its)))
        # Another size of batch, other last bits: `test_the_size_of_batches`.
        assert torch.allclose(found.image_xy, alone.image_xy, atol=1e-3)
        assert torch.allclose(found.scores, alone.scores, rtol=1e-4)
    assert predictor.predict_images([], []) == []


def test_a_loaded_folder_predicts_as_the_model_that_was_saved(
    predictor: Predictor, picture: np.ndarray, tmp_path: Path
):
    save_model(tmp_path, predictor.model, SPEC)

    found = Predictor.from_model_dir(tmp_path)(picture, BOXES)

    expected = predictor(picture, BOXES)
    assert torch.allclose(found.image_xy, expected.image_xy, atol=1e-3)
    assert torch.allclose(found.scores, expected.scores, rtol=1e-4)


def test_the_spec_says_how_heatmaps_are_read():
    assert build_decode_config(SPEC).flip_order == (1, 0, 2)
    assert build_decode_config(replace(SPEC, flip_test=False)).flip_order is None
    read = build_decode_config(replace(SPEC, decode="dark", shift_heatmap=False, sigma=3.0))
    assert (read.method, read.shift_heatmap, read.sigma, read.stride) == ("dark", False, 3.0, 4)


@pytest.mark.parametrize(
    ("change", "boxes", "what"),
    [
        (lambda picture: picture[..., 0], BOXES, r"this is uint8 \[\d+, \d+\]"),
        (lambda picture: picture / 255, BOXES, "this is float64"),
        (lambda picture: picture, BOXES * [1, 1, 0, 1], "w and h above 0"),
        (lambda picture: picture, BOXES * np.nan, "w and h above 0"),
    ],
)
def test_what_is_no_picture_or_no_box_is_refused(
    predictor: Predictor, picture: np.ndarray, change: Any, boxes: np.ndarray, what: str
):
    with pytest.raises(ValueError, match=what):
        predictor(change(picture), boxes)
