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
STARTED = 0.05  # of the poses get a pair exchanged


def people_poses(count: int, seed: int = 1) -> Poses:
    """People from the front and from behind, most keypoints shown."""
    rng = np.random.default_rng(seed)
    drawn = [replace(people.sample_person(rng), height_px=200.0) for _ in range(count)]
    return np.array([people.compute_person_keypoints(p) for p in drawn]), rng.uniform(
        size=(count, 16)
    ) < 0.95


def tiger_poses(count: int, seed: int = 1) -> Poses:
    """Tigers that walk to either side, most keypoints shown."""
    rng = np.random.default_rng(seed)
    drawn = [replace(tigers.sample_tiger(rng), body_length_px=120.0) for _ in range(count)]
    return np.array([tigers.compute_tiger_keypoints(t) for t in drawn]), rng.uniform(
        size=(count, 15)
    ) < 0.9


def spoilt(
    poses: Poses, skeleton: Skeleton, only: tuple[str, ...] = ()
) -> tuple[Poses, np.ndarray]:
    """Exchange one pair in some poses; returns these, and which pairs: bool [N, P]."""
    (xy, visible), pairs = poses, get_left_right_pairs(skeleton)
    xy, rng = xy.copy(), np.random.default_rng(7)
    allowed = [not only or skeleton.keypoints[left] in only for left, _ in pairs]
    truth = np.zeros((len(xy), len(pairs)), bool)
    for row in np.flatnonzero(rng.uniform(size=len(xy)) < STARTED):
        whole = np.flatnonzero(np.all(visible[row, pairs], axis=-1) & allowed)
        if len(whole):
            pair = rng.choice(whole)
            truth[row, pair] = True
            xy[row, pairs[pair]] = xy[row, pairs[pair, ::-1]]
    return (xy, visible), truth


def judged(poses: Poses, skeleton: Skeleton) -> np.ndarray:
    return detect_swaps(estimate_left_right_model(*poses, skeleton), *poses)[0]


TOLD = ("left_ear", "left_shoulder", "left_hip")
"""Of a tiger seen from the side; its paws step freely, and knees follow them."""


@pytest.mark.parametrize(
    ("skeleton", "poses", "only"),
    [
        pytest.param(MPII, people_poses(800), (), id="people"),
        pytest.param(ATRW, tiger_poses(1500), TOLD, id="tigers"),
        pytest.param(ATRW, tiger_poses(600, seed=2), TOLD, id="fewer tigers"),
    ],
)
def test_exchanged_pairs_are_found_and_others_left_alone(
    skeleton: Skeleton, poses: Poses, only: tuple[str, ...]
):
    untouched = judged(poses, skeleton)
    changed, truth = spoilt(poses, skeleton, only)
    found = judged(changed, skeleton)

    recall = (found & truth).sum() / truth.sum()
    accused = [untouched.any(1).mean(), (found & ~truth).any(1).mean()]
    print(f"{skeleton.name}: {recall:.0%} of {truth.sum()} found; wrongly accused poses: ", end="")
    print(f"{accused[0]:.2%} untouched, {accused[1]:.2%} beside exchanged ones")
    assert truth.sum() > 25
    assert recall >= 0.8
    assert accused[0] <= 0.01
    assert accused[1] <= 0.02


def test_tigers_with_all_pairs_exchanged_are_found():
    xy, visible = tiger_poses(1500)
    turned = np.random.default_rng(7).uniform(size=len(xy)) < STARTED
    xy[turned] = xy[turned][:, list(ATRW.flip_order)]
    visible[turned] = visible[turned][:, list(ATRW.flip_order)]

    found = judged((xy, visible), ATRW)

    most = found.sum(1) >= 0.5 * np.all(visible[:, get_left_right_pairs(ATRW)], axis=-1).sum(1)
    print(f"{most[turned].mean():.0%} of {turned.sum()} found, {most[~turned].mean():.2%} wrongly")
    assert most[turned].mean() > 0.5
    assert most[~turned].mean() < 0.01


def test_a_turned_a_zoomed_and_a_mirrored_pose_is_judged_alike():
    xy, visible = people_poses(300)
    sides = estimate_left_right_model(xy, visible, MPII)
    turn = 3.0 * np.array([[0.8, -0.6], [0.6, 0.8]])
    flip_order = list(MPII.flip_order)

    _, odds = detect_swaps(sides, xy, visible)
    _, turned = detect_swaps(sides, xy @ turn + (40, -9), visible)
    _, mirrored = detect_swaps(sides, (xy * (-1, 1))[:, flip_order], visible[:, flip_order])

    np.testing.assert_allclose(turned, odds, atol=1e-6)
    np.testing.assert_allclose(mirrored, odds, atol=1e-6)


def test_sides_without_any_order_accuse_nobody():
    rng = np.random.default_rng(3)
    xy, visible = rng.normal(size=(400, 16, 2)), np.ones((400, 16), bool)
    sides = estimate_left_right_model(xy, visible, MPII)

    found, odds = detect_swaps(sides, xy, visible)

    assert found.any(1).mean() < 0.01
    assert sides.is_confident(odds).mean() < 0.05


def test_a_few_poses_are_not_judged():
    xy, visible = people_poses(49)
    sides = estimate_left_right_model(xy, visible, MPII)

    found, odds = detect_swaps(sides, xy, visible)

    assert not sides.is_pair_learned.any()
    assert not found.any()
    assert np.isnan(odds).all()


def test_a_skeleton_without_sides_and_a_split_without_poses_are_nothing_to_judge():
    worm = Skeleton("worm", ("head", "middle", "tail"))
    xy, visible = np.ones((60, 3, 2)), np.ones((60, 3), bool)
    found, odds = detect_swaps(estimate_left_right_model(xy, visible, worm), xy, visible)
    none, _ = detect_swaps(estimate_left_right_model(xy, visible, worm), xy[:0], visible[:0])

    assert found.shape == odds.shape == (60, 0)
    assert none.shape == (0, 0)
    assert check_skeleton_pairs(xy, visible, worm) == []


def test_poses_without_extent_and_without_points_break_nothing():
    xy, visible = people_poses(100)
    xy[::10], visible[5::10] = 0.0, False

    found, odds = detect_swaps(estimate_left_right_model(xy, visible, MPII), xy, visible)

    assert not found[::10].any()
    assert np.isnan(odds[5::10]).all()


def test_names_that_are_exchanged_throughout_are_doubted():
    xy, visible = people_poses(200)
    knees = [MPII.keypoints.index(name) for name in ("left_knee", "right_knee")]
    renamed = xy.copy()
    renamed[:, knees] = xy[:, knees[::-1]]

    assert check_skeleton_pairs(xy, visible, MPII) == []
    assert check_skeleton_pairs(*tiger_poses(200), ATRW) == []
    said = check_skeleton_pairs(renamed, visible, MPII)
    assert len(said) == 2  # against the hips, and against the ankles
    assert all("left_knee and right_knee" in line for line in said)
    assert all(line.endswith("names of one pair may be exchanged throughout") for line in said)


def test_a_pair_that_is_none_is_doubted():
    xy, visible = people_poses(200)
    place = MPII.keypoints.index
    xy[:, place("left_wrist")] = xy[:, place("left_hip")]

    assert check_skeleton_pairs(xy, visible, MPII)[-1] == (
        "right_wrist lies much farther out than left_wrist: they may be no pair"
    )
