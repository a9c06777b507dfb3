"""Validation metrics of a run: each row counts exactly once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hrnet_ray.errors import DataError
from hrnet_ray.metrics.predictions import KeypointPredictions, compute_pose_scores
from hrnet_ray.metrics.validation import (
    compute_metric_curve,
    compute_validation_metrics,
    select_primary_metric,
    to_coco_ground_truth,
    to_coco_results,
)
from hrnet_ray.skeletons import ATRW, MPII, Skeleton

Truth = dict[str, np.ndarray]

PAW = Skeleton(name="paw", keypoints=("left_toe", "right_toe"))


def make_truth(skeleton: Skeleton, *ids: int, head_size: float = float("nan")) -> Truth:
    """Make one pose per image, uniform in a box of 200 x 100 pixels."""
    count, rng = len(ids), np.random.default_rng(2)
    return {
        "id": np.array(ids),
        "image_id": np.array(ids) + 100,
        "category_id": np.full(count, 1),
        "box_xywh": np.tile([30.0, 40.0, 200.0, 100.0], (count, 1)),
        "area": np.full(count, 20_000.0),
        "head_size": np.full(count, head_size),
        "image_xy": rng.uniform((30, 40), (230, 140), (count, len(skeleton), 2)),
        "visible": np.ones((count, len(skeleton)), bool),
    }


def make_perfect_predictions(truth: Truth) -> KeypointPredictions:
    return KeypointPredictions(
        torch.tensor(truth["id"]),
        torch.tensor(truth["image_xy"], dtype=torch.float32),
        torch.full(truth["visible"].shape, 0.75),
    )


def test_perfect_predictions_score_one_with_id_zero():
    truth = make_truth(ATRW, 0, 1, 2, 3, 4)

    scores = compute_validation_metrics(make_perfect_predictions(truth), truth, ATRW)

    assert scores.primary_metric == "OKS_AP"
    assert scores.primary_value == pytest.approx(1.0, abs=1e-9)
    assert scores.summary["OKS_AP_mmpose"] == pytest.approx(1.0, abs=1e-9)
    assert scores.summary["EPE_px"] < 1e-4
    assert scores.per_keypoint == pytest.approx(dict.fromkeys(ATRW.keypoints, 1.0), abs=1e-6)


@pytest.mark.parametrize(("skeleton", "head_size"), [(ATRW, float("nan")), (MPII, 20.0)])
def test_the_metric_curve_contains_the_primary_metric(skeleton: Skeleton, head_size: float):
    truth = make_truth(skeleton, *range(8), head_size=head_size)
    predictions = make_perfect_predictions(truth)
    offset = torch.linspace(0, 30, 8)[:, None, None]
    predictions = replace(predictions, image_xy=predictions.image_xy + offset)

    curve = compute_metric_curve(predictions, truth, skeleton)
    primary_value = compute_validation_metrics(predictions, truth, skeleton).primary_value

    values = [value for _, value in curve]
    assert 0.1 < primary_value < 0.9
    assert primary_value == pytest.approx(dict(curve)[0.5] if head_size > 0 else np.mean(values))
    assert values == sorted(values, reverse=not head_size > 0)


def test_the_order_of_rows_does_not_matter():
    truth = make_truth(ATRW, 3, 0, 2)
    predictions = make_perfect_predictions(truth)
    predictions.image_xy[0] += 12.0  # row 3
    reversed_predictions = KeypointPredictions(
        predictions.ids.flip(0), predictions.image_xy.flip(0), predictions.scores.flip(0)
    )
    ordered = {name: column[[1, 2, 0]] for name, column in truth.items()}

    assert compute_validation_metrics(reversed_predictions, truth, ATRW) == compute_validation_metrics(
        predictions, ordered, ATRW
    )
    assert compute_validation_metrics(predictions, truth, ATRW).summary["EPE_px"] == pytest.approx(
        288**0.5 / 3, abs=1e-4
    )


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([4, 7], "2 predictions for 3 validation rows\n  row ids missing: 9"),
        ([4, 7, 9, 9], "4 predictions for 3 validation rows\n  row ids more than once: 9"),
        (
            [4, 4, 8],
            "3 predictions for 3 validation rows\n  row ids missing: 7, 9; unknown: 8; more than once: 4",
        ),
    ],
)
def test_missing_unknown_and_duplicate_rows_are_refused(ids: list[int], message: str):
    truth = make_truth(PAW, 4, 7, 9)
    predictions = KeypointPredictions(torch.tensor(ids), torch.zeros(len(ids), 2, 2), torch.ones(len(ids), 2))

    with pytest.raises(DataError) as refused:
        compute_validation_metrics(predictions, truth, PAW)

    assert str(refused.value) == (f"{message}\n  fix: prepare the dataset again; its row ids must be unique")


def test_duplicate_ids_in_the_labels_are_refused():
    truth = make_truth(PAW, 4, 4)

    with pytest.raises(DataError, match="more than once: 4"):
        compute_validation_metrics(make_perfect_predictions(truth), truth, PAW)


def test_pckh_ignores_and_counts_rows_without_head_size():
    truth = make_truth(MPII, 0, 1, 2, head_size=50.0)
    truth["head_size"][1] = np.nan
    predictions = make_perfect_predictions(truth)
    predictions.image_xy[1] += 400.0  # ignored: the row has no head size
    predictions.image_xy[0, 0, 0] += 0.105 * 50  # right ankle, 1 of 2 x 14 keypoints in the mean

    scores = compute_validation_metrics(predictions, truth, MPII)

    assert scores.primary_metric == "PCKh_0.5"
    assert scores.primary_value == 1.0
    assert scores.summary["PCKh_0.11_legacy"] == 1.0
    assert scores.summary["PCKh_0.1"] == pytest.approx(27 / 28)
    assert scores.summary["rows_without_head"] == 1.0
    assert scores.per_keypoint["right_ankle"] == 1.0


def test_hidden_keypoints_do_not_change_the_metrics():
    truth = make_truth(MPII, 0, 1, head_size=50.0)
    truth["visible"][0, 5] = False
    predictions = make_perfect_predictions(truth)
    predictions.image_xy[0, 5] += 999.0

    scores = compute_validation_metrics(predictions, truth, MPII)

    assert scores.summary["PCKh_0.1"] == 1.0
    assert scores.summary["EPE_px"] < 1e-4


def test_primary_metric_is_pckh_if_any_row_has_a_head_size_else_oks():
    truth = make_truth(MPII, 0, 1)
    assert select_primary_metric(truth) == "OKS_AP"

    truth["head_size"][1] = 40.0

    assert select_primary_metric(truth) == "PCKh_0.5"


def test_pose_score_is_the_mean_of_confident_keypoints():
    predictions = KeypointPredictions(
        torch.arange(3),
        torch.zeros(3, 3, 2),
        torch.tensor([[0.5, 0.25, 0.125], [0.125, 0.0, 0.125], [1.0, 0.5, 0.75]]),
    )

    assert compute_pose_scores(predictions).tolist() == [0.375, 0.0, 0.75]


def test_predictions_are_converted_to_coco_results():
    truth = make_truth(PAW, 8, 5)
    truth["category_id"] = np.array([1, 3])
    predictions = KeypointPredictions(
        torch.tensor([5, 8]),
        torch.tensor([[[1.5, 2.0], [3.0, 4.5]], [[5.0, 6.0], [7.0, 8.0]]]),
        torch.tensor([[0.5, 0.25], [0.125, 0.75]]),
    )

    assert to_coco_results(predictions, truth) == [
        {
            "image_id": 105,
            "category_id": 3,
            "keypoints": [1.5, 2.0, 0.5, 3.0, 4.5, 0.25],
            "score": 0.375,
        },
        {
            "image_id": 108,
            "category_id": 1,
            "keypoints": [5.0, 6.0, 0.125, 7.0, 8.0, 0.75],
            "score": 0.75,
        },
    ]


def test_labels_are_converted_to_coco_ground_truth():
    truth = make_truth(PAW, 0, 5)
    truth["image_id"][:] = 7
    truth["visible"][1, 0] = False
    truth["image_xy"][1] = [[0.0, 0.0], [60.0, 70.5]]

    document = to_coco_ground_truth(truth)

    assert document["images"] == [{"id": 7}]
    assert document["categories"] == [{"id": 1}]
    assert document["annotations"][1] == {
        "id": 5,
        "image_id": 7,
        "category_id": 1,
        "bbox": [30.0, 40.0, 200.0, 100.0],
        "area": 20_000.0,
        "iscrowd": 0,
        "keypoints": [0.0, 0.0, 0.0, 60.0, 70.5, 2.0],
        "num_keypoints": 1,
    }


def test_other_sigma_sets_are_reported_in_addition():
    strict = replace(PAW, oks_sigmas=(0.1, 0.1), other_oks_sigmas={"strict": (0.001, 0.001)})
    truth = make_truth(PAW, 0, 1)
    predictions = make_perfect_predictions(truth)
    predictions.image_xy[..., 0] += 5.0

    scores = compute_validation_metrics(predictions, truth, strict)

    assert scores.primary_value == pytest.approx(1.0, abs=1e-9)
    assert scores.summary["OKS_AP_strict"] == 0.0
