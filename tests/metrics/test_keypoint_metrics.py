"""PCKh, endpoint error and OKS: exact values, additivity, and agreement with pycocotools."""

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


def test_a_distance_equal_to_the_threshold_is_a_hit():
    true_xy = torch.zeros(1, 3, 2)
    predicted_xy = torch.tensor([[[5.0, 0.0], [0.0, 5.001], [3.0, 4.0]]])

    score = pckh(predicted_xy, true_xy, torch.ones(1, 3) > 0, torch.tensor([10.0]))

    assert score.per_keypoint().tolist() == [1.0, 0.0, 1.0]
    assert score.mean() == 2 / 3


def test_hidden_keypoints_do_not_count_and_a_never_visible_one_is_nan():
    predicted_xy = torch.zeros(2, 3, 2)
    true_xy = torch.tensor([[[0.0, 0.0], [99.0, 0.0], [math.nan, 0.0]]] * 2)
    visible = torch.tensor([[True, True, False], [True, False, False]])

    score = pckh(predicted_xy, true_xy, visible, torch.tensor([10.0, 20.0]))

    assert score.visible_count.tolist() == [2.0, 1.0, 0.0]
    assert score.per_keypoint()[:2].tolist() == [1.0, 0.0]
    assert math.isnan(score.per_keypoint()[2])
    assert score.mean() == 2 / 3


def test_pckh_normalizes_each_instance_by_its_head_size():
    predicted_xy = torch.tensor([[[4.0, 0.0]], [[4.0, 0.0]]])

    score = pckh(predicted_xy, torch.zeros(2, 1, 2), torch.ones(2, 1) > 0, torch.tensor([10.0, 5.0]))

    assert score.mean() == 0.5


def test_pelvis_and_thorax_are_excluded_from_the_mean_only():
    predicted_xy, true_xy = torch.zeros(1, 16, 2), torch.zeros(1, 16, 2)
    true_xy[0, 6:8] = 99.0
    visible, head_size = torch.ones(1, 16) > 0, torch.tensor([10.0])

    published = pckh(predicted_xy, true_xy, visible, head_size)
    everything = pckh(predicted_xy, true_xy, visible, head_size, excluded_keypoints=())

    assert published.mean() == 1.0
    assert published.per_keypoint()[6:8].tolist() == [0.0, 0.0]
    assert everything.mean() == 14 / 16


def test_no_keypoint_is_excluded_for_other_skeletons():
    assert pckh(*_make_poses(keypoints=15)).excluded_keypoints == ()


def test_the_sum_of_partial_metrics_equals_the_metric_of_all_rows():
    poses = _make_poses()

    parts = [pckh(*(values[part] for values in poses)) for part in (slice(0, 3), slice(3, 20))]

    assert _are_equal(parts[0] + parts[1], pckh(*poses))
    assert 0 < pckh(*poses).mean() < 1


def test_the_sum_of_pckh_metrics_is_a_pckh_metric():
    one = pckh(*_make_poses())

    assert isinstance(one + one, PCKh)
    assert sum([one, one]).mean() == (one + one).mean()


def test_metrics_of_different_thresholds_cannot_be_added():
    poses = _make_poses()

    with pytest.raises(ValueError, match=r"cannot be added: \(\(\), 0\.5\) and \(\(\), 0\.1\)"):
        pckh(*poses) + pckh(*poses, threshold=0.1)


def test_pckh_is_invariant_to_scale():
    predicted_xy, true_xy, visible, head_size = _make_poses()

    larger = pckh(4 * predicted_xy, 4 * true_xy, visible, 4 * head_size)

    assert _are_equal(larger, pckh(predicted_xy, true_xy, visible, head_size))


def test_pckh_curve_is_nondecreasing_and_bounds_its_auc():
    curve = compute_pckh_curve(*_make_poses())

    means = [score.mean() for score in curve]
    assert means == sorted(means)
    assert len(curve) == 51
    assert means[0] < compute_pckh_auc(curve) < means[-1]


def test_auc_of_a_linear_curve_is_one_half():
    distance = torch.arange(100).add(0.5).div(100).mul(0.5)  # uniform over 0 to 0.5 head sizes
    predicted_xy = torch.stack([distance, torch.zeros(100)], -1)[:, None]

    curve = compute_pckh_curve(predicted_xy, torch.zeros(100, 1, 2), torch.ones(100, 1) > 0, torch.ones(100))

    assert compute_pckh_auc(curve) == pytest.approx(0.5)


