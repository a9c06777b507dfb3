from dataclasses import replace

import numpy as np
import pytest

from hrnet_ray.data.synthetic import people, tigers
from hrnet_ray.reports.dataset.left_right_swaps import (
    check_skeleton_pairs,
    detect_swaps,
    estimate_left_right_model,
    get_left_right_pairs,
)
from hrnet_ray.skeletons import ATRW, MPII, Skeleton

Poses = tuple[np.ndarray, np.ndarray]
SWAPPED_FRACTION = 0.05  # of the poses


def sample_people_poses(count: int, seed: int = 1) -> Poses:
    """People from the front and from behind, most keypoints visible."""
    rng = np.random.default_rng(seed)
    sampled = [replace(people.sample_person(rng), height_px=200.0) for _ in range(count)]
    return np.array([people.compute_person_keypoints(p) for p in sampled]), rng.uniform(size=(count, 16)) < 0.95


def sample_tiger_poses(count: int, seed: int = 1) -> Poses:
    """Tigers that walk to either side, most keypoints visible."""
    rng = np.random.default_rng(seed)
    sampled = [replace(tigers.sample_tiger(rng), body_length_px=120.0) for _ in range(count)]
    return np.array([tigers.compute_tiger_keypoints(t) for t in sampled]), rng.uniform(size=(count, 15)) < 0.9


def swap_some_pairs(poses: Poses, skeleton: Skeleton, only: tuple[str, ...] = ()) -> tuple[Poses, np.ndarray]:
    """Swap one pair in some poses; returns the poses, and the swapped pairs: bool [N, P]."""
    (xy, visible), pairs = poses, get_left_right_pairs(skeleton)
    xy, rng = xy.copy(), np.random.default_rng(7)
    is_allowed = [not only or skeleton.keypoints[left] in only for left, _ in pairs]
    truth = np.zeros((len(xy), len(pairs)), bool)
    for row in np.flatnonzero(rng.uniform(size=len(xy)) < SWAPPED_FRACTION):
        candidates = np.flatnonzero(np.all(visible[row, pairs], axis=-1) & is_allowed)
        if len(candidates):
            pair = rng.choice(candidates)
            truth[row, pair] = True
            xy[row, pairs[pair]] = xy[row, pairs[pair, ::-1]]
    return (xy, visible), truth


def find_swaps(poses: Poses, skeleton: Skeleton) -> np.ndarray:
    return detect_swaps(estimate_left_right_model(*poses, skeleton), *poses)[0]


DECIDABLE = ("left_ear", "left_shoulder", "left_hip")
"""Decidable pairs of a tiger from the side; its paws step freely, and the knees follow them."""


@pytest.mark.parametrize(
    ("skeleton", "poses", "only"),
    [
        pytest.param(MPII, sample_people_poses(800), (), id="people"),
        pytest.param(ATRW, sample_tiger_poses(1500), DECIDABLE, id="tigers"),
        pytest.param(ATRW, sample_tiger_poses(600, seed=2), DECIDABLE, id="fewer tigers"),
    ],
)
def test_swapped_pairs_are_found_and_no_others(skeleton: Skeleton, poses: Poses, only: tuple[str, ...]):
    untouched = find_swaps(poses, skeleton)
    changed, truth = swap_some_pairs(poses, skeleton, only)
    swapped = find_swaps(changed, skeleton)

    recall = (swapped & truth).sum() / truth.sum()
    false_positives = [untouched.any(1).mean(), (swapped & ~truth).any(1).mean()]
    print(
        f"{skeleton.name}: {recall:.0%} of {truth.sum()} swapped; poses with false positives: ",
        end="",
    )
    print(f"{false_positives[0]:.2%} untouched, {false_positives[1]:.2%} beside swapped ones")
    assert truth.sum() > 25
    assert recall >= 0.8
    assert false_positives[0] <= 0.01
    assert false_positives[1] <= 0.02


