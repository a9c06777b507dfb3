"""A box goes where its pose goes, starts over when it lost it, and leaves another one's alone."""

import numpy as np
import torch

from hrnet_ray.inference.box_tracker import BoxTracker
from hrnet_ray.metrics.predictions import KeypointPredictions

WHOLE = [0.0, 0.0, 319.0, 239.0, 1.0]
FIGURE = np.array([[0, 0], [60, 0], [60, 30], [0, 30], [30, 10]], float)


def found(*poses: tuple[float, float], sure: float = 0.9) -> KeypointPredictions:
    """A figure of 60 x 30 pixels at each place."""
    xy = torch.tensor(np.array([FIGURE + place for place in poses]), dtype=torch.float32)
    return KeypointPredictions(torch.arange(len(poses)), xy, torch.full((len(poses), 5), sure))


def seen(following: BoxTracker, *places: tuple[float, float]) -> None:
    for x, y in places:
        following.update_boxes(found((x, y)))


def test_a_box_tightens_around_its_pose_and_moves_along_with_it():
    following = BoxTracker(np.array([WHOLE]))

    following.update_boxes(found((100, 80)))
    # Halfway from the whole image to the figure with 0.15 * 60 pixels around it.
    np.testing.assert_allclose(following.boxes, [[45.5, 35.5, 198.5, 143.5, 1.0]])

    seen(following, *[(100, 80)] * 12)
    np.testing.assert_allclose(following.boxes, [[91, 71, 78, 48, 1.0]], atol=0.1)

    seen(following, *[(100 + 4.0 * step, 80) for step in range(20)])
    x, y, w, h, score = following.boxes[0]
    assert (round(w), round(h), score) == (78, 48, 1.0)
    assert 176 - 9 - 4.5 < x < 176 - 9  # a step behind: the figure is inside
    assert round(y) == 71


def test_a_lost_pose_is_looked_for_where_it_began():
    following = BoxTracker(np.array([WHOLE]))
    seen(following, (100, 80), (100, 80))

    following.update_boxes(found((100, 80), sure=0.2))

    np.testing.assert_array_equal(following.boxes, [WHOLE])


def test_a_pose_is_lost_with_most_of_its_keypoints_and_doubtful_ones_do_not_count():
    following = BoxTracker(np.array([WHOLE]))
    once = found((100, 80))
    once.image_xy[0, 4] = torch.tensor([5000.0, -5000.0])
    once.scores[0, 4] = 0.1

    following.update_boxes(once)
    np.testing.assert_allclose(following.boxes[0, :4], [45.5, 35.5, 198.5, 143.5])

    once.scores[0, 1:] = 0.1
    following.update_boxes(once)
    np.testing.assert_array_equal(following.boxes, [WHOLE])


def test_of_two_boxes_on_one_animal_the_less_sure_one_starts_over():
    first = np.array([[0, 0, 150, 120, 1.0], [160, 100, 150, 120, 0.5]])
    following = BoxTracker(first)
    both = found((100, 80), (101, 80))
    both.scores[0] = 0.6

    for _ in range(6):
        following.update_boxes(both)

    np.testing.assert_array_equal(following.boxes[0], first[0])
    np.testing.assert_allclose(following.boxes[1], [92, 71, 78, 48, 0.5], atol=3)


def test_poses_that_pass_each_other_keep_their_places():
    following = BoxTracker(np.array([[0, 60, 80, 60, 1.0], [230, 90, 80, 60, 1.0]]))

    for step in range(60):
        following.update_boxes(found((10 + 4.0 * step, 70), (240 - 4.0 * step, 100)))

    np.testing.assert_allclose(following.boxes[:, 0], [241, 0], atol=8)


def test_where_there_is_nothing_to_follow_nothing_is_followed():
    following = BoxTracker(np.zeros((0, 5)))

    following.update_boxes(KeypointPredictions.make_empty(5))

    assert following.boxes.shape == (0, 5)


def test_a_pose_in_one_point_has_a_box_with_an_area():
    following = BoxTracker(np.array([WHOLE]))
    point = found((100, 80))
    point.image_xy[:] = 50.0

    for _ in range(20):
        following.update_boxes(point)

    np.testing.assert_allclose(following.boxes[0, :4], [46, 46, 8, 8], atol=0.01)
