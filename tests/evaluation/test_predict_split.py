"""Rows and boxes become poses; what rotted is left out by name."""

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
    candidate,
    rot,
    spec_of,
    write_easy_tigers,
    write_some_people,
)


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_easy_tigers(tmp_path_factory.mktemp("tigers"))


@pytest.fixture
def rotting(tmp_path: Path) -> DatasetManifest:
    return write_easy_tigers(tmp_path)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    one = candidate(EASY)
    return Predictor(one.model, one.spec)


def boxes_at(*boxes: tuple[int, list[float], float]) -> DetectedBoxes:
    picture, box_xywh, score = zip(*boxes, strict=True)
    return DetectedBoxes(
        image_index=np.array(picture),
        category_id=np.ones(len(boxes), int),
        box_xywh=np.array(box_xywh, float),
        score=np.array(score),
        skipped_counts={},
    )


def test_poses_are_those_of_the_predictor_row_by_row(tigers: DatasetManifest, predictor: Predictor):
    labelled = load_ground_truth(tigers, "val")

    seen = predict_split(predictor, tigers, "val", labelled, batch_size=64)

    table = read_split(tigers, "val")
    found, truth = predictor.predict_table(table), get_label_columns(table)
    np.testing.assert_allclose(seen.poses.image_xy, found.image_xy.numpy(), atol=1e-3)
    np.testing.assert_allclose(seen.poses.score, compute_pose_scores(found).numpy(), rtol=1e-4)
    assert seen.poses.image_id.tolist() == sorted(truth["image_id"].tolist())
    assert seen.ground_truth is labelled
    assert (len(labelled), len(labelled.image_names), seen.skipped_rows) == (
        len(truth["id"]),
        8,
        [],
    )


def test_the_size_of_batches_moves_points_by_float_noise_only(tigers: DatasetManifest, predictor: Predictor):
    labelled = load_ground_truth(tigers, "val")

    one, many = (predict_split(predictor, tigers, "val", labelled, batch_size=size).poses for size in (1, 7))

    assert np.abs(one.image_xy - many.image_xy).max() < 1e-3  # a cell that flips moves by 1 px
    assert np.abs(one.keypoint_scores - many.keypoint_scores).max() < 1e-4 * np.abs(many.keypoint_scores).max()


def test_detected_boxes_equal_to_the_true_ones_give_the_same_poses(tigers: DatasetManifest, predictor: Predictor):
    labelled = load_ground_truth(tigers, "val")
    truth = labelled.columns
    order = np.argsort(truth["image_index"], kind="stable")
    boxes = DetectedBoxes(
        image_index=truth["image_index"][order],
        category_id=truth["category_id"][order],
        box_xywh=truth["box_xywh"][order],
        score=np.full(len(order), 0.5),
        skipped_counts={},
    )

    given = predict_split(predictor, tigers, "val", labelled, detections=boxes, batch_size=3)
    true = predict_split(predictor, tigers, "val", labelled)

    np.testing.assert_allclose(given.poses.image_xy, true.poses.image_xy[order], atol=1e-3)
    np.testing.assert_allclose(given.poses.score, 0.5 * true.poses.score[order], rtol=1e-4)
    np.testing.assert_array_equal(given.poses.image_id, true.poses.image_id[order])
    np.testing.assert_array_equal(given.poses.image_index, true.poses.image_index[order])
    np.testing.assert_allclose(given.poses.area, true.poses.area[order])


def test_any_number_of_boxes_is_looked_at_in_one_picture(tigers: DatasetManifest, predictor: Predictor):
    labelled = load_ground_truth(tigers, "val")
    box = [10.0, 10.0, 60.0, 50.0]
    boxes = boxes_at(*[(2, box, 0.5)] * 5, (7, box, 1.0))
    told: list[tuple[int, int]] = []

    seen = predict_split(
        predictor,
        tigers,
        "val",
        labelled,
        detections=boxes,
        batch_size=2,
        progress=lambda done, total: told.append((done, total)),
    )

    assert seen.poses.image_index.tolist() == [2] * 5 + [7]
    assert len(np.unique(seen.poses.image_xy[:5].round(2), axis=0)) == 1
    assert told == [(2, 6), (4, 6), (5, 6), (6, 6)]
    assert len(seen.ground_truth) == len(labelled)  # images without a box count as well


@pytest.mark.parametrize("detector", [False, True])
def test_rows_that_rotted_are_left_out_by_name(rotting: DatasetManifest, predictor: Predictor, detector: bool):
    labelled = load_ground_truth(rotting, "val")
    alone = [p for p in range(8) if (labelled.columns["image_index"] == p).sum() == 1]
    lost = int(np.flatnonzero(labelled.columns["image_index"] == alone[0])[0])
    changed = rot(rotting, lost)
    boxes = boxes_at(*((p, [0.0, 0.0, 60.0, 60.0], 1.0) for p in range(8))) if detector else None

    seen = predict_split(predictor, rotting, "val", labelled, detections=boxes)

    assert seen.skipped_rows == changed
    assert len(seen.ground_truth) == len(labelled) - 1
    assert len(seen.ground_truth.image_names) == 7
    assert sorted(set(seen.poses.image_index.tolist())) == list(range(7))
    names = {p: i for p, i in zip(seen.poses.image_index, seen.poses.image_id, strict=True)}
    kept = seen.ground_truth.columns
    assert names == dict(zip(kept["image_index"], kept["image_id"], strict=True))


