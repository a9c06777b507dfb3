"""BoxTracker: following, resetting and crossing poses."""

import numpy as np
import torch

from hrnet_ray.inference.box_tracker import BoxTracker
from hrnet_ray.metrics.predictions import KeypointPredictions

WHOLE_IMAGE = [0.0, 0.0, 319.0, 239.0, 1.0]
POSE_XY = np.array([[0, 0], [60, 0], [60, 30], [0, 30], [30, 10]], float)


def make_predictions(*poses: tuple[float, float], score: float = 0.9) -> KeypointPredictions:
    """Make one pose of 60 x 30 px at each position."""
    xy = torch.tensor(np.array([POSE_XY + place for place in poses]), dtype=torch.float32)
    return KeypointPredictions(torch.arange(len(poses)), xy, torch.full((len(poses), 5), score))


def update_boxes(tracker: BoxTracker, *places: tuple[float, float]) -> None:
    for x, y in places:
        tracker.update_boxes(make_predictions((x, y)))


def test_a_box_shrinks_to_its_pose_and_follows_it():
    tracker = BoxTracker(np.array([WHOLE_IMAGE]))

    tracker.update_boxes(make_predictions((100, 80)))
    # Halfway between the whole image and the pose with a margin of 0.15 * 60 px.
    np.testing.assert_allclose(tracker.boxes, [[45.5, 35.5, 198.5, 143.5, 1.0]])

    update_boxes(tracker, *[(100, 80)] * 12)
    np.testing.assert_allclose(tracker.boxes, [[91, 71, 78, 48, 1.0]], atol=0.1)

    update_boxes(tracker, *[(100 + 4.0 * step, 80) for step in range(20)])
    x, y, w, h, score = tracker.boxes[0]
    assert (round(w), round(h), score) == (78, 48, 1.0)
    assert 176 - 9 - 4.5 < x < 176 - 9  # one step behind, but the pose is inside
    assert round(y) == 71


def test_a_lost_pose_resets_its_box():
    tracker = BoxTracker(np.array([WHOLE_IMAGE]))
    update_boxes(tracker, (100, 80), (100, 80))

    tracker.update_boxes(make_predictions((100, 80), score=0.2))

    np.testing.assert_array_equal(tracker.boxes, [WHOLE_IMAGE])


def test_keypoints_of_low_score_are_ignored_and_too_few_lose_the_pose():
    tracker = BoxTracker(np.array([WHOLE_IMAGE]))
    once = make_predictions((100, 80))
    once.image_xy[0, 4] = torch.tensor([5000.0, -5000.0])
    once.scores[0, 4] = 0.1

    tracker.update_boxes(once)
    np.testing.assert_allclose(tracker.boxes[0, :4], [45.5, 35.5, 198.5, 143.5])

    once.scores[0, 1:] = 0.1
    tracker.update_boxes(once)
    np.testing.assert_array_equal(tracker.boxes, [WHOLE_IMAGE])


def test_of_two_boxes_on_one_animal_the_lower_score_is_reset():
    first = np.array([[0, 0, 150, 120, 1.0], [160, 100, 150, 120, 0.5]])
    tracker = BoxTracker(first)
    both = make_predictions((100, 80), (101, 80))
    both.scores[0] = 0.6

    for _ in range(6):
        tracker.update_boxes(both)

    np.testing.assert_array_equal(tracker.boxes[0], first[0])
    np.testing.assert_allclose(tracker.boxes[1], [92, 71, 78, 48, 0.5], atol=3)


def test_poses_that_cross_keep_their_indices():
    tracker = BoxTracker(np.array([[0, 60, 80, 60, 1.0], [230, 90, 80, 60, 1.0]]))

    for step in range(60):
        tracker.update_boxes(make_predictions((10 + 4.0 * step, 70), (240 - 4.0 * step, 100)))

    np.testing.assert_allclose(tracker.boxes[:, 0], [241, 0], atol=8)


def test_tracking_without_boxes_returns_no_boxes():
    tracker = BoxTracker(np.zeros((0, 5)))

    tracker.update_boxes(KeypointPredictions.make_empty(5))

    assert tracker.boxes.shape == (0, 5)


def test_a_pose_with_equal_keypoints_has_a_box_with_an_area():
    tracker = BoxTracker(np.array([WHOLE_IMAGE]))
    point = make_predictions((100, 80))
    point.image_xy[:] = 50.0

    for _ in range(20):
        tracker.update_boxes(point)

    np.testing.assert_allclose(tracker.boxes[0, :4], [46, 46, 8, 8], atol=0.01)