def test_endpoint_error_is_an_additive_mean_of_distances():
    predicted_xy = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 1.0], [7.0, 7.0]]])
    true_xy = torch.zeros(2, 2, 2)
    visible = torch.tensor([[True, True], [True, False]])

    error = compute_endpoint_error(predicted_xy, true_xy, visible)

    assert error.per_keypoint().tolist() == [3.0, 0.0]
    assert error.mean() == 2.0
    first, second = (compute_endpoint_error(predicted_xy[i], true_xy[i], visible[i]) for i in ([0], [1]))
    assert _are_equal(first + second, error)


def test_oks_per_keypoint_equals_cocos_formula():
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
def test_coco_metrics_equal_those_of_pycocotools(noise: float):
    truth, results = _make_coco_data(noise=noise)

    metrics = coco_oks_metrics(truth, results, sigmas=SIGMAS)

    np.testing.assert_allclose(list(metrics.values()), _run_pycocotools(truth, results), rtol=0, atol=1e-12)


def test_perfect_predictions_score_one_with_annotation_id_zero():
    truth, results = _make_coco_data(noise=0.0)
    for annotation in truth["annotations"]:
        annotation["id"] -= 1

    metrics = coco_oks_metrics(truth, results, sigmas=SIGMAS)

    assert (metrics["AP"], metrics["AR"]) == (1.0, 1.0)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_atrw_annotation_ids_from_zero_score_as_if_they_began_at_one(noise: float):
    truth, results = _make_atrw_data(noise=noise)
    from_one = copy.deepcopy(truth)
    for annotation in from_one["annotations"]:
        annotation["id"] += 1
    labelled_images = {one["image_id"] for one in truth["annotations"] if one["num_keypoints"]}

    metrics = coco_oks_metrics(truth, results, sigmas=ATRW.scoring_sigmas)
    labelled_metrics = coco_oks_metrics(  # as after `prepare`, which skips instances without keypoints
        {**truth, "annotations": [one for one in truth["annotations"] if one["num_keypoints"]]},
        [one for one in results if one["image_id"] in labelled_images],
        sigmas=ATRW.scoring_sigmas,
    )
    published = _run_pycocotools(from_one, results, sigmas=ATRW.scoring_sigmas)

    assert (truth["annotations"][0]["id"], len(labelled_images)) == (0, 641)
    np.testing.assert_allclose(list(metrics.values()), published, rtol=0, atol=1e-12)
    assert metrics == labelled_metrics == coco_oks_metrics(from_one, results, sigmas=ATRW.scoring_sigmas)
    assert metrics["APM"] == -1.0
    if noise == 0:
        assert (metrics["AP"], metrics["AR"]) == (1.0, 1.0)
        assert _run_pycocotools(truth, results, sigmas=ATRW.scoring_sigmas)[0] < 0.995  # COCO's evaluation loses id 0
    else:
        assert 0.1 < metrics["AP"] < 0.95


def test_coco_metrics_do_not_modify_their_inputs():
    truth, results = _make_coco_data(noise=6.0)
    before = copy.deepcopy((truth, results))

    coco_oks_metrics(truth, results, sigmas=SIGMAS)

    assert (truth, results) == before


def test_coco_metrics_print_nothing(capfd: pytest.CaptureFixture[str]):
    coco_oks_metrics(*_make_coco_data(noise=6.0), sigmas=SIGMAS)

    assert capfd.readouterr() == ("", "")


def test_paths_and_objects_give_the_same_metrics(tmp_path: Path):
    truth, results = _make_coco_data(noise=6.0)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))

    from_paths = coco_oks_metrics(tmp_path / "gt.json", str(tmp_path / "dt.json"), sigmas=SIGMAS)

    assert from_paths == coco_oks_metrics(truth, results, sigmas=SIGMAS)


def test_empty_results_score_zero():
    truth, _ = _make_coco_data(noise=0.0)

    metrics = coco_oks_metrics(truth, [], sigmas=SIGMAS)

    assert (metrics["AP"], metrics["AR"]) == (0.0, 0.0)


def test_missing_keypoint_counts_and_areas_are_computed():
    truth, results = _make_coco_data(noise=6.0)
    expected = coco_oks_metrics(truth, results, sigmas=SIGMAS)
    for annotation in truth["annotations"]:
        for key in ("num_keypoints", "area", "iscrowd"):
            del annotation[key]

    assert coco_oks_metrics(truth, results, sigmas=SIGMAS) == expected


