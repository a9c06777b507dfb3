"""OKS in parts is COCO's OKS: on the whole set, and on any set with images drawn again."""

from typing import Any

import numpy as np
import pytest

from hrnet_ray.metrics.keypoint_metrics import coco_oks_metrics
from hrnet_ray.metrics.oks import (
    OKS_THRESHOLDS,
    DetectedPoses,
    apply_oks_nms,
    compute_average_precision,
    compute_oks_matrix,
    match_poses,
)
from hrnet_ray.metrics.report_metrics import convert_poses_to_coco_results
from hrnet_ray.metrics.validation import to_coco_ground_truth

SIGMAS = (0.03, 0.07, 0.05)
PICTURES = 14


def crowded(*, noise: float, categories: int = 1, seed: int = 0) -> tuple[DetectedPoses, dict[str, Any]]:
    """One to four animals an image, some without keypoints; up to 25 poses an image, tied scores.

    Images 3 and 4 have no pose, image 5 only strange ones.
    """
    rng = np.random.default_rng(seed)
    truth: dict[str, list[Any]] = {name: [] for name in (*_LABELS, "image_index")}
    poses: dict[str, list[Any]] = {name: [] for name in DetectedPoses.__annotations__}
    for picture in range(PICTURES):
        category = 1 + picture % categories
        for _ in range(rng.integers(1, 5)):
            side = rng.uniform(40, 160)
            corner = rng.uniform(0, 300, 2)
            points = corner + rng.uniform(0, side, (3, 2))
            visible = (rng.random(3) < 0.7) & (rng.random() < 0.9)
            for name, value in {
                "id": len(truth["id"]),
                "image_id": 900 - picture,
                "image_index": picture,
                "category_id": category,
                "box_xywh": [*corner, side, side],
                "area": side * side,
                "head_size": np.nan,
                "image_xy": points,
                "visible": visible,
            }.items():
                truth[name].append(value)
            for _ in range(rng.integers(0, 8) * (picture not in (3, 4))):
                guess = points + rng.normal(0, noise, (3, 2)) + 900 * (picture == 5)
                for name, value in {
                    "image_index": picture,
                    "image_id": 900 - picture,
                    "category_id": category,
                    "image_xy": guess,
                    "keypoint_scores": np.ones(3),
                    "score": round(rng.uniform(0.1, 1), 1),
                    "area": side * side * 1.5,
                }.items():
                    poses[name].append(value)
    return (
        DetectedPoses(**{name: np.array(values) for name, values in poses.items()}),
        {name: np.array(values) for name, values in truth.items()},
    )


_LABELS = ("id", "image_id", "category_id", "box_xywh", "area", "head_size", "image_xy", "visible")


def coco_figures(poses: DetectedPoses, truth: dict[str, Any]) -> dict[str, float]:
    numbered = DetectedPoses(**{**vars(poses), "image_id": poses.image_index})
    return coco_oks_metrics(
        to_coco_ground_truth({**truth, "image_id": truth["image_index"]}),
        convert_poses_to_coco_results(numbered),
        sigmas=SIGMAS,
    )


@pytest.mark.parametrize(("noise", "categories"), [(0.0, 1), (5.0, 1), (14.0, 2), (40.0, 3)])
def test_on_the_whole_set_ap_and_ar_are_those_of_coco(noise: float, categories: int):
    poses, truth = crowded(noise=noise, categories=categories)

    precision, recall = compute_average_precision(match_poses(poses, truth, SIGMAS, num_images=PICTURES))

    published = coco_figures(poses, truth)
    assert precision.mean() == pytest.approx(published["AP"], abs=1e-12)
    assert recall.mean() == pytest.approx(published["AR"], abs=1e-12)
    for figure, at in {"50": 0, "75": 5}.items():
        assert precision[at] == pytest.approx(published[f"AP{figure}"], abs=1e-12)
        assert recall[at] == pytest.approx(published[f"AR{figure}"], abs=1e-12)
    assert bool((~truth["visible"].any(1)).any())  # some do not count


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pictures_that_count_twice_score_as_a_set_that_holds_them_twice(seed: int):
    poses, truth = crowded(noise=9.0, seed=seed)
    # Without ties: COCO sorts equals by their images, of which the larger set has others.
    poses.score[:] += np.linspace(0, 1e-3, len(poses))
    times = np.bincount(np.random.default_rng(seed).integers(PICTURES, size=PICTURES))
    times = np.pad(times, (0, PICTURES - len(times)))

    weighed = compute_average_precision(match_poses(poses, truth, SIGMAS, num_images=PICTURES), times.astype(float))

    drawn = np.repeat(np.arange(PICTURES), times)
    many, much = [], []
    for place, picture in enumerate(drawn):
        part = poses.select_poses(poses.image_index == picture)
        many.append({**vars(part), "image_index": np.full(len(part), place)})
        rows = {name: column[truth["image_index"] == picture] for name, column in truth.items()}
        much.append({**rows, "image_index": np.full(len(rows["id"]), place)})
    published = coco_figures(
        DetectedPoses(**{name: np.concatenate([one[name] for one in many]) for name in many[0]}),
        {name: np.concatenate([one[name] for one in much]) for name in much[0]},
    )
    assert weighed[0].mean() == pytest.approx(published["AP"], abs=1e-12)
    assert weighed[1].mean() == pytest.approx(published["AR"], abs=1e-12)


