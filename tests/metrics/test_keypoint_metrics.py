"""PCKh, distances and OKS: by hand, by parts, and against pycocotools."""

import contextlib
import copy
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from hrnet_ray.metrics.keypoint_metrics import (
    PCKh,
    coco_oks_metrics,
    compute_ap_per_oks_threshold,
    compute_endpoint_error,
    compute_oks_per_keypoint,
    compute_pckh_auc,
    compute_pckh_curve,
    pckh,
)
from hrnet_ray.skeletons import ATRW

SIGMAS = (0.05, 0.1, 0.2)


def test_a_distance_of_just_the_threshold_is_a_hit():
    true_xy = torch.zeros(1, 3, 2)
    predicted_xy = torch.tensor([[[5.0, 0.0], [0.0, 5.001], [3.0, 4.0]]])

    score = pckh(predicted_xy, true_xy, torch.ones(1, 3) > 0, torch.tensor([10.0]))

    assert score.per_keypoint().tolist() == [1.0, 0.0, 1.0]
    assert score.mean() == 2 / 3


def test_a_hidden_keypoint_is_not_counted_and_an_unseen_one_is_nan():
    predicted_xy = torch.zeros(2, 3, 2)
    true_xy = torch.tensor([[[0.0, 0.0], [99.0, 0.0], [math.nan, 0.0]]] * 2)
    visible = torch.tensor([[True, True, False], [True, False, False]])

    score = pckh(predicted_xy, true_xy, visible, torch.tensor([10.0, 20.0]))

    assert score.visible_count.tolist() == [2.0, 1.0, 0.0]
    assert score.per_keypoint()[:2].tolist() == [1.0, 0.0]
    assert math.isnan(score.per_keypoint()[2])
    assert score.mean() == 2 / 3


def test_each_instance_is_measured_by_its_own_head():
    predicted_xy = torch.tensor([[[4.0, 0.0]], [[4.0, 0.0]]])

    score = pckh(predicted_xy, torch.zeros(2, 1, 2), torch.ones(2, 1) > 0, torch.tensor([10.0, 5.0]))

    assert score.mean() == 0.5


def test_pelvis_and_thorax_of_sixteen_keypoints_are_left_out_of_the_mean_only():
    predicted_xy, true_xy = torch.zeros(1, 16, 2), torch.zeros(1, 16, 2)
    true_xy[0, 6:8] = 99.0
    visible, head_size = torch.ones(1, 16) > 0, torch.tensor([10.0])

    published = pckh(predicted_xy, true_xy, visible, head_size)
    everything = pckh(predicted_xy, true_xy, visible, head_size, excluded_keypoints=())

    assert published.mean() == 1.0
    assert published.per_keypoint()[6:8].tolist() == [0.0, 0.0]
    assert everything.mean() == 14 / 16


def test_no_keypoint_is_left_out_of_any_other_pose():
    assert pckh(*_poses(keypoints=15)).excluded_keypoints == ()


def test_parts_add_up_to_the_whole():
    poses = _poses()

    parts = [pckh(*(values[part] for values in poses)) for part in (slice(0, 3), slice(3, 20))]

    assert _same(parts[0] + parts[1], pckh(*poses))
    assert 0 < pckh(*poses).mean() < 1


def test_a_sum_of_scores_is_a_score_of_the_same_kind():
    one = pckh(*_poses())

    assert isinstance(one + one, PCKh)
    assert sum([one, one]).mean() == (one + one).mean()


def test_scores_of_different_thresholds_do_not_add():
    poses = _poses()

    with pytest.raises(ValueError, match=r"don't add up: \(\(\), 0\.5\) and \(\(\), 0\.1\)"):
        pckh(*poses) + pckh(*poses, threshold=0.1)


def test_scaling_a_pose_and_its_head_together_changes_nothing():
    predicted_xy, true_xy, visible, head_size = _poses()

    larger = pckh(4 * predicted_xy, 4 * true_xy, visible, 4 * head_size)

    assert _same(larger, pckh(predicted_xy, true_xy, visible, head_size))


def test_the_curve_rises_and_its_area_lies_between_its_ends():
    curve = compute_pckh_curve(*_poses())

    means = [score.mean() for score in curve]
    assert means == sorted(means)
    assert len(curve) == 51
    assert means[0] < compute_pckh_auc(curve) < means[-1]


def test_a_straight_curve_has_half_of_its_area():
    distance = torch.arange(100).add(0.5).div(100).mul(0.5)  # evenly over 0..0.5 head sizes
    predicted_xy = torch.stack([distance, torch.zeros(100)], -1)[:, None]

    curve = compute_pckh_curve(predicted_xy, torch.zeros(100, 1, 2), torch.ones(100, 1) > 0, torch.ones(100))

    assert compute_pckh_auc(curve) == pytest.approx(0.5)


def test_the_end_point_error_is_a_mean_of_distances_that_adds():
    predicted_xy = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 1.0], [7.0, 7.0]]])
    true_xy = torch.zeros(2, 2, 2)
    visible = torch.tensor([[True, True], [True, False]])

    error = compute_endpoint_error(predicted_xy, true_xy, visible)

    assert error.per_keypoint().tolist() == [3.0, 0.0]
    assert error.mean() == 2.0
    first, second = (compute_endpoint_error(predicted_xy[i], true_xy[i], visible[i]) for i in ([0], [1]))
    assert _same(first + second, error)


