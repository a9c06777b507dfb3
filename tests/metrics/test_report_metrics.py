"""Evaluation metrics: agreement with validation metrics, and the additional ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hrnet_ray.metrics.bootstrap import compute_bootstrap_samples
from hrnet_ray.metrics.oks import DetectedPoses
from hrnet_ray.metrics.predictions import KeypointPredictions, compute_pose_scores
from hrnet_ray.metrics.report_metrics import (
    EvaluationMetrics,
    compute_evaluation_metrics,
    convert_poses_to_coco_results,
    get_sigma_sets,
)
from hrnet_ray.metrics.validation import compute_validation_metrics
from hrnet_ray.skeletons import ATRW, MPII, Skeleton

Truth = dict[str, np.ndarray]


def make_truth(skeleton: Skeleton, count: int, *, head: float = np.nan) -> Truth:
    """Make `count` instances, two per image, on images of 1,000 px."""
    rng = np.random.default_rng(4)
    corner = rng.uniform(0, 700, (count, 2))
    side = rng.uniform(120, 260, (count, 1))
    points = corner[:, None] + rng.uniform(0, 1, (count, len(skeleton), 2)) * side[:, None]
    return {
        "id": np.arange(count),
        "image_id": np.arange(count) // 2 + 50,
        "image_index": np.arange(count) // 2,
        "category_id": np.ones(count, int),
        "box_xywh": np.concatenate([corner, side, side], 1),
        "area": side[:, 0] ** 2,
        "head_size": np.full(count, head),
        "image_xy": points,
        "visible": rng.random((count, len(skeleton))) < 0.85,
    }


def predict_with_noise(truth: Truth, *, noise: float, seed: int = 0) -> KeypointPredictions:
    rng = np.random.default_rng(seed)
    shape = truth["visible"].shape
    spread = noise * rng.uniform(0.2, 2, (shape[0], 1, 1))
    return KeypointPredictions(
        torch.tensor(truth["id"]),
        torch.tensor(truth["image_xy"] + rng.normal(0, 1, (*shape, 2)) * spread).float(),
        torch.tensor(rng.uniform(0.1, 1, shape)).float(),
    )


def make_poses(predictions: KeypointPredictions, truth: Truth) -> DetectedPoses:
    return DetectedPoses(
        image_index=truth["image_index"],
        image_id=truth["image_id"],
        category_id=truth["category_id"],
        image_xy=predictions.image_xy.double().numpy(),
        keypoint_scores=predictions.scores.double().numpy(),
        score=compute_pose_scores(predictions).double().numpy(),
        area=truth["area"] * 1.5,
    )


def evaluate_poses(
    truth: Truth, predictions: KeypointPredictions, skeleton: Skeleton, **options: Any
) -> EvaluationMetrics:
    num_images = int(truth["image_index"].max()) + 1
    return compute_evaluation_metrics(
        make_poses(predictions, truth), truth, skeleton, num_images=num_images, with_gt_boxes=True, **options
    )


@pytest.mark.parametrize(("skeleton", "head"), [(ATRW, np.nan), (MPII, 30.0)])
def test_evaluation_metrics_equal_validation_metrics(skeleton: Skeleton, head: float):
    truth = make_truth(skeleton, 30, head=head)
    truth["head_size"][3] = np.nan
    predictions = predict_with_noise(truth, noise=6.0)

    metrics = evaluate_poses(truth, predictions, skeleton, nms_oks_threshold=1.0)

    trained = compute_validation_metrics(predictions, truth, skeleton)
    assert metrics.primary_metric == trained.primary_metric
    assert {name: metrics.summary[name] for name in trained.summary} == trained.summary
    values = {name: one.score for name, one in metrics.per_keypoint.items()}
    assert values == trained.per_keypoint


@pytest.mark.parametrize(("skeleton", "head"), [(ATRW, np.nan), (MPII, 30.0)])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_number_of_workers_does_not_change_the_metrics(skeleton: Skeleton, head: float, parts: int):
    truth = make_truth(skeleton, 31, head=head)
    predictions = predict_with_noise(truth, noise=6.0)
    shards = [np.arange(31)[rank::parts] for rank in range(parts)]

    joined = KeypointPredictions.concat_parts(
        KeypointPredictions(predictions.ids[rows], predictions.image_xy[rows], predictions.scores[rows])
        for rows in reversed(shards)
    )

    assert compute_validation_metrics(joined, truth, skeleton) == compute_validation_metrics(
        predictions, truth, skeleton
    )
    whole, joined_metrics = evaluate_poses(truth, predictions, skeleton), evaluate_poses(truth, joined, skeleton)
    assert joined_metrics.summary == whole.summary
    assert joined_metrics.per_keypoint == whole.per_keypoint
    assert joined_metrics.metric_curve == whole.metric_curve
    samples = [
        compute_bootstrap_samples([one.bootstrap_statistic], num_images=16, resamples=20)
        for one in (whole, joined_metrics)
    ]
    np.testing.assert_array_equal(*samples)


@pytest.mark.parametrize(("skeleton", "head"), [(ATRW, np.nan), (MPII, 30.0)])
def test_bootstrap_statistic_equals_the_primary_metric(skeleton: Skeleton, head: float):
    truth = make_truth(skeleton, 30, head=head)
    truth["head_size"][5] = np.nan
    metrics = evaluate_poses(truth, predict_with_noise(truth, noise=7.0), skeleton)

    assert metrics.bootstrap_statistic(np.ones(15)) == pytest.approx(metrics.primary_value, abs=1e-12)
    assert 0.05 < metrics.primary_value < 0.95


def test_every_sigma_set_has_ten_metrics_and_the_first_is_primary():
    truth = make_truth(ATRW, 20)

    metrics = evaluate_poses(truth, predict_with_noise(truth, noise=6.0), ATRW)

    assert list(metrics.oks_by_sigma_set) == ["own", "mmpose"]
    assert all(len(figures) == 10 for figures in metrics.oks_by_sigma_set.values())
    assert metrics.summary["OKS_AP"] == metrics.oks_by_sigma_set["own"]["AP"]
    assert metrics.summary["OKS_AR_mmpose"] == metrics.oks_by_sigma_set["mmpose"]["AR"]
    assert metrics.oks_by_sigma_set["mmpose"]["AP"] > metrics.oks_by_sigma_set["own"]["AP"]
    bare = replace(ATRW, oks_sigmas=None, other_oks_sigmas={})
    assert get_sigma_sets(bare) == {"all_0.05": (0.05,) * 15}


def test_mpii_table_agrees_with_pckh():
    truth = make_truth(MPII, 20, head=30.0)

    metrics = evaluate_poses(truth, predict_with_noise(truth, noise=9.0), MPII)

    assert metrics.mpii_pckh_table is not None
    assert metrics.mpii_pckh_table["Mean"] == pytest.approx(100 * metrics.primary_value)
    legacy = metrics.summary["PCKh_0.11_legacy"]
    assert metrics.mpii_pckh_table["Mean@0.1"] == pytest.approx(100 * legacy)
    assert metrics.metric_curve[0][0] == 0.0
    assert metrics.metric_curve[-1] == (0.5, metrics.primary_value)
    assert metrics.metric_curve[0][1] < metrics.summary["PCKh_AUC"] < metrics.primary_value
    assert metrics.oks_by_sigma_set == {}  # MPII has no OKS sigmas


def test_pck_normalizes_by_the_longer_side_of_each_box():
    truth = make_truth(ATRW, 2)
    truth["visible"][:] = True
    truth["box_xywh"][:, 2:] = [100.0, 40.0], [30.0, 200.0]
    predictions = predict_with_noise(truth, noise=0.0)
    predictions.image_xy[0, :, 0] += 4.9  # within 0.05 of 100
    predictions.image_xy[1, :, 0] += 12.0  # within 0.2 of 200

    summary = evaluate_poses(truth, predictions, ATRW).summary

    assert (summary["PCK_0.05"], summary["PCK_0.2"]) == (0.5, 1.0)
    assert summary["EPE_px"] == pytest.approx((4.9 + 12) / 2, abs=1e-4)


def test_worst_instances_come_first_and_unmeasurable_ones_are_left_out():
    truth = make_truth(MPII, 6, head=40.0)
    truth["visible"][:] = True
    truth["head_size"][4] = np.nan
    predictions = predict_with_noise(truth, noise=0.0)
    predictions.image_xy[2] += 300.0
    predictions.image_xy[5] += 500.0  # as wrong as row 2 by PCKh, and further away
    predictions.image_xy[0, :8] += 300.0

    metrics = evaluate_poses(truth, predictions, MPII)

    assert metrics.indices_worst_first[:3].tolist() == [5, 2, 0]
    assert metrics.per_instance_score[[5, 2, 0, 1]].tolist() == [0.0, 0.0, 8 / 14, 1.0]
    assert np.isnan(metrics.per_instance_score[4])
    assert 4 not in metrics.indices_worst_first


def test_nms_removes_a_duplicate_pose_and_ap_without_nms_is_reported():
    truth = make_truth(ATRW, 8)
    predictions = predict_with_noise(truth, noise=2.0)
    predictions.image_xy[1] = predictions.image_xy[0] + 0.5  # two poses on one tiger
    predictions.scores[1] = predictions.scores[0] * 0.9

    with_nms, without = (evaluate_poses(truth, predictions, ATRW, nms_oks_threshold=most) for most in (0.9, 1.0))

    assert (with_nms.num_nms_dropped, without.num_nms_dropped) == (1, 0)
    assert len(with_nms.poses) == 7
    assert with_nms.summary["OKS_AP_without_nms"] == without.summary["OKS_AP"]
    assert with_nms.summary["OKS_AP"] > without.summary["OKS_AP"]
    assert with_nms.per_keypoint == without.per_keypoint  # each row has its own pose


def test_detected_boxes_are_evaluated_on_matched_pairs():
    truth = make_truth(ATRW, 6)
    truth["visible"][:] = True
    predictions = predict_with_noise(truth, noise=0.5)
    poses = make_poses(predictions, truth).select_poses(np.array([5, 3, 2, 1, 0]))  # none for row 4

    metrics = compute_evaluation_metrics(poses, truth, ATRW, num_images=3, with_gt_boxes=False)

    assert metrics.primary_metric == "OKS_AP"
    assert metrics.summary["instances_matched"] == 5.0
    assert {one.visible_count for one in metrics.per_keypoint.values()} == {5}
    assert metrics.summary["EPE_px"] < 2
    assert metrics.indices_worst_first[0] == 4
    np.testing.assert_array_equal(metrics.nearest_image_xy[3], poses.image_xy[1])


def test_a_missed_instance_has_no_nearest_pose_and_score_zero():
    truth = make_truth(ATRW, 4)
    poses = make_poses(predict_with_noise(truth, noise=0.5), truth).select_poses(np.array([0, 1]))

    metrics = compute_evaluation_metrics(poses, truth, ATRW, num_images=2, with_gt_boxes=False)

    assert np.isnan(metrics.nearest_image_xy[2:]).all()
    assert metrics.per_instance_score[2:].tolist() == [0.0, 0.0]


def test_detected_boxes_use_oks_even_with_head_sizes():
    truth = make_truth(MPII, 4, head=30.0)

    metrics = compute_evaluation_metrics(
        make_poses(predict_with_noise(truth, noise=1.0), truth),
        truth,
        MPII,
        num_images=2,
        with_gt_boxes=False,
    )

    assert metrics.primary_metric == "OKS_AP"
    assert metrics.mpii_pckh_table is None
    assert list(metrics.oks_by_sigma_set) == ["all_0.05"]


def test_zero_poses_score_zero():
    truth = make_truth(ATRW, 4)
    nothing = make_poses(predict_with_noise(truth, noise=1.0), truth).select_poses(np.zeros(0, int))

    metrics = compute_evaluation_metrics(nothing, truth, ATRW, num_images=2, with_gt_boxes=False)

    assert metrics.primary_value == 0.0
    assert np.isnan(metrics.summary["EPE_px"])
    assert metrics.per_keypoint["nose"].visible_count == 0


def test_coco_results_use_the_image_ids_of_the_annotations():
    truth = make_truth(ATRW, 2)
    poses = make_poses(predict_with_noise(truth, noise=1.0), truth)

    results = convert_poses_to_coco_results(poses)

    assert [one["image_id"] for one in results] == [50, 50]
    assert len(results[0]["keypoints"]) == 45
    assert results[0]["keypoints"][2] == poses.keypoint_scores[0, 0]
    assert results[0]["score"] == poses.score[0]
