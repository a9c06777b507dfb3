"""What an evaluation says of poses: the same as a training's score, and what goes beyond it."""

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


def truth_of(skeleton: Skeleton, count: int, *, head: float = np.nan) -> Truth:
    """`count` instances, two to an image, on images of 1,000 pixels."""
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


def found_near(truth: Truth, *, noise: float, seed: int = 0) -> KeypointPredictions:
    rng = np.random.default_rng(seed)
    shape = truth["visible"].shape
    spread = noise * rng.uniform(0.2, 2, (shape[0], 1, 1))
    return KeypointPredictions(
        torch.tensor(truth["id"]),
        torch.tensor(truth["image_xy"] + rng.normal(0, 1, (*shape, 2)) * spread).float(),
        torch.tensor(rng.uniform(0.1, 1, shape)).float(),
    )


def poses_of(found: KeypointPredictions, truth: Truth) -> DetectedPoses:
    return DetectedPoses(
        image_index=truth["image_index"],
        image_id=truth["image_id"],
        category_id=truth["category_id"],
        image_xy=found.image_xy.double().numpy(),
        keypoint_scores=found.scores.double().numpy(),
        score=compute_pose_scores(found).double().numpy(),
        area=truth["area"] * 1.5,
    )


def judged(truth: Truth, found: KeypointPredictions, skeleton: Skeleton, **how: Any) -> EvaluationMetrics:
    pictures = int(truth["image_index"].max()) + 1
    return compute_evaluation_metrics(
        poses_of(found, truth), truth, skeleton, num_images=pictures, with_gt_boxes=True, **how
    )


@pytest.mark.parametrize(("skeleton", "head"), [(ATRW, np.nan), (MPII, 30.0)])
def test_the_figures_of_a_training_are_the_same_to_the_last_bit(skeleton: Skeleton, head: float):
    truth = truth_of(skeleton, 30, head=head)
    truth["head_size"][3] = np.nan
    found = found_near(truth, noise=6.0)

    assessment = judged(truth, found, skeleton, nms_oks_threshold=1.0)

    trained = compute_validation_metrics(found, truth, skeleton)
    assert assessment.primary_metric == trained.primary_metric
    assert {name: assessment.summary[name] for name in trained.summary} == trained.summary
    values = {name: one.score for name, one in assessment.per_keypoint.items()}
    assert values == trained.per_keypoint


@pytest.mark.parametrize(("skeleton", "head"), [(ATRW, np.nan), (MPII, 30.0)])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_one_two_and_three_workers_give_identical_figures(skeleton: Skeleton, head: float, parts: int):
    truth = truth_of(skeleton, 31, head=head)
    found = found_near(truth, noise=6.0)
    shares = [np.arange(31)[rank::parts] for rank in range(parts)]

    joined = KeypointPredictions.concat_parts(
        KeypointPredictions(found.ids[rows], found.image_xy[rows], found.scores[rows]) for rows in reversed(shares)
    )

    assert compute_validation_metrics(joined, truth, skeleton) == compute_validation_metrics(found, truth, skeleton)
    whole, again = judged(truth, found, skeleton), judged(truth, joined, skeleton)
    assert again.summary == whole.summary
    assert again.per_keypoint == whole.per_keypoint
    assert again.metric_curve == whole.metric_curve
    draws = [
        compute_bootstrap_samples([one.bootstrap_statistic], num_images=16, resamples=20) for one in (whole, again)
    ]
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize(("skeleton", "head"), [(ATRW, np.nan), (MPII, 30.0)])
def test_what_is_drawn_again_is_the_main_figure(skeleton: Skeleton, head: float):
    truth = truth_of(skeleton, 30, head=head)
    truth["head_size"][5] = np.nan
    assessment = judged(truth, found_near(truth, noise=7.0), skeleton)

    assert assessment.bootstrap_statistic(np.ones(15)) == pytest.approx(assessment.primary_value, abs=1e-12)
    assert 0.05 < assessment.primary_value < 0.95


def test_every_set_of_sigmas_has_ten_figures_and_the_first_decides():
    truth = truth_of(ATRW, 20)

    assessment = judged(truth, found_near(truth, noise=6.0), ATRW)

    assert list(assessment.oks_by_sigma_set) == ["own", "mmpose"]
    assert all(len(figures) == 10 for figures in assessment.oks_by_sigma_set.values())
    assert assessment.summary["OKS_AP"] == assessment.oks_by_sigma_set["own"]["AP"]
    assert assessment.summary["OKS_AR_mmpose"] == assessment.oks_by_sigma_set["mmpose"]["AR"]
    assert assessment.oks_by_sigma_set["mmpose"]["AP"] > assessment.oks_by_sigma_set["own"]["AP"]
    bare = replace(ATRW, oks_sigmas=None, other_oks_sigmas={})
    assert get_sigma_sets(bare) == {"all_0.05": (0.05,) * 15}


def test_the_published_table_stands_beside_pckh():
    truth = truth_of(MPII, 20, head=30.0)

    assessment = judged(truth, found_near(truth, noise=9.0), MPII)

    assert assessment.mpii_pckh_table is not None
    assert assessment.mpii_pckh_table["Mean"] == pytest.approx(100 * assessment.primary_value)
    legacy = assessment.summary["PCKh_0.11_legacy"]
    assert assessment.mpii_pckh_table["Mean@0.1"] == pytest.approx(100 * legacy)
    assert assessment.metric_curve[0][0] == 0.0
    assert assessment.metric_curve[-1] == (0.5, assessment.primary_value)
    assert assessment.metric_curve[0][1] < assessment.summary["PCKh_AUC"] < assessment.primary_value
    assert assessment.oks_by_sigma_set == {}  # MPII brings no sigmas