def test_a_pose_of_an_instance_that_does_not_count_is_neither_hit_nor_miss():
    poses, truth = _two(found=[[0.0, 0.0], [100.0, 0.0]], true=[[0.0, 0.0], [100.0, 0.0]])
    truth["visible"][1] = False

    matches = match_poses(poses, truth, (0.05,), num_images=1)

    assert matches.true_positive.any(0).tolist() == [True, False]
    assert not matches.false_positive.any()
    assert matches.instance_counts.tolist() == [[1]]


def test_no_pose_at_all_scores_zero_and_no_instance_at_all_no_number():
    poses, truth = crowded(noise=1.0)
    nothing = match_poses(poses.select_poses(np.zeros(0, int)), truth, SIGMAS, num_images=PICTURES)

    assert [figures.tolist() for figures in compute_average_precision(nothing)] == [[0.0] * 10] * 2
    assert np.isnan(compute_average_precision(nothing, np.zeros(PICTURES))).all()


def test_similarity_is_the_formula():
    _, truth = _two(found=[[0.0, 0.0]], true=[[0.0, 0.0]])

    alike = compute_oks_matrix(np.array([[[3.0, 4.0]]]), truth, np.array([0]), (0.1,))

    assert alike.item() == pytest.approx(np.exp(-25 / (0.2**2 * 400 * 2)))


def _two(
    *, found: list[list[float]], true: list[list[float]], area: float = 400.0
) -> tuple[DetectedPoses, dict[str, Any]]:
    """Poses and instances of one keypoint each, in one image; the first pose is the surest."""
    count = len(found)
    poses = DetectedPoses(
        image_index=np.zeros(count, int),
        image_id=np.zeros(count, int),
        category_id=np.ones(count, int),
        image_xy=np.array(found)[:, None],
        keypoint_scores=np.ones((count, 1)),
        score=np.linspace(0.9, 0.1, count),
        area=np.full(count, area),
    )
    boxes = np.column_stack([np.array(true) - 10, np.full((len(true), 2), 20.0)])
    truth = {
        "image_index": np.zeros(len(true), int),
        "category_id": np.ones(len(true), int),
        "image_xy": np.array(true)[:, None],
        "visible": np.ones((len(true), 1), bool),
        "area": np.full(len(true), 400.0),
        "box_xywh": boxes,
    }
    return poses, truth


def _oks(distance: float, area: float, sigma: float) -> float:
    return float(np.exp(-(distance**2) / ((2 * sigma) ** 2 * area * 2)))


@pytest.mark.parametrize("place", [1, 2])
def test_nms_drops_what_is_more_alike_than_the_threshold_and_keeps_the_surest(place: int):
    area, sigma = 1000.0, 0.05
    away = 2.0 if place == 1 else 1.0
    poses, _ = _two(found=[[0.0, 0.0], [away, 0.0], [50.0, 0.0]], true=[[0.0, 0.0]], area=area)
    alike = _oks(away, area, sigma)

    assert apply_oks_nms(poses, (sigma,), max_oks=alike - 1e-6).tolist() == [True, False, True]
    assert apply_oks_nms(poses, (sigma,), max_oks=alike + 1e-6).tolist() == [True, True, True]


def test_nms_averages_the_areas_of_two_boxes_as_published():
    poses, _ = _two(found=[[0.0, 0.0], [2.0, 0.0]], true=[[0.0, 0.0]])
    poses.area[:] = 500.0, 1500.0
    alike = _oks(2.0, 1000.0, 0.05)

    assert apply_oks_nms(poses, (0.05,), max_oks=alike - 1e-6).tolist() == [True, False]
    assert apply_oks_nms(poses, (0.05,), max_oks=alike + 1e-6).tolist() == [True, True]


def test_nms_lets_other_pictures_and_categories_alone():
    poses, _ = _two(found=[[0.0, 0.0]] * 3, true=[[0.0, 0.0]])
    poses.image_index[1], poses.category_id[2] = 1, 2

    assert apply_oks_nms(poses, (0.05,)).all()
    assert apply_oks_nms(poses, (0.05,), max_oks=1.0).all()


def test_a_pose_that_was_dropped_drops_no_other():
    """A, B, C in a row, each like its neighbour: A drops B, so C stays."""
    poses, _ = _two(found=[[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]], true=[[0.0, 0.0]], area=1000.0)

    assert apply_oks_nms(poses, (0.05,), max_oks=_oks(3.0, 1000.0, 0.05)).tolist() == [
        True,
        False,
        True,
    ]


def test_thresholds_are_those_of_coco():
    assert OKS_THRESHOLDS.round(2).tolist() == [
        0.5,
        0.55,
        0.6,
        0.65,
        0.7,
        0.75,
        0.8,
        0.85,
        0.9,
        0.95,
    ]
