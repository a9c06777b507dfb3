"""Poses beside their instances: distances in pixels, in boxes, and keypoint by keypoint."""

import numpy as np
import pytest

from hrnet_ray.metrics.matched_pairs import MatchedPoses
from hrnet_ray.metrics.oks import DetectedPoses
from hrnet_ray.skeletons import Skeleton

TOES = Skeleton(name="toes", keypoints=("left_toe", "right_toe"), oks_sigmas=(0.1, 0.1))


def pairs_of(errors: list[list[float]], *, sides: list[list[float]]) -> MatchedPoses:
    """Two keypoints a pose, each so many pixels to the right of its truth; NaN for a hidden one."""
    away = np.array(errors)
    count = len(away)
    truth = {
        "image_xy": np.full((count, 2, 2), 50.0),
        "visible": np.isfinite(away),
        "area": np.full(count, 400.0),
        "box_xywh": np.concatenate([np.zeros((count, 2)), np.array(sides)], 1),
    }
    image_xy = truth["image_xy"] + np.stack([np.nan_to_num(away), 0 * np.nan_to_num(away)], -1)
    one = np.ones(count, int)
    poses = DetectedPoses(one, one, one, image_xy, np.ones((count, 2)), np.ones(count), np.ones(count))
    return MatchedPoses.from_poses(poses, truth, np.arange(count), np.arange(count))


def test_pck_measures_by_the_longer_side_of_the_box():
    pairs = pairs_of([[5.0, 5.1], [39.0, 41.0]], sides=[[100.0, 40.0], [30.0, 200.0]])

    shares = pairs.compute_box_pck()

    assert shares["PCK_0.05"] == 0.25  # 5 of 100; 5.1, 39 and 41 of 200 are more
    assert shares["PCK_0.2"] == 0.75
    assert 0.25 < shares["PCK_AUC_0.2"] < 0.75


def test_hidden_keypoints_are_not_compared():
    pairs = pairs_of([[3.0, np.nan], [6.0, 12.0]], sides=[[50.0, 50.0]] * 2)

    assert pairs.compute_epe_px() == 7.0
    scores = pairs.build_keypoint_metrics(TOES, pairs.compute_keypoint_oks(TOES))
    assert scores["right_toe"].score == pytest.approx(np.exp(-(12**2) / 32))
    assert [(one.epe_px, one.visible_count) for one in scores.values()] == [(4.5, 2), (12.0, 1)]


def test_a_pose_may_be_compared_with_any_instance():
    pairs = pairs_of([[0.0, 0.0]] * 3, sides=[[50.0, 50.0]] * 3)

    assert len(pairs.predicted_image_xy) == 3
    assert pairs.compute_epe_px() == 0.0