def test_a_picture_with_one_rotten_row_is_served_by_another(rotting: DatasetManifest, predictor: Predictor):
    labelled = load_ground_truth(rotting, "val")
    (shared,) = next(([p] for p in range(8) if (labelled.columns["image_index"] == p).sum() > 1), [None])
    rot(rotting, int(np.flatnonzero(labelled.columns["image_index"] == shared)[0]))
    boxes = boxes_at((shared, [0.0, 0.0, 60.0, 60.0], 1.0))

    seen = predict_split(predictor, rotting, "val", labelled, detections=boxes)

    assert seen.skipped_rows == []
    assert len(seen.poses) == 1


def test_nothing_but_rot_is_an_error(rotting: DatasetManifest, predictor: Predictor):
    labelled = load_ground_truth(rotting, "val")
    rot(rotting, *range(len(labelled)))

    with pytest.raises(DataError, match="no image that is what was prepared"):
        predict_split(predictor, rotting, "val", labelled)


def test_people_who_share_a_picture_share_it_whatever_their_ids(tmp_path: Path):
    labelled = load_ground_truth(write_some_people(tmp_path), "val")

    assert len(set(labelled.columns["image_id"].tolist())) == len(labelled)  # an id for each person
    assert (len(labelled), len(labelled.image_names)) == (5, 4)
    for at, name in enumerate(labelled.row_image_names):
        assert labelled.image_names[labelled.columns["image_index"][at]] == name
    places = labelled.build_image_index()
    assert {places[name] for name in labelled.image_names} == set(range(4))
    assert places[int(labelled.columns["image_id"][-1])] == labelled.columns["image_index"][-1]


def test_a_split_that_is_not_there_is_named(tigers: DatasetManifest):
    with pytest.raises(DataError, match="no split 'test'"):
        load_ground_truth(tigers, "test")


def test_crops_come_in_the_order_in_which_they_are_wanted(tigers: DatasetManifest):
    labelled = load_ground_truth(tigers, "val")
    wanted = labelled.columns["id"][[6, 0, 9]]

    crops = load_crops(tigers, "val", wanted, spec_of(EASY))

    assert crops["id"].tolist() == wanted.tolist()
    assert crops["crop"].shape == (3, 32, 32, 3)


def test_the_area_of_a_padded_box_is_that_of_the_crop():
    box = np.array([[10.0, 20.0, 40.0, 20.0]])  # grows to 40 x 40, then by 1.25

    assert compute_padded_areas(box, spec_of(EASY)).tolist() == pytest.approx([2500.0])
    wide = spec_of(EASY, input_hw=(32, 64), padding=1.0)
    assert compute_padded_areas(box, wide).tolist() == pytest.approx([800.0])


def test_batches_come_in_order_and_their_errors_too():
    batches = [torch.tensor(number) for number in range(3)]

    def broken():
        yield batches[0]
        raise DataError("what", "where", "fix")

    assert [int(one) for one in prefetch_items(iter(batches))] == [0, 1, 2]
    with pytest.raises(DataError, match="what"):
        list(prefetch_items(broken()))


@pytest.mark.parametrize(("detector", "parts"), [(False, 2), (False, 9), (True, 3)])
def test_parts_join_to_the_whole_to_the_bit(rotting: DatasetManifest, predictor: Predictor, detector: bool, parts: int):
    labelled = load_ground_truth(rotting, "val")
    rot(rotting, 2)
    spots = [(place, [10.0 * place, 5.0, 40.0, 50.0], 0.5) for place in range(8)]
    boxes = boxes_at(*(spot for spot in spots for _ in range(2))) if detector else None
    size = 3

    whole = predict_split(predictor, rotting, "val", labelled, detections=boxes, batch_size=size)
    found = [
        predict_partition(
            predictor,
            rotting,
            "val",
            labelled,
            detections=boxes,
            partition=WorkPartition(at, parts),
            batch_size=size,
        )
        for at in reversed(range(parts))  # whoever is done first
    ]
    seen = finalize_predictions(
        PartialPredictions.concat_parts(found),
        rotting,
        "val",
        labelled,
        detections=boxes,
        spec=predictor.spec,
    )

    assert seen.skipped_rows == whole.skipped_rows
    for name, column in vars(whole.poses).items():
        np.testing.assert_array_equal(getattr(seen.poses, name), column, err_msg=name)