def test_pck_counts_by_the_longer_side_of_the_box():
    truth = truth_of(ATRW, 2)
    truth["visible"][:] = True
    truth["box_xywh"][:, 2:] = [100.0, 40.0], [30.0, 200.0]
    found = found_near(truth, noise=0.0)
    found.image_xy[0, :, 0] += 4.9  # within 0.05 of 100
    found.image_xy[1, :, 0] += 12.0  # within 0.2 of 200

    summary = judged(truth, found, ATRW).summary

    assert (summary["PCK_0.05"], summary["PCK_0.2"]) == (0.5, 1.0)
    assert summary["EPE_px"] == pytest.approx((4.9 + 12) / 2, abs=1e-4)


def test_the_worst_come_first_and_what_cannot_be_measured_not_at_all():
    truth = truth_of(MPII, 6, head=40.0)
    truth["visible"][:] = True
    truth["head_size"][4] = np.nan
    found = found_near(truth, noise=0.0)
    found.image_xy[2] += 300.0
    found.image_xy[5] += 500.0  # as wrong as row 2 by PCKh, and further away
    found.image_xy[0, :8] += 300.0

    assessment = judged(truth, found, MPII)

    assert assessment.indices_worst_first[:3].tolist() == [5, 2, 0]
    assert assessment.per_instance_score[[5, 2, 0, 1]].tolist() == [0.0, 0.0, 8 / 14, 1.0]
    assert np.isnan(assessment.per_instance_score[4])
    assert 4 not in assessment.indices_worst_first


def test_nms_drops_a_pose_that_jumped_to_its_neighbour_and_says_what_it_was_worth():
    truth = truth_of(ATRW, 8)
    found = found_near(truth, noise=2.0)
    found.image_xy[1] = found.image_xy[0] + 0.5  # two poses on one tiger
    found.scores[1] = found.scores[0] * 0.9

    with_nms, without = (judged(truth, found, ATRW, nms_oks_threshold=most) for most in (0.9, 1.0))

    assert (with_nms.num_nms_dropped, without.num_nms_dropped) == (1, 0)
    assert len(with_nms.poses) == 7
    assert with_nms.summary["OKS_AP_without_nms"] == without.summary["OKS_AP"]
    assert with_nms.summary["OKS_AP"] > without.summary["OKS_AP"]
    assert with_nms.per_keypoint == without.per_keypoint  # each row has its own pose


def test_with_a_detectors_boxes_matched_pairs_are_compared():
    truth = truth_of(ATRW, 6)
    truth["visible"][:] = True
    found = found_near(truth, noise=0.5)
    poses = poses_of(found, truth).select_poses(np.array([5, 3, 2, 1, 0]))  # none for row 4

    assessment = compute_evaluation_metrics(poses, truth, ATRW, num_images=3, with_gt_boxes=False)

    assert assessment.primary_metric == "OKS_AP"
    assert assessment.summary["instances_matched"] == 5.0
    assert {one.visible_count for one in assessment.per_keypoint.values()} == {5}
    assert assessment.summary["EPE_px"] < 2
    assert assessment.indices_worst_first[0] == 4
    np.testing.assert_array_equal(assessment.nearest_image_xy[3], poses.image_xy[1])


def test_a_missed_instance_alone_in_its_picture_has_no_pose():
    truth = truth_of(ATRW, 4)
    poses = poses_of(found_near(truth, noise=0.5), truth).select_poses(np.array([0, 1]))

    assessment = compute_evaluation_metrics(poses, truth, ATRW, num_images=2, with_gt_boxes=False)

    assert np.isnan(assessment.nearest_image_xy[2:]).all()
    assert assessment.per_instance_score[2:].tolist() == [0.0, 0.0]


def test_heads_that_were_measured_do_not_make_a_detectors_poses_a_pckh():
    truth = truth_of(MPII, 4, head=30.0)

    assessment = compute_evaluation_metrics(
        poses_of(found_near(truth, noise=1.0), truth),
        truth,
        MPII,
        num_images=2,
        with_gt_boxes=False,
    )

    assert assessment.primary_metric == "OKS_AP"
    assert assessment.mpii_pckh_table is None
    assert list(assessment.oks_by_sigma_set) == ["all_0.05"]


def test_no_pose_at_all_scores_zero():
    truth = truth_of(ATRW, 4)
    nothing = poses_of(found_near(truth, noise=1.0), truth).select_poses(np.zeros(0, int))

    assessment = compute_evaluation_metrics(nothing, truth, ATRW, num_images=2, with_gt_boxes=False)

    assert assessment.primary_value == 0.0
    assert np.isnan(assessment.summary["EPE_px"])
    assert assessment.per_keypoint["nose"].visible_count == 0


def test_results_name_the_pictures_as_the_annotations_do():
    truth = truth_of(ATRW, 2)
    poses = poses_of(found_near(truth, noise=1.0), truth)

    results = convert_poses_to_coco_results(poses)

    assert [one["image_id"] for one in results] == [50, 50]
    assert len(results[0]["keypoints"]) == 45
    assert results[0]["keypoints"][2] == poses.keypoint_scores[0, 0]
    assert results[0]["score"] == poses.score[0]