def test_null_fields_and_missing_categories_are_completed():
    truth, results = _make_coco_data(noise=6.0)
    expected = coco_oks_metrics(truth, results, sigmas=SIGMAS)
    del truth["categories"]
    for annotation in truth["annotations"]:
        annotation["num_keypoints"] = annotation["iscrowd"] = None

    assert coco_oks_metrics(truth, results, sigmas=SIGMAS) == expected


def test_an_annotation_without_keypoints_is_refused_by_id():
    truth, results = _make_coco_data(noise=6.0)
    del truth["annotations"][1]["keypoints"]

    with pytest.raises(ValueError, match=r"annotation \d+ has no keypoints"):
        coco_oks_metrics(truth, results, sigmas=SIGMAS)


@pytest.mark.parametrize("noise", [0.0, 6.0])
def test_the_mean_over_oks_thresholds_is_ap(noise: float):
    truth, results = _make_coco_data(noise=noise)

    curve = compute_ap_per_oks_threshold(truth, results, sigmas=SIGMAS)

    metrics = coco_oks_metrics(truth, results, sigmas=SIGMAS)
    values = [value for _, value in curve]
    assert [threshold for threshold, _ in curve] == pytest.approx(np.arange(0.5, 1, 0.05))
    assert sum(values) / 10 == pytest.approx(metrics["AP"])
    assert (values[0], values[5]) == pytest.approx((metrics["AP50"], metrics["AP75"]))


def test_ap_of_an_empty_area_range_is_minus_one():
    truth, results = _make_coco_data(noise=6.0)
    for annotation in truth["annotations"]:
        annotation["area"] = 200.0 * 100.0

    assert coco_oks_metrics(truth, results, sigmas=SIGMAS)["APM"] == -1.0


def test_a_wrong_number_of_sigmas_is_refused():
    truth, results = _make_coco_data(noise=6.0)

    with pytest.raises(ValueError, match="expected 3 OKS sigmas, one per keypoint, got 17"):
        coco_oks_metrics(truth, results, sigmas=(0.1,) * 17)


def test_results_of_unknown_images_are_refused_by_id():
    truth, results = _make_coco_data(noise=6.0)
    results[0]["image_id"] = 404

    with pytest.raises(ValueError, match=r"1 images of the results .*\[404\]"):
        coco_oks_metrics(truth, results, sigmas=SIGMAS)


def _make_poses(keypoints: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    true_xy = torch.rand(20, keypoints, 2, generator=generator) * 200
    predicted_xy = true_xy + torch.randn(20, keypoints, 2, generator=generator) * 10
    visible = torch.rand(20, keypoints, generator=generator) > 0.2
    return predicted_xy, true_xy, visible, torch.rand(20, generator=generator) * 20 + 20


def _are_equal(left: Any, right: Any) -> bool:
    totals_agree = torch.allclose(left.value_sum, right.value_sum, rtol=1e-12)
    return totals_agree and torch.equal(left.visible_count, right.visible_count) and type(left) is type(right)


def _make_coco_data(*, noise: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Make ground truth with two poses in each of 12 images, some without keypoints, and results."""
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
        predicted = points + rng.normal(0, 1, (3, 2)) * noise
        results.append(
            {
                "image_id": number // 2,
                "category_id": 1,
                "score": rng.uniform(0.1, 1),
                "keypoints": np.column_stack([predicted, np.ones(3)]).ravel().tolist(),
            }
        )
    images = [{"id": number, "width": 640, "height": 480} for number in range(12)]
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    return truth, results


def _make_atrw_data(*, noise: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Make data like the test set of the ATRW challenge: 1,032 images of one tiger, ids from 0.

    391 tigers have no keypoints. Boxes are whole images, and visibility is 0 or 2. `noise` is a fraction
    of the image size, scaled by a random factor per tiger.
    """
    rng = np.random.default_rng(3)
    images, annotations, results = [], [], []
    for number in range(1032):
        width, height = rng.integers(110, 1400), rng.integers(100, 1080)
        points = rng.uniform(0, 1, (15, 2)) * (width, height)
        labelled = number * 641 % 1032 < 641  # 641 of them, including the first
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
        std = noise * rng.uniform(0, 1) * math.sqrt(width * height)
        predicted = points + rng.normal(0, 1, (15, 2)) * std
        keypoints = np.column_stack([predicted, np.ones(15)]).ravel().tolist()
        results.append({**pose, "score": rng.uniform(0.2, 1), "keypoints": keypoints})
    categories = [{"id": 1, "name": "tiger"}]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _run_pycocotools(
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
