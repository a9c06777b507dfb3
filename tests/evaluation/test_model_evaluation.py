"""Evaluations: metrics, text report, JSON, plots and page."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.data.records import get_label_columns
from hrnet_ray.errors import DataError
from hrnet_ray.evaluation.model_evaluation import EvaluationResult, EvaluationSpec, evaluate_model
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.metrics.validation import compute_validation_metrics
from hrnet_ray.reports.evaluation.evaluation_page import render_page
from hrnet_ray.reports.evaluation.figures import plot_metric_curve, write_plots
from hrnet_ray.reports.evaluation.formatting import format_report, to_json_dict
from hrnet_ray.skeletons import MPII
from tests.evaluation.evaluated_models import (
    EASY,
    corrupt_rows,
    make_eval_model,
    write_people,
    write_tigers,
)

QUICK = EvaluationSpec(resamples=40)
BLUE, ORANGE = (0x2D, 0x6E, 0xC8), (0xC8, 0x50, 0x2D)


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_tigers(tmp_path_factory.mktemp("tigers"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def tiger_result(tigers: DatasetManifest) -> EvaluationResult:
    return evaluate_model(tigers, QUICK, make_eval_model(EASY), make_eval_model(EASY, seed=1))


@pytest.fixture(scope="module")
def people_result(people: DatasetManifest) -> EvaluationResult:
    return evaluate_model(people, QUICK, make_eval_model(MPII))


def test_metrics_equal_the_validation_metrics_of_the_same_rows(tigers: DatasetManifest):
    model = make_eval_model(EASY)

    evaluation = evaluate_model(tigers, replace(QUICK, nms_oks=1.0), model)

    table = read_split(tigers, "val")
    validation = compute_validation_metrics(
        Predictor(model.model, model.spec).predict_table(table), get_label_columns(table), EASY
    )
    summary = evaluation.model_evaluation.metrics.summary
    assert 0 < validation.primary_value < 1
    assert {name: summary[name] for name in validation.summary} == pytest.approx(validation.summary, abs=1e-4)


def test_the_interval_contains_the_metric_and_is_reproducible(tigers: DatasetManifest, tiger_result: EvaluationResult):
    result = tiger_result.model_evaluation

    again = evaluate_model(tigers, QUICK, make_eval_model(EASY))

    assert result.interval.low <= result.metrics.primary_value <= result.interval.high
    assert result.interval.low < result.interval.high
    assert again.model_evaluation.interval == result.interval
    assert again.model_evaluation.metrics.summary == result.metrics.summary


def test_a_model_compared_with_itself_is_not_significant(tigers: DatasetManifest):
    evaluation = evaluate_model(tigers, QUICK, make_eval_model(EASY), make_eval_model(EASY))

    assert evaluation.comparison is not None
    assert evaluation.comparison.difference == 0.0
    assert (evaluation.comparison.interval.low, evaluation.comparison.interval.high) == (0.0, 0.0)
    assert "within noise: these images do not separate the two models" in format_report(evaluation)


def test_the_report_states_the_difference_and_its_interval(tiger_result: EvaluationResult):
    comparison = tiger_result.comparison
    assert comparison is not None

    report = format_report(tiger_result)

    values = [one.metrics.primary_value for one in (tiger_result.model_evaluation, comparison.baseline)]
    assert comparison.difference == values[0] - values[1]
    low, high = comparison.interval.low, comparison.interval.high
    assert (
        f"compared to net 1 (decode quarter, flip test on, OKS-NMS 0.9 "
        f"({comparison.baseline.metrics.num_nms_dropped} of {len(tiger_result.ground_truth)} poses dropped), "
        "score = box score x mean of keypoint scores above 0.2):\n"
        f"OKS_AP {values[1]:.4f}, difference {comparison.difference:+.4f}, "
        f"95 % interval {low:+.4f} to {high:+.4f}\n"
    ) in report
    assert ("beyond noise: net 0 is" in report) is (low > 0 or high < 0)


def test_the_report_states_rows_boxes_and_decoding(tiger_result: EvaluationResult):
    lines = format_report(tiger_result).splitlines()

    count = len(tiger_result.ground_truth)
    assert lines[0].startswith(f"tigers val: {count} read = {count} used + 0 skipped, in 8 images; version ")
    assert lines[1] == "boxes: ground truth"
    assert lines[2].startswith("net 0: decode quarter, flip test on, OKS-NMS 0.9 (")
    assert lines[4].split() == [
        "OKS",
        "sigmas",
        "AP",
        "AP50",
        "AP75",
        "APM",
        "APL",
        "AR",
        "AR50",
        "AR75",
        "ARM",
        "ARL",
    ]
    assert [line.split()[0] for line in lines[5:7]] == ["own", "easier"]
    assert "(40 resamples of 8 images)" in format_report(tiger_result)


def test_the_report_of_people_has_the_mpii_table(people_result: EvaluationResult):
    report = format_report(people_result)

    header = next(line for line in report.splitlines() if line.startswith("| "))
    assert [word for word in header.split() if word != "|"] == [
        *("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "Mean", "Mean@0.1"),
    ]
    published = people_result.model_evaluation.metrics.mpii_pckh_table
    assert published is not None
    assert f"{published['Mean']:.3f}" in report
    assert "OKS" not in report
    assert "PCKh_0.5 " in report
    assert "in 4 images" in report


def test_the_report_states_used_and_skipped_detections(tigers: DatasetManifest, tmp_path: Path):
    file = tmp_path / "boxes.json"
    box = {"category_id": 1, "bbox": [5, 5, 70, 60], "score": 0.8}
    first = int(get_label_columns(read_split(tigers, "val"))["image_id"].min())
    unusable = [{**box, "image_id": 999}, {**box, "image_id": first, "category_id": 3}]
    file.write_text(json.dumps([{**box, "image_id": first}, *unusable]))

    evaluation = evaluate_model(tigers, replace(QUICK, detections_path=file), make_eval_model(EASY))

    report = format_report(evaluation)
    assert (f"boxes: detections from {file}: 3 read = 1 used + 1 other image + 1 other category") in report
    assert "note: 7 images have no box: their instances count as missed" in report
    assert f"of {len(evaluation.ground_truth)} instances that match at OKS 0.5" in report
    document = to_json_dict(evaluation)
    assert document["boxes"] == {
        "kind": "detections",
        "file": str(file),
        "read": 3,
        "used": 1,
        "left_out": {"other image": 1, "other category": 1},
    }
    write_plots(evaluation, tigers, tmp_path / "plots")  # most instances have no pose


def test_corrupt_rows_are_named_and_counted(tmp_path: Path):
    tigers = write_tigers(tmp_path)
    ((row, image),) = corrupt_rows(tigers, 3)

    evaluation = evaluate_model(tigers, QUICK, make_eval_model(EASY))

    used = len(evaluation.ground_truth)
    report = format_report(evaluation)
    assert f"{used + 1} read = {used} used + 1 skipped" in report
    assert f"skipped: {image} #{row}" in report
    assert to_json_dict(evaluation)["skipped"] == [{"id": row, "image": image}]
    assert (evaluation.rows_read, used) == (
        used + 1,
        len(evaluation.model_evaluation.split_poses.poses),
    )


def test_a_model_with_other_keypoints_is_refused(tigers: DatasetManifest):
    with pytest.raises(DataError, match="the model and the data have different keypoints"):
        evaluate_model(tigers, QUICK, make_eval_model(EASY), make_eval_model(MPII))


def test_the_json_document_is_strict_and_its_keys_are_documented(
    tiger_result: EvaluationResult, people_result: EvaluationResult, root: Path
):
    documented = (root / "docs" / "evaluate.md").read_text()
    for evaluation in (tiger_result, people_result):
        document = json.loads(json.dumps(to_json_dict(evaluation), allow_nan=False))
        assert document["format"] == 1
        assert document["value"] == document["summary"][document["main"]]
        assert document["interval"].keys() == {"low", "high", "confidence"}
        for key in (*document, *(document["against"] or ()), *document["summary"]):
            if not key.endswith("_easier"):
                assert f"`{key}`" in documented, key
        keypoint = next(iter(document["per_keypoint"].values()))
        assert keypoint.keys() == {"value", "epe_px", "count"}


def test_the_metric_curve_falls_for_oks_and_rises_for_pckh(
    tmp_path: Path, tiger_result: EvaluationResult, people_result: EvaluationResult
):
    falls = [value for _, value in tiger_result.model_evaluation.metrics.metric_curve]
    rises = [value for _, value in people_result.model_evaluation.metrics.metric_curve]
    assert falls == sorted(falls, reverse=True)
    assert rises == sorted(rises)

    plot_metric_curve(
        tmp_path / "curve.png",
        {"one": [(0.5, 0.9), (0.95, 0.1)], "other": [(0.5, 0.8), (0.95, 0.0)]},
        primary_metric="OKS_AP",
    )

    image = codec.read_image(tmp_path / "curve.png")
    for colour in (BLUE, ORANGE):
        places = np.argwhere((image == colour).all(-1))  # (row, column)
        left, right = places[places[:, 1].argmin()], places[places[:, 1].argmax()]
        assert right[0] > left[0] + 100


def test_plots_and_page_are_complete(
    tmp_path: Path,
    tigers: DatasetManifest,
    people: DatasetManifest,
    tiger_result: EvaluationResult,
    people_result: EvaluationResult,
):
    for manifest, evaluation in ((tigers, tiger_result), (people, people_result)):
        paths = write_plots(evaluation, manifest, tmp_path)

        assert [path.name for path in paths] == [
            *("pck_curve.png", "per_keypoint.png", "worst_predictions.png"),
        ]
        html = render_page(evaluation, paths)
        assert html.count("data:image/jpeg;base64,") == 3
        assert "<script" not in html
        assert "http" not in html.replace('http-equiv="Content', "")
    sheet = codec.read_image(paths[2])
    assert sheet.shape[1] == 4 * (224 + 6) + 6


def test_names_are_escaped_in_the_page(tmp_path: Path, tiger_result: EvaluationResult):
    hostile = replace(tiger_result, dataset_name="<script>alert(1)</script>")
    image = tmp_path / "a.jpg"
    codec.write_image(image, np.zeros((8, 8, 3), np.uint8))

    html = render_page(hostile, [image] * 3)

    assert "<script" not in html
    assert "&lt;script&gt;" in html
