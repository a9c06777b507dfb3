"""OKS, AP and NMS: agreement with COCO, also with resampled images."""

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
NUM_IMAGES = 14


def make_crowded_images(*, noise: float, categories: int = 1, seed: int = 0) -> tuple[DetectedPoses, dict[str, Any]]:
    """Make 14 images with 1 to 4 instances, some without keypoints, and up to 25 poses with tied scores.

    Images 3 and 4 have no pose. All poses of image 5 are far from the instances.
    """
    rng = np.random.default_rng(seed)
    truth: dict[str, list[Any]] = {name: [] for name in (*_LABELS, "image_index")}
    poses: dict[str, list[Any]] = {name: [] for name in DetectedPoses.__annotations__}
    for image in range(NUM_IMAGES):
        category = 1 + image % categories
        for _ in range(rng.integers(1, 5)):
            side = rng.uniform(40, 160)
            corner = rng.uniform(0, 300, 2)
            points = corner + rng.uniform(0, side, (3, 2))
            visible = (rng.random(3) < 0.7) & (rng.random() < 0.9)
            for name, value in {
                "id": len(truth["id"]),
                "image_id": 900 - image,
                "image_index": image,
                "category_id": category,
                "box_xywh": [*corner, side, side],
                "area": side * side,
                "head_size": np.nan,
                "image_xy": points,
                "visible": visible,
            }.items():
                truth[name].append(value)
            for _ in range(rng.integers(0, 8) * (image not in (3, 4))):
                predicted = points + rng.normal(0, noise, (3, 2)) + 900 * (image == 5)
                for name, value in {
                    "image_index": image,
                    "image_id": 900 - image,
                    "category_id": category,
                    "image_xy": predicted,
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


def compute_coco_metrics(poses: DetectedPoses, truth: dict[str, Any]) -> dict[str, float]:
    numbered = DetectedPoses(**{**vars(poses), "image_id": poses.image_index})
    return coco_oks_metrics(
        to_coco_ground_truth({**truth, "image_id": truth["image_index"]}),
        convert_poses_to_coco_results(numbered),
        sigmas=SIGMAS,
    )


@pytest.mark.parametrize(("noise", "categories"), [(0.0, 1), (5.0, 1), (14.0, 2), (40.0, 3)])
def test_ap_and_ar_equal_coco(noise: float, categories: int):
    poses, truth = make_crowded_images(noise=noise, categories=categories)

    precision, recall = compute_average_precision(match_poses(poses, truth, SIGMAS, num_images=NUM_IMAGES))

    published = compute_coco_metrics(poses, truth)
    assert precision.mean() == pytest.approx(published["AP"], abs=1e-12)
    assert recall.mean() == pytest.approx(published["AR"], abs=1e-12)
    for figure, at in {"50": 0, "75": 5}.items():
        assert precision[at] == pytest.approx(published[f"AP{figure}"], abs=1e-12)
        assert recall[at] == pytest.approx(published[f"AR{figure}"], abs=1e-12)
    assert bool((~truth["visible"].any(1)).any())  # some instances are ignored


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_image_counts_equal_repeated_images(seed: int):
    poses, truth = make_crowded_images(noise=9.0, seed=seed)
    # Break ties: COCO orders equal scores by image, and the repeated images have other ids.
    poses.score[:] += np.linspace(0, 1e-3, len(poses))
    counts = np.bincount(np.random.default_rng(seed).integers(NUM_IMAGES, size=NUM_IMAGES))
    counts = np.pad(counts, (0, NUM_IMAGES - len(counts)))

    weighted = compute_average_precision(match_poses(poses, truth, SIGMAS, num_images=NUM_IMAGES), counts.astype(float))

    repeated = np.repeat(np.arange(NUM_IMAGES), counts)
    repeated_poses, repeated_truth = [], []
    for new_index, image in enumerate(repeated):
        part = poses.select_poses(poses.image_index == image)
        repeated_poses.append({**vars(part), "image_index": np.full(len(part), new_index)})
        rows = {name: column[truth["image_index"] == image] for name, column in truth.items()}
        repeated_truth.append({**rows, "image_index": np.full(len(rows["id"]), new_index)})
    published = compute_coco_metrics(
        DetectedPoses(**{name: np.concatenate([one[name] for one in repeated_poses]) for name in repeated_poses[0]}),
        {name: np.concatenate([one[name] for one in repeated_truth]) for name in repeated_truth[0]},
    )
    assert weighted[0].mean() == pytest.approx(published["AP"], abs=1e-12)
    assert weighted[1].mean() == pytest.approx(published["AR"], abs=1e-12)


def test_a_pose_on_an_ignored_instance_is_neither_true_nor_false_positive():
    poses, truth = _make_single_image(predicted=[[0.0, 0.0], [100.0, 0.0]], true=[[0.0, 0.0], [100.0, 0.0]])
    truth["visible"][1] = False

    matches = match_poses(poses, truth, (0.05,), num_images=1)

    assert matches.true_positive.any(0).tolist() == [True, False]
    assert not matches.false_positive.any()
    assert matches.instance_counts.tolist() == [[1]]


def test_ap_is_zero_without_poses_and_nan_without_instances():
    poses, truth = make_crowded_images(noise=1.0)
    no_matches = match_poses(poses.select_poses(np.zeros(0, int)), truth, SIGMAS, num_images=NUM_IMAGES)

    assert [figures.tolist() for figures in compute_average_precision(no_matches)] == [[0.0] * 10] * 2
    assert np.isnan(compute_average_precision(no_matches, np.zeros(NUM_IMAGES))).all()


def test_oks_matrix_equals_the_formula():
    _, truth = _make_single_image(predicted=[[0.0, 0.0]], true=[[0.0, 0.0]])

    oks = compute_oks_matrix(np.array([[[3.0, 4.0]]]), truth, np.array([0]), (0.1,))

    assert oks.item() == pytest.approx(np.exp(-25 / (0.2**2 * 400 * 2)))


def _make_single_image(
    *, predicted: list[list[float]], true: list[list[float]], area: float = 400.0
) -> tuple[DetectedPoses, dict[str, Any]]:
    """Make poses and instances of one keypoint each, in one image; the first pose has the highest score."""
    count = len(predicted)
    poses = DetectedPoses(
        image_index=np.zeros(count, int),
        image_id=np.zeros(count, int),
        category_id=np.ones(count, int),
        image_xy=np.array(predicted)[:, None],
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


def _compute_oks(distance: float, area: float, sigma: float) -> float:
    return float(np.exp(-(distance**2) / ((2 * sigma) ** 2 * area * 2)))


@pytest.mark.parametrize("case", [1, 2])
def test_nms_removes_poses_above_the_threshold_and_keeps_the_highest_score(case: int):
    area, sigma = 1000.0, 0.05
    distance = 2.0 if case == 1 else 1.0
    poses, _ = _make_single_image(predicted=[[0.0, 0.0], [distance, 0.0], [50.0, 0.0]], true=[[0.0, 0.0]], area=area)
    oks = _compute_oks(distance, area, sigma)

    assert apply_oks_nms(poses, (sigma,), max_oks=oks - 1e-6).tolist() == [True, False, True]
    assert apply_oks_nms(poses, (sigma,), max_oks=oks + 1e-6).tolist() == [True, True, True]


def test_nms_averages_the_areas_of_two_boxes_as_published():
    poses, _ = _make_single_image(predicted=[[0.0, 0.0], [2.0, 0.0]], true=[[0.0, 0.0]])
    poses.area[:] = 500.0, 1500.0
    oks = _compute_oks(2.0, 1000.0, 0.05)

    assert apply_oks_nms(poses, (0.05,), max_oks=oks - 1e-6).tolist() == [True, False]
    assert apply_oks_nms(poses, (0.05,), max_oks=oks + 1e-6).tolist() == [True, True]


def test_nms_does_not_compare_images_or_categories():
    poses, _ = _make_single_image(predicted=[[0.0, 0.0]] * 3, true=[[0.0, 0.0]])
    poses.image_index[1], poses.category_id[2] = 1, 2

    assert apply_oks_nms(poses, (0.05,)).all()
    assert apply_oks_nms(poses, (0.05,), max_oks=1.0).all()


def test_a_removed_pose_removes_no_other():
    """Poses A, B, C overlap only with their neighbors: A removes B, so C stays."""
    poses, _ = _make_single_image(predicted=[[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]], true=[[0.0, 0.0]], area=1000.0)

    assert apply_oks_nms(poses, (0.05,), max_oks=_compute_oks(3.0, 1000.0, 0.05)).tolist() == [
        True,
        False,
        True,
    ]


def test_oks_thresholds_are_those_of_coco():
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