def test_a_keypoints_similarity_is_the_formula_of_coco():
    area, sigma, distance = 5000.0, 0.1, 12.0
    predicted_xy = torch.tensor([[[distance, 0.0], [0.0, 0.0]]])

    similarity = compute_oks_per_keypoint(
        predicted_xy,
        torch.zeros(1, 2, 2),
        torch.ones(1, 2) > 0,
        torch.tensor([area]),
        sigmas=(sigma, 0.3),
    )

    expected = math.exp(-(distance**2) / ((2 * sigma) ** 2 * area * 2))
    assert similarity.per_keypoint().tolist() == pytest.approx([expected, 1.0])


@pytest.mark.parametrize("noise", [0.0, 6.0, 25.0])
def test_the_ten_figures_equal_those_of_pycocotools(noise: float):
    truth, results = _coco(noise=noise)

    figures = coco_oks_metrics(truth, results, sigmas=SIGMAS)

    np.testing.assert_allclose(list(figures.values()), _pycocotools(truth, results), rtol=0, atol=1e-12)


def test_perfect_predictions_score_one_even_with_annotation_id_zero():
    truth, results = _coco(noise=0.0)
    for annotation in truth["annotations"]:
        annotation["id"] -= 1

    figures = coco_oks_metrics(truth, results, sigmas=SIGMAS)

    assert (figures["AP"], figures["AR"]) == (1.0, 1.0)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_atrw_challenge_scores_as_if_its_ids_began_at_one(noise: float):
    truth, results = _atrw_challenge(noise=noise)
    from_one = copy.deepcopy(truth)
    for annotation in from_one["annotations"]:
        annotation["id"] += 1
    seen = {one["image_id"] for one in truth["annotations"] if one["num_keypoints"]}

    figures = coco_oks_metrics(truth, results, sigmas=ATRW.scoring_sigmas)
    of_labelled = coco_oks_metrics(  # as `prepare` leaves it: no rows of animals without keypoints
        {**truth, "annotations": [one for one in truth["annotations"] if one["num_keypoints"]]},
        [one for one in results if one["image_id"] in seen],
        sigmas=ATRW.scoring_sigmas,
    )
    published = _pycocotools(from_one, results, sigmas=ATRW.scoring_sigmas)

    assert (truth["annotations"][0]["id"], len(seen)) == (0, 641)
    np.testing.assert_allclose(list(figures.values()), published, rtol=0, atol=1e-12)
    assert figures == of_labelled == coco_oks_metrics(from_one, results, sigmas=ATRW.scoring_sigmas)
    assert figures["APM"] == -1.0
    if noise == 0:
        assert (figures["AP"], figures["AR"]) == (1.0, 1.0)
        assert _pycocotools(truth, results, sigmas=ATRW.scoring_sigmas)[0] < 0.995  # the trap
    else:
        assert 0.1 < figures["AP"] < 0.95


def test_the_callers_annotations_and_results_stay_as_they_were():
    truth, results = _coco(noise=6.0)
    before = copy.deepcopy((truth, results))

    coco_oks_metrics(truth, results, sigmas=SIGMAS)

    assert (truth, results) == before


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]):
    coco_oks_metrics(*_coco(noise=6.0), sigmas=SIGMAS)

    assert capfd.readouterr() == ("", "")


def test_paths_and_objects_give_the_same_figures(tmp_path: Path):
    truth, results = _coco(noise=6.0)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))

    from_paths = coco_oks_metrics(tmp_path / "gt.json", str(tmp_path / "dt.json"), sigmas=SIGMAS)

    assert from_paths == coco_oks_metrics(truth, results, sigmas=SIGMAS)


def test_no_results_score_zero():
    truth, _ = _coco(noise=0.0)

    figures = coco_oks_metrics(truth, [], sigmas=SIGMAS)

    assert (figures["AP"], figures["AR"]) == (0.0, 0.0)


def test_missing_counts_and_areas_are_filled_in():
    truth, results = _coco(noise=6.0)
    expected = coco_oks_metrics(truth, results, sigmas=SIGMAS)
    for annotation in truth["annotations"]:
        for key in ("num_keypoints", "area", "iscrowd"):
            del annotation[key]

    assert coco_oks_metrics(truth, results, sigmas=SIGMAS) == expected


def test_null_is_as_good_as_absent_and_categories_are_found():
    truth, results = _coco(noise=6.0)
    expected = coco_oks_metrics(truth, results, sigmas=SIGMAS)
    del truth["categories"]
    for annotation in truth["annotations"]:
        annotation["num_keypoints"] = annotation["iscrowd"] = None

    assert coco_oks_metrics(truth, results, sigmas=SIGMAS) == expected


def test_an_annotation_without_keypoints_is_named():
    truth, results = _coco(noise=6.0)
    del truth["annotations"][1]["keypoints"]

    with pytest.raises(ValueError, match=r"annotation \d+ has no keypoints"):
        coco_oks_metrics(truth, results, sigmas=SIGMAS)


