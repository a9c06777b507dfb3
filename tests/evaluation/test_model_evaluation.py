"""An evaluation from data to words, JSON, plots and page."""

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
    candidate,
    rot,
    write_easy_tigers,
    write_some_people,
)

QUICK = EvaluationSpec(resamples=40)
BLUE, ORANGE = (0x2D, 0x6E, 0xC8), (0xC8, 0x50, 0x2D)


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_easy_tigers(tmp_path_factory.mktemp("tigers"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_some_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def of_tigers(tigers: DatasetManifest) -> EvaluationResult:
    return evaluate_model(tigers, QUICK, candidate(EASY), candidate(EASY, seed=1))


@pytest.fixture(scope="module")
def of_people(people: DatasetManifest) -> EvaluationResult:
    return evaluate_model(people, QUICK, candidate(MPII))


def test_the_figures_are_those_of_a_training_on_the_same_rows(tigers: DatasetManifest):
    one = candidate(EASY)

    evaluation = evaluate_model(tigers, replace(QUICK, nms_oks=1.0), one)

    table = read_split(tigers, "val")
    trained = compute_validation_metrics(
        Predictor(one.model, one.spec).predict_table(table), get_label_columns(table), EASY
    )
    summary = evaluation.model_evaluation.metrics.summary
    assert 0 < trained.primary_value < 1
    assert {name: summary[name] for name in trained.summary} == pytest.approx(trained.summary, abs=1e-4)


def test_the_interval_holds_the_figure_and_is_the_same_each_time(tigers: DatasetManifest, of_tigers: EvaluationResult):
    judged = of_tigers.model_evaluation

    again = evaluate_model(tigers, QUICK, candidate(EASY))

    assert judged.interval.low <= judged.metrics.primary_value <= judged.interval.high
    assert judged.interval.low < judged.interval.high
    assert again.model_evaluation.interval == judged.interval
    assert again.model_evaluation.metrics.summary == judged.metrics.summary


def test_a_model_is_no_better_than_itself(tigers: DatasetManifest):
    evaluation = evaluate_model(tigers, QUICK, candidate(EASY), candidate(EASY))

    assert evaluation.comparison is not None
    assert evaluation.comparison.difference == 0.0
    assert (evaluation.comparison.interval.low, evaluation.comparison.interval.high) == (0.0, 0.0)
    assert "within noise: these images do not separate the two models" in format_report(evaluation)


def test_a_difference_is_told_with_its_interval_and_a_sentence(of_tigers: EvaluationResult):
    against = of_tigers.comparison
    assert against is not None

    said = format_report(of_tigers)

    values = [one.metrics.primary_value for one in (of_tigers.model_evaluation, against.baseline)]
    assert against.difference == values[0] - values[1]
    low, high = against.interval.low, against.interval.high
    assert (
        f"compared to net 1 (decode quarter, flip test on, OKS-NMS 0.9 "
        f"({against.baseline.metrics.num_nms_dropped} of {len(of_tigers.ground_truth)} poses dropped), "
        "score = box score x mean of keypoint scores above 0.2):\n"
        f"OKS_AP {values[1]:.4f}, difference {against.difference:+.4f}, "
        f"95 % interval {low:+.4f} to {high:+.4f}\n"
    ) in said
    assert ("beyond noise: net 0 is" in said) is (low > 0 or high < 0)


def test_the_text_states_what_was_done(of_tigers: EvaluationResult):
    lines = format_report(of_tigers).splitlines()

    count = len(of_tigers.ground_truth)
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
    assert "(40 resamples of 8 images)" in format_report(of_tigers)


def test_people_get_the_published_table(of_people: EvaluationResult):
    said = format_report(of_people)

    heads = next(line for line in said.splitlines() if line.startswith("| "))
    assert [word for word in heads.split() if word != "|"] == [
        *("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "Mean", "Mean@0.1"),
    ]
    published = of_people.model_evaluation.metrics.mpii_pckh_table
    assert published is not None
    assert f"{published['Mean']:.3f}" in said
    assert "OKS" not in said
    assert "PCKh_0.5 " in said
    assert "in 4 images" in said


def test_a_detectors_boxes_are_stated_with_all_that_was_left_out(tigers: DatasetManifest, tmp_path: Path):
    file = tmp_path / "boxes.json"
    box = {"category_id": 1, "bbox": [5, 5, 70, 60], "score": 0.8}
    first = int(get_label_columns(read_split(tigers, "val"))["image_id"].min())
    strange = [{**box, "image_id": 999}, {**box, "image_id": first, "category_id": 3}]
    file.write_text(json.dumps([{**box, "image_id": first}, *strange]))

    evaluation = evaluate_model(tigers, replace(QUICK, detections_path=file), candidate(EASY))

    said = format_report(evaluation)
    assert (f"boxes: detections from {file}: 3 read = 1 used + 1 other image + 1 other category") in said
    assert "note: 7 images have no box: what is in them counts as missed" in said
    assert f"of {len(evaluation.ground_truth)} instances that match at OKS 0.5" in said
    document = to_json_dict(evaluation)
    assert document["boxes"] == {
        "kind": "detections",
        "file": str(file),
        "read": 3,
        "used": 1,
        "left_out": {"other image": 1, "other category": 1},
    }
    write_plots(evaluation, tigers, tmp_path / "plots")  # most have no pose to draw


def test_rotten_rows_are_named_and_add_up(tmp_path: Path):
    tigers = write_easy_tigers(tmp_path)
    ((row, image),) = rot(tigers, 3)

    evaluation = evaluate_model(tigers, QUICK, candidate(EASY))

    used = len(evaluation.ground_truth)
    said = format_report(evaluation)
    assert f"{used + 1} read = {used} used + 1 skipped" in said
    assert f"skipped: {image} #{row}" in said
    assert to_json_dict(evaluation)["skipped"] == [{"id": row, "image": image}]
    assert (evaluation.rows_read, used) == (
        used + 1,
        len(evaluation.model_evaluation.split_poses.poses),
    )


def test_a_model_of_other_keypoints_is_refused(tigers: DatasetManifest):
    with pytest.raises(DataError, match="a model of other keypoints than the data"):
        evaluate_model(tigers, QUICK, candidate(EASY), candidate(MPII))


def test_the_document_is_strict_json_with_the_keys_that_are_documented(
    of_tigers: EvaluationResult, of_people: EvaluationResult, root: Path
):
    documented = (root / "docs" / "evaluate.md").read_text()
    for evaluation in (of_tigers, of_people):
        document = json.loads(json.dumps(to_json_dict(evaluation), allow_nan=False))
        assert document["format"] == 1
        assert document["value"] == document["summary"][document["main"]]
        assert document["interval"].keys() == {"low", "high", "confidence"}
        for key in (*document, *(document["against"] or ()), *document["summary"]):
            if not key.endswith("_easier"):
                assert f"`{key}`" in documented, key
        keypoint = next(iter(document["per_keypoint"].values()))
        assert keypoint.keys() == {"value", "epe_px", "count"}


def test_the_curve_falls_for_oks_and_rises_for_pckh(
    tmp_path: Path, of_tigers: EvaluationResult, of_people: EvaluationResult
):
    falls = [value for _, value in of_tigers.model_evaluation.metrics.metric_curve]
    rises = [value for _, value in of_people.model_evaluation.metrics.metric_curve]
    assert falls == sorted(falls, reverse=True)
    assert rises == sorted(rises)

    plot_metric_curve(
        tmp_path / "curve.png",
        {"one": [(0.5, 0.9), (0.95, 0.1)], "other": [(0.5, 0.8), (0.95, 0.0)]},
        primary_metric="OKS_AP",
    )

    picture = codec.read_image(tmp_path / "curve.png")
    for colour in (BLUE, ORANGE):
        places = np.argwhere((picture == colour).all(-1))  # (row, column)
        left, right = places[places[:, 1].argmin()], places[places[:, 1].argmax()]
        assert right[0] > left[0] + 100


def test_plots_and_page_are_complete(
    tmp_path: Path,
    tigers: DatasetManifest,
    people: DatasetManifest,
    of_tigers: EvaluationResult,
    of_people: EvaluationResult,
):
    for manifest, evaluation in ((tigers, of_tigers), (people, of_people)):
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


def test_a_name_cannot_break_out_of_the_page(tmp_path: Path, of_tigers: EvaluationResult):
    hostile = replace(of_tigers, dataset_name="<script>alert(1)</script>")
    picture = tmp_path / "a.jpg"
    codec.write_image(picture, np.zeros((8, 8, 3), np.uint8))

    html = render_page(hostile, [picture] * 3)

    assert "<script" not in html
    assert "&lt;script&gt;" in html
