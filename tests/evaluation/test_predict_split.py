"""Predictions of a split: rows, detections, partitions and corrupt rows."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.data.records import get_label_columns
from hrnet_ray.errors import DataError
from hrnet_ray.evaluation.ground_truth import load_ground_truth
from hrnet_ray.evaluation.predict_split import (
    PartialPredictions,
    WorkPartition,
    compute_padded_areas,
    finalize_predictions,
    load_crops,
    predict_partition,
    predict_split,
    prefetch_items,
)
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.metrics.detections import DetectedBoxes
from hrnet_ray.metrics.predictions import compute_pose_scores
from tests.evaluation.evaluated_models import (
    EASY,
    corrupt_rows,
    make_eval_model,
    make_spec,
    write_people,
    write_tigers,
)


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_tigers(tmp_path_factory.mktemp("tigers"))


@pytest.fixture
def own_tigers(tmp_path: Path) -> DatasetManifest:
    return write_tigers(tmp_path)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    one = make_eval_model(EASY)
    return Predictor(one.model, one.spec)


def make_detections(*boxes: tuple[int, list[float], float]) -> DetectedBoxes:
    image_index, box_xywh, score = zip(*boxes, strict=True)
    return DetectedBoxes(
        image_index=np.array(image_index),
        category_id=np.ones(len(boxes), int),
        box_xywh=np.array(box_xywh, float),
        score=np.array(score),
        skipped_counts={},
    )


def test_poses_equal_those_of_the_predictor(tigers: DatasetManifest, predictor: Predictor):
    ground_truth = load_ground_truth(tigers, "val")

    result = predict_split(predictor, tigers, "val", ground_truth, batch_size=64)

    table = read_split(tigers, "val")
    predictions, truth = predictor.predict_table(table), get_label_columns(table)
    np.testing.assert_allclose(result.poses.image_xy, predictions.image_xy.numpy(), atol=1e-3)
    np.testing.assert_allclose(result.poses.score, compute_pose_scores(predictions).numpy(), rtol=1e-4)
    assert result.poses.image_id.tolist() == sorted(truth["image_id"].tolist())
    assert result.ground_truth is ground_truth
    assert (len(ground_truth), len(ground_truth.image_names), result.skipped_rows) == (
        len(truth["id"]),
        8,
        [],
    )


def test_the_batch_size_changes_poses_by_float_noise_only(tigers: DatasetManifest, predictor: Predictor):
    ground_truth = load_ground_truth(tigers, "val")

    one, many = (predict_split(predictor, tigers, "val", ground_truth, batch_size=size).poses for size in (1, 7))

    assert np.abs(one.image_xy - many.image_xy).max() < 1e-3  # another peak cell would move a keypoint by 1 px or more
    assert np.abs(one.keypoint_scores - many.keypoint_scores).max() < 1e-4 * np.abs(many.keypoint_scores).max()


def test_detections_equal_to_true_boxes_give_the_same_poses(tigers: DatasetManifest, predictor: Predictor):
    ground_truth = load_ground_truth(tigers, "val")
    truth = ground_truth.columns
    order = np.argsort(truth["image_index"], kind="stable")
    boxes = DetectedBoxes(
        image_index=truth["image_index"][order],
        category_id=truth["category_id"][order],
        box_xywh=truth["box_xywh"][order],
        score=np.full(len(order), 0.5),
        skipped_counts={},
    )

    given = predict_split(predictor, tigers, "val", ground_truth, detections=boxes, batch_size=3)
    true = predict_split(predictor, tigers, "val", ground_truth)

    np.testing.assert_allclose(given.poses.image_xy, true.poses.image_xy[order], atol=1e-3)
    np.testing.assert_allclose(given.poses.score, 0.5 * true.poses.score[order], rtol=1e-4)
    np.testing.assert_array_equal(given.poses.image_id, true.poses.image_id[order])
    np.testing.assert_array_equal(given.poses.image_index, true.poses.image_index[order])
    np.testing.assert_allclose(given.poses.area, true.poses.area[order])


def test_an_image_may_have_any_number_of_boxes(tigers: DatasetManifest, predictor: Predictor):
    ground_truth = load_ground_truth(tigers, "val")
    box = [10.0, 10.0, 60.0, 50.0]
    boxes = make_detections(*[(2, box, 0.5)] * 5, (7, box, 1.0))
    progress: list[tuple[int, int]] = []

    result = predict_split(
        predictor,
        tigers,
        "val",
        ground_truth,
        detections=boxes,
        batch_size=2,
        progress=lambda done, total: progress.append((done, total)),
    )

    assert result.poses.image_index.tolist() == [2] * 5 + [7]
    assert len(np.unique(result.poses.image_xy[:5].round(2), axis=0)) == 1
    assert progress == [(2, 6), (4, 6), (5, 6), (6, 6)]
    assert len(result.ground_truth) == len(ground_truth)  # images without a box count as well


@pytest.mark.parametrize("detector", [False, True])
def test_corrupt_rows_are_skipped_by_name(own_tigers: DatasetManifest, predictor: Predictor, detector: bool):
    ground_truth = load_ground_truth(own_tigers, "val")
    single_row_images = [p for p in range(8) if (ground_truth.columns["image_index"] == p).sum() == 1]
    row = int(np.flatnonzero(ground_truth.columns["image_index"] == single_row_images[0])[0])
    changed = corrupt_rows(own_tigers, row)
    boxes = make_detections(*((p, [0.0, 0.0, 60.0, 60.0], 1.0) for p in range(8))) if detector else None

    result = predict_split(predictor, own_tigers, "val", ground_truth, detections=boxes)

    assert result.skipped_rows == changed
    assert len(result.ground_truth) == len(ground_truth) - 1
    assert len(result.ground_truth.image_names) == 7
    assert sorted(set(result.poses.image_index.tolist())) == list(range(7))
    names = {p: i for p, i in zip(result.poses.image_index, result.poses.image_id, strict=True)}
    columns = result.ground_truth.columns
    assert names == dict(zip(columns["image_index"], columns["image_id"], strict=True))


def test_boxes_use_an_intact_row_of_the_same_image(own_tigers: DatasetManifest, predictor: Predictor):
    ground_truth = load_ground_truth(own_tigers, "val")
    (shared,) = next(([p] for p in range(8) if (ground_truth.columns["image_index"] == p).sum() > 1), [None])
    corrupt_rows(own_tigers, int(np.flatnonzero(ground_truth.columns["image_index"] == shared)[0]))
    boxes = make_detections((shared, [0.0, 0.0, 60.0, 60.0], 1.0))

    result = predict_split(predictor, own_tigers, "val", ground_truth, detections=boxes)

    assert result.skipped_rows == []
    assert len(result.poses) == 1


def test_a_split_of_corrupt_rows_is_refused(own_tigers: DatasetManifest, predictor: Predictor):
    ground_truth = load_ground_truth(own_tigers, "val")
    corrupt_rows(own_tigers, *range(len(ground_truth)))

    with pytest.raises(DataError, match="all images are unreadable or have changed since prepare"):
        predict_split(predictor, own_tigers, "val", ground_truth)


def test_people_in_one_image_file_share_its_image_index(tmp_path: Path):
    ground_truth = load_ground_truth(write_people(tmp_path), "val")

    assert len(set(ground_truth.columns["image_id"].tolist())) == len(ground_truth)  # MPII has one image id per person
    assert (len(ground_truth), len(ground_truth.image_names)) == (5, 4)
    for at, name in enumerate(ground_truth.row_image_names):
        assert ground_truth.image_names[ground_truth.columns["image_index"][at]] == name
    index_of = ground_truth.build_image_index()
    assert {index_of[name] for name in ground_truth.image_names} == set(range(4))
    assert index_of[int(ground_truth.columns["image_id"][-1])] == ground_truth.columns["image_index"][-1]


def test_an_unknown_split_is_named(tigers: DatasetManifest):
    with pytest.raises(DataError, match="no split 'test'"):
        load_ground_truth(tigers, "test")


def test_crops_are_loaded_in_the_requested_order(tigers: DatasetManifest):
    ground_truth = load_ground_truth(tigers, "val")
    row_ids = ground_truth.columns["id"][[6, 0, 9]]

    crops = load_crops(tigers, "val", row_ids, make_spec(EASY))

    assert crops["id"].tolist() == row_ids.tolist()
    assert crops["crop"].shape == (3, 32, 32, 3)


def test_padded_area_is_the_area_of_the_crop():
    box = np.array([[10.0, 20.0, 40.0, 20.0]])  # padded to 40 x 40, then by 1.25

    assert compute_padded_areas(box, make_spec(EASY)).tolist() == pytest.approx([2500.0])
    wide = make_spec(EASY, input_hw=(32, 64), padding=1.0)
    assert compute_padded_areas(box, wide).tolist() == pytest.approx([800.0])


def test_prefetching_keeps_order_and_errors():
    batches = [torch.tensor(number) for number in range(3)]

    def broken():
        yield batches[0]
        raise DataError("what", "where", "fix")

    assert [int(one) for one in prefetch_items(iter(batches))] == [0, 1, 2]
    with pytest.raises(DataError, match="what"):
        list(prefetch_items(broken()))


@pytest.mark.parametrize(("detector", "parts"), [(False, 2), (False, 9), (True, 3)])
def test_partial_predictions_join_to_bitwise_equal_poses(
    own_tigers: DatasetManifest, predictor: Predictor, detector: bool, parts: int
):
    ground_truth = load_ground_truth(own_tigers, "val")
    corrupt_rows(own_tigers, 2)
    detections = [(place, [10.0 * place, 5.0, 40.0, 50.0], 0.5) for place in range(8)]
    boxes = make_detections(*(detection for detection in detections for _ in range(2))) if detector else None
    size = 3

    whole = predict_split(predictor, own_tigers, "val", ground_truth, detections=boxes, batch_size=size)
    partial_predictions = [
        predict_partition(
            predictor,
            own_tigers,
            "val",
            ground_truth,
            detections=boxes,
            partition=WorkPartition(at, parts),
            batch_size=size,
        )
        for at in reversed(range(parts))  # parts may finish in any order
    ]
    result = finalize_predictions(
        PartialPredictions.concat_parts(partial_predictions),
        own_tigers,
        "val",
        ground_truth,
        detections=boxes,
        spec=predictor.spec,
    )

    assert result.skipped_rows == whole.skipped_rows
    for name, column in vars(whole.poses).items():
        np.testing.assert_array_equal(getattr(result.poses, name), column, err_msg=name)
