"""Matched poses: endpoint error, PCK and metrics per keypoint."""

import numpy as np
import pytest

from hrnet_ray.metrics.matched_pairs import MatchedPoses
from hrnet_ray.metrics.oks import DetectedPoses
from hrnet_ray.skeletons import Skeleton

TOES = Skeleton(name="toes", keypoints=("left_toe", "right_toe"), oks_sigmas=(0.1, 0.1))


def make_pairs(errors: list[list[float]], *, sides: list[list[float]]) -> MatchedPoses:
    """Make poses of two keypoints with errors in pixels along x; a NaN error hides the keypoint."""
    error_px = np.array(errors)
    count = len(error_px)
    truth = {
        "image_xy": np.full((count, 2, 2), 50.0),
        "visible": np.isfinite(error_px),
        "area": np.full(count, 400.0),
        "box_xywh": np.concatenate([np.zeros((count, 2)), np.array(sides)], 1),
    }
    image_xy = truth["image_xy"] + np.stack([np.nan_to_num(error_px), 0 * np.nan_to_num(error_px)], -1)
    ones = np.ones(count, int)
    poses = DetectedPoses(ones, ones, ones, image_xy, np.ones((count, 2)), np.ones(count), np.ones(count))
    return MatchedPoses.from_poses(poses, truth, np.arange(count), np.arange(count))


def test_pck_normalizes_by_the_longer_side_of_the_box():
    pairs = make_pairs([[5.0, 5.1], [39.0, 41.0]], sides=[[100.0, 40.0], [30.0, 200.0]])

    pck = pairs.compute_box_pck()

    assert pck["PCK_0.05"] == 0.25  # 5 of 100 px; 5.1 of 100, 39 and 41 of 200 are larger
    assert pck["PCK_0.2"] == 0.75
    assert 0.25 < pck["PCK_AUC_0.2"] < 0.75


def test_hidden_keypoints_are_not_compared():
    pairs = make_pairs([[3.0, np.nan], [6.0, 12.0]], sides=[[50.0, 50.0]] * 2)

    assert pairs.compute_epe_px() == 7.0
    scores = pairs.build_keypoint_metrics(TOES, pairs.compute_keypoint_oks(TOES))
    assert scores["right_toe"].score == pytest.approx(np.exp(-(12**2) / 32))
    assert [(one.epe_px, one.visible_count) for one in scores.values()] == [(4.5, 2), (12.0, 1)]


def test_perfect_pairs_have_zero_endpoint_error():
    pairs = make_pairs([[0.0, 0.0]] * 3, sides=[[50.0, 50.0]] * 3)

    assert len(pairs.predicted_image_xy) == 3
    assert pairs.compute_epe_px() == 0.0