def test_tigers_with_all_pairs_swapped_are_found():
    xy, visible = sample_tiger_poses(1500)
    is_swapped = np.random.default_rng(7).uniform(size=len(xy)) < SWAPPED_FRACTION
    xy[is_swapped] = xy[is_swapped][:, list(ATRW.flip_order)]
    visible[is_swapped] = visible[is_swapped][:, list(ATRW.flip_order)]

    swapped = find_swaps((xy, visible), ATRW)

    most = swapped.sum(1) >= 0.5 * np.all(visible[:, get_left_right_pairs(ATRW)], axis=-1).sum(1)
    recall, false_positives = most[is_swapped].mean(), most[~is_swapped].mean()
    print(f"{recall:.0%} of {is_swapped.sum()} swapped, {false_positives:.2%} false positives")
    assert recall > 0.5
    assert false_positives < 0.01


def test_rotation_zoom_and_mirroring_do_not_change_the_log_odds():
    xy, visible = sample_people_poses(300)
    model = estimate_left_right_model(xy, visible, MPII)
    rotation = 3.0 * np.array([[0.8, -0.6], [0.6, 0.8]])
    flip_order = list(MPII.flip_order)

    _, odds = detect_swaps(model, xy, visible)
    _, rotated = detect_swaps(model, xy @ rotation + (40, -9), visible)
    _, mirrored = detect_swaps(model, (xy * (-1, 1))[:, flip_order], visible[:, flip_order])

    np.testing.assert_allclose(rotated, odds, atol=1e-6)
    np.testing.assert_allclose(mirrored, odds, atol=1e-6)


def test_random_poses_have_hardly_any_swaps():
    rng = np.random.default_rng(3)
    xy, visible = rng.normal(size=(400, 16, 2)), np.ones((400, 16), bool)
    model = estimate_left_right_model(xy, visible, MPII)

    swapped, odds = detect_swaps(model, xy, visible)

    assert swapped.any(1).mean() < 0.01
    assert model.is_confident(odds).mean() < 0.05


def test_few_poses_are_not_checked():
    xy, visible = sample_people_poses(49)
    model = estimate_left_right_model(xy, visible, MPII)

    swapped, odds = detect_swaps(model, xy, visible)

    assert not model.is_pair_learned.any()
    assert not swapped.any()
    assert np.isnan(odds).all()


def test_a_skeleton_without_pairs_and_a_split_without_poses_have_no_swaps():
    worm = Skeleton("worm", ("head", "middle", "tail"))
    xy, visible = np.ones((60, 3, 2)), np.ones((60, 3), bool)
    swapped, odds = detect_swaps(estimate_left_right_model(xy, visible, worm), xy, visible)
    none, _ = detect_swaps(estimate_left_right_model(xy, visible, worm), xy[:0], visible[:0])

    assert swapped.shape == odds.shape == (60, 0)
    assert none.shape == (0, 0)
    assert check_skeleton_pairs(xy, visible, worm) == []


def test_degenerate_and_empty_poses_have_no_swaps():
    xy, visible = sample_people_poses(100)
    xy[::10], visible[5::10] = 0.0, False

    swapped, odds = detect_swaps(estimate_left_right_model(xy, visible, MPII), xy, visible)

    assert not swapped[::10].any()
    assert np.isnan(odds[5::10]).all()


def test_names_that_are_swapped_in_all_poses_are_reported():
    xy, visible = sample_people_poses(200)
    knees = [MPII.keypoints.index(name) for name in ("left_knee", "right_knee")]
    renamed = xy.copy()
    renamed[:, knees] = xy[:, knees[::-1]]

    assert check_skeleton_pairs(xy, visible, MPII) == []
    assert check_skeleton_pairs(*sample_tiger_poses(200), ATRW) == []
    warnings = check_skeleton_pairs(renamed, visible, MPII)
    assert len(warnings) == 2  # against the hips, and against the ankles
    assert all("left_knee and right_knee" in line for line in warnings)
    assert all(line.endswith("names of one pair may be swapped in all poses") for line in warnings)


def test_an_asymmetric_pair_is_reported():
    xy, visible = sample_people_poses(200)
    index = MPII.keypoints.index
    xy[:, index("left_wrist")] = xy[:, index("left_hip")]

    assert check_skeleton_pairs(xy, visible, MPII)[-1] == (
        "right_wrist is much farther from the pose centre than left_wrist: they may not be a pair"
    )