@pytest.mark.parametrize("noise", [0.0, 6.0])
def test_the_curves_mean_is_the_ap(noise: float):
    truth, results = _coco(noise=noise)

    curve = compute_ap_per_oks_threshold(truth, results, sigmas=SIGMAS)

    figures = coco_oks_metrics(truth, results, sigmas=SIGMAS)
    values = [value for _, value in curve]
    assert [threshold for threshold, _ in curve] == pytest.approx(np.arange(0.5, 1, 0.05))
    assert sum(values) / 10 == pytest.approx(figures["AP"])
    assert (values[0], values[5]) == pytest.approx((figures["AP50"], figures["AP75"]))


def test_an_area_range_without_instances_says_minus_one():
    truth, results = _coco(noise=6.0)
    for annotation in truth["annotations"]:
        annotation["area"] = 200.0 * 100.0

    assert coco_oks_metrics(truth, results, sigmas=SIGMAS)["APM"] == -1.0


def test_sigmas_that_are_not_one_per_keypoint_are_refused():
    truth, results = _coco(noise=6.0)

    with pytest.raises(ValueError, match="17 OKS sigmas for poses of 3 keypoints"):
        coco_oks_metrics(truth, results, sigmas=(0.1,) * 17)


def test_results_for_unknown_images_are_named():
    truth, results = _coco(noise=6.0)
    results[0]["image_id"] = 404

    with pytest.raises(ValueError, match=r"1 images of the results .*\[404\]"):
        coco_oks_metrics(truth, results, sigmas=SIGMAS)


def _poses(keypoints: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    true_xy = torch.rand(20, keypoints, 2, generator=chance) * 200
    predicted_xy = true_xy + torch.randn(20, keypoints, 2, generator=chance) * 10
    visible = torch.rand(20, keypoints, generator=chance) > 0.2
    return predicted_xy, true_xy, visible, torch.rand(20, generator=chance) * 20 + 20


def _same(left: Any, right: Any) -> bool:
    totals_agree = torch.allclose(left.value_sum, right.value_sum, rtol=1e-12)
    return totals_agree and torch.equal(left.visible_count, right.visible_count) and type(left) is type(right)


def _coco(*, noise: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two poses in each of 12 images, some without a keypoint, and results."""
    rng = np.random.default_rng(7)
    annotations, results = [], []
    for number in range(24):
        side = rng.uniform(50, 200)
        corner = (number % 2) * 400.0
        points = rng.uniform(0, side, (3, 2)) + corner
        flags = rng.integers(0, 3, 3) * (number % 8 != 5)
        annotations.append(
            {
                "id": number + 1,
                "image_id": number // 2,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [corner, corner, side, side],
                "area": side * side,
                "num_keypoints": int((flags > 0).sum()),
                "keypoints": np.column_stack([points, flags]).ravel().tolist(),
            }
        )
        guess = points + rng.normal(0, 1, (3, 2)) * noise
        results.append(
            {
                "image_id": number // 2,
                "category_id": 1,
                "score": rng.uniform(0.1, 1),
                "keypoints": np.column_stack([guess, np.ones(3)]).ravel().tolist(),
            }
        )
    images = [{"id": number, "width": 640, "height": 480} for number in range(12)]
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    return truth, results


def _atrw_challenge(*, noise: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The challenge's test set in form and size: 1,032 images of one tiger, ids from 0.

    391 of them have no keypoints, boxes are whole images, and no keypoint is merely occluded.
    `noise` is a share of the picture's side, larger for some tigers than for others.
    """
    rng = np.random.default_rng(3)
    images, annotations, results = [], [], []
    for number in range(1032):
        width, height = rng.integers(110, 1400), rng.integers(100, 1080)
        points = rng.uniform(0, 1, (15, 2)) * (width, height)
        labelled = number * 641 % 1032 < 641  # so many, and the first
        flags = 2 * ((rng.random(15) < 0.82) | (np.arange(15) == 14)) * labelled
        pose = {"image_id": number, "category_id": 1}
        xyv = np.column_stack([points * (flags[:, None] > 0), flags])
        images.append({"id": number, "width": int(width), "height": int(height)})
        annotations.append(
            {
                **pose,
                "id": number,
                "iscrowd": 0,
                "bbox": [0, 0, int(width), int(height)],
                "area": int(width * height),
                "num_keypoints": int((flags > 0).sum()),
                "keypoints": xyv.ravel().tolist(),
            }
        )
        spread = noise * rng.uniform(0, 1) * math.sqrt(width * height)
        guess = points + rng.normal(0, 1, (15, 2)) * spread
        keypoints = np.column_stack([guess, np.ones(15)]).ravel().tolist()
        results.append({**pose, "score": rng.uniform(0.2, 1), "keypoints": keypoints})
    categories = [{"id": 1, "name": "tiger"}]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _pycocotools(
    truth: dict[str, Any], results: list[dict[str, Any]], *, sigmas: Sequence[float] = SIGMAS
) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)
