"""Predictor: images, batches and invalid inputs."""

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
from tests.inference.paws import BOXES, SPEC, make_paws_model, make_test_image


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(make_paws_model(), SPEC)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return make_test_image()


def make_table(image: np.ndarray, boxes: np.ndarray) -> pa.Table:
    _, png = cv2.imencode(".png", image[..., ::-1])
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
    rows = [records.build_full_image_record(instance, png.tobytes()) for instance in instances]
    return pa.Table.from_pylist(rows, schema=records.build_arrow_schema(3))


def test_predicting_an_image_equals_predicting_its_stored_rows(predictor: Predictor, image: np.ndarray):
    predictions = predictor(image, BOXES)
    scored = predictor.predict_table(make_table(image, BOXES))

    assert predictions.ids.tolist() == scored.ids.tolist() == [0, 1, 2]
    assert torch.equal(predictions.image_xy, scored.image_xy)
    assert torch.equal(predictions.scores, scored.scores)
    assert len(predictions.image_xy.flatten(0, 1).unique(dim=0)) == 9  # all nine keypoints differ


def test_the_batch_size_does_not_change_predictions(predictor: Predictor, image: np.ndarray):
    whole = predictor(image, BOXES)

    for predictions in (
        predictor(image, BOXES, batch_size=2),
        predictor.predict_table(make_table(image, BOXES), batch_size=1),
    ):
        assert predictions.ids.tolist() == [0, 1, 2]
        assert torch.allclose(predictions.image_xy, whole.image_xy, atol=1e-3)
        assert torch.allclose(predictions.scores, whole.scores, rtol=1e-4)


def test_keypoints_move_with_the_box(predictor: Predictor, image: np.ndarray):
    moved = np.zeros((160, 200, 3), np.uint8)
    moved[40:, 50:] = image

    predictions = predictor(moved, BOXES[:2] + np.array([50, 40, 0, 0]))

    expected_xy = predictor(image, BOXES[:2]).image_xy + torch.tensor([50.0, 40.0])
    assert torch.allclose(predictions.image_xy, expected_xy, atol=1e-3)


def test_an_image_without_boxes_has_no_poses(predictor: Predictor, image: np.ndarray):
    predictions = predictor(image, np.zeros((0, 4)))

    assert predictions.ids.shape == (0,)
    assert predictions.image_xy.shape == (0, 3, 2)
    assert predictions.scores.shape == (0, 3)


def test_predicting_several_images_equals_predicting_each_image(predictor: Predictor, image: np.ndarray):
    images = [image, np.ascontiguousarray(image[:, ::-1]), image[:90], image]
    boxes = [BOXES, BOXES[1:], BOXES[:0], BOXES[:1] + 5]

    together = predictor.predict_images(images, boxes, batch_size=4)

    for predictions, single_image, single_boxes in zip(together, images, boxes, strict=True):
        alone = predictor(single_image, single_boxes)
        assert predictions.ids.tolist() == alone.ids.tolist() == list(range(len(single_boxes)))
        # Another batch size may change the last bits.
        assert torch.allclose(predictions.image_xy, alone.image_xy, atol=1e-3)
        assert torch.allclose(predictions.scores, alone.scores, rtol=1e-4)
    assert predictor.predict_images([], []) == []


def test_a_loaded_model_predicts_as_the_saved_model(predictor: Predictor, image: np.ndarray, tmp_path: Path):
    save_model(tmp_path, predictor.model, SPEC)

    predictions = Predictor.from_model_dir(tmp_path)(image, BOXES)

    expected = predictor(image, BOXES)
    assert torch.allclose(predictions.image_xy, expected.image_xy, atol=1e-3)
    assert torch.allclose(predictions.scores, expected.scores, rtol=1e-4)


def test_decode_config_follows_the_spec():
    assert build_decode_config(SPEC).flip_order == (1, 0, 2)
    assert build_decode_config(replace(SPEC, flip_test=False)).flip_order is None
    read = build_decode_config(replace(SPEC, decode="dark", shift_heatmap=False, sigma=3.0))
    assert (read.method, read.shift_heatmap, read.sigma) == ("dark", False, 3.0)


@pytest.mark.parametrize(
    ("change", "boxes", "what"),
    [
        (lambda image: image[..., 0], BOXES, r"this is uint8 \[\d+, \d+\]"),
        (lambda image: image / 255, BOXES, "this is float64"),
        (lambda image: image, BOXES * [1, 1, 0, 1], "w and h above 0"),
        (lambda image: image, BOXES * np.nan, "w and h above 0"),
    ],
)
def test_invalid_images_and_boxes_are_refused(
    predictor: Predictor, image: np.ndarray, change: Any, boxes: np.ndarray, what: str
):
    with pytest.raises(ValueError, match=what):
        predictor(change(image), boxes)
