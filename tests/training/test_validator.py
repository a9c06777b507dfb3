"""Scoring of validations, their image grids, and the best model on disk."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_ray.data import records
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import read_split
from hrnet_ray.inference.model_package import load_model
from hrnet_ray.metrics.predictions import KeypointPredictions
from hrnet_ray.runs.event_log import read_events
from hrnet_ray.training import best_model
from hrnet_ray.training.best_model import BestModelWriter
from hrnet_ray.training.builders import build_model
from hrnet_ray.training.checkpoint import TrainState
from hrnet_ray.training.validator import (
    HeatmapFn,
    LoadCropsFn,
    ModelScore,
    ValidationResult,
    Validator,
    is_better,
)
from hrnet_ray.visualization.crop_grid import HEATMAP_TILE_HEIGHT_PX

GRID_GAP_PX = 6


@pytest.fixture
def load_crops(tiny, tigers) -> LoadCropsFn:
    """The validation rows, as a worker's data loader returns them."""
    rows = records.decode_eval_batch(
        records.add_intact_column(read_split(tigers, "val")),
        input_hw=tiny.data.input_hw,
        padding=tiny.data.padding,
    )
    return lambda positions: {name: column[positions] for name, column in rows.items()}


@pytest.fixture
def validator(tigers, load_crops, tmp_path) -> Validator:
    return Validator(tigers, tmp_path, load_crops=load_crops)


@pytest.fixture
def zero_heatmaps(tigers) -> HeatmapFn:
    return lambda crops: np.zeros((len(crops), len(tigers.skeleton), 8, 8), np.float32)


@pytest.fixture
def perfect(validator) -> KeypointPredictions:
    """Every keypoint exactly at its label."""
    truth = validator.ground_truth
    image_xy = torch.tensor(truth["image_xy"]).float()
    return KeypointPredictions(torch.tensor(truth["id"]), image_xy, torch.ones(image_xy.shape[:2]))


def move(predictions: KeypointPredictions, offset_px: float) -> KeypointPredictions:
    return KeypointPredictions(predictions.ids, predictions.image_xy + offset_px, predictions.scores)


@pytest.mark.parametrize(
    ("score", "best", "better"),
    [
        (0.5, 0.4, True),
        (0.4, 0.4, True),  # the later epoch
        (0.3, 0.4, False),
        (math.nan, 0.4, False),
        (0.1, -math.inf, True),
        (math.nan, -math.inf, True),  # the first score
        (0.1, math.nan, True),
    ],
)
def test_a_higher_score_is_better_and_any_score_replaces_nan(score: float, best: float, better: bool):
    assert is_better(ModelScore(score), ModelScore(best)) == better


@pytest.mark.parametrize(
    ("new", "best", "better"),
    [
        (ModelScore(0.0, 50.0, 0.2), ModelScore(0.0, 60.0, 0.1), True),
        (ModelScore(0.0, 60.0, 0.1), ModelScore(0.0, 50.0, 0.2), False),
        (ModelScore(1.0, 2.0, 0.1), ModelScore(1.0, 2.0, 0.2), True),
        (ModelScore(1.0, 2.0, 0.2), ModelScore(1.0, 2.0, 0.1), False),
        (ModelScore(1.0, 2.0, 0.1), ModelScore(1.0, 2.0, 0.1), True),  # the later epoch
        (ModelScore(0.0, math.nan, 0.1), ModelScore(0.0, 50.0, 0.1), False),
        (ModelScore(0.0, 50.0, math.nan), ModelScore(0.0, math.nan, math.nan), True),
        (ModelScore(0.1, 90.0, 0.9), ModelScore(0.0, 1.0, 0.1), True),
    ],
)
def test_equal_scores_are_decided_by_the_error_then_the_loss_then_the_later_epoch(
    new: ModelScore, best: ModelScore, better: bool
):
    assert is_better(new, best) == better


def test_with_an_ap_of_0_in_all_epochs_the_model_is_that_of_the_lowest_error(
    tiny, tigers, tmp_path, validator, perfect, zero_heatmaps
):
    writer = BestModelWriter(tiny, tigers, tmp_path, ground_truth=validator.ground_truth)
    model, state = build_model(tiny, tigers), TrainState(epoch=0)
    for epoch, offset_px in enumerate((900, 500, 700), start=1):
        result = validator.validate(
            move(perfect, offset_px),
            heatmap_fn=zero_heatmaps,
            epoch=epoch,
            best_score=writer.get_best_score(state),
        )
        assert result.score == 0
        state = writer.update(result, model, state)

    assert (state.best_epoch, state.best_score) == (2, 0.0)
    _, spec = load_model(tmp_path / "model")
    assert spec.scores["EPE_px"] == state.best_epe_px == pytest.approx(500 * math.sqrt(2))


def test_a_best_model_that_did_not_fit_is_written_after_the_next_validation(
    tiny, tigers, tmp_path, validator, perfect, zero_heatmaps, monkeypatch
):
    model = build_model(tiny, tigers)
    best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    writer = BestModelWriter(tiny, tigers, tmp_path, ground_truth=validator.ground_truth)

    def validate(predictions: KeypointPredictions, epoch: int, state: TrainState):
        best_score = writer.get_best_score(state)
        return validator.validate(predictions, heatmap_fn=zero_heatmaps, epoch=epoch, best_score=best_score)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    start = TrainState(epoch=0)
    with monkeypatch.context() as patch:
        patch.setattr(best_model, "save_model", fail)
        result = validate(perfect, 1, start)
        state = writer.update(result, model, start)

    assert state == start  # a run that resumes here finds the best model again
    assert writer.get_best_score(state).score == result.score > 0.9
    assert read_events(tmp_path) == ["could not write the best model: No space left on device"]
    with torch.no_grad():
        model.conv1.weight.add_(1)

    worse = validate(move(perfect, 500), 2, state)
    state = writer.update(worse, model, state)

    assert not worse.is_best
    assert (state.best_epoch, state.best_score) == (1, result.score)
    saved, spec = load_model(tmp_path / "model")
    assert all(torch.equal(w, best_weights[name]) for name, w in saved.state_dict().items())
    assert spec.scores["OKS_AP"] == state.best_score
    poses = json.loads((tmp_path / "predictions" / "val.coco.json").read_text())
    assert len(poses) == len(perfect.ids)
    assert not list(tmp_path.rglob("*.part"))


def test_the_worst_predictions_are_drawn_after_each_best_and_the_samples_always(
    tmp_path, validator, perfect, load_crops, zero_heatmaps, monkeypatch
):
    requested = []
    monkeypatch.setattr(
        validator,
        "_load_crops",
        lambda positions: requested.append(positions) or load_crops(positions),
    )
    image_xy = perfect.image_xy.clone()
    image_xy[2] += 500
    image_xy[4] += 200
    off = KeypointPredictions(perfect.ids, image_xy, perfect.scores)

    validator.validate(off, heatmap_fn=zero_heatmaps, epoch=1, best_score=ModelScore(-math.inf))
    validator.validate(perfect, heatmap_fn=zero_heatmaps, epoch=2, best_score=ModelScore(1.1))

    assert requested[0][:2].tolist() == [2, 4]
    images = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("plots/*/*"))
    assert images == [
        "plots/sample_predictions/epoch_0001.jpg",
        "plots/sample_predictions/epoch_0002.jpg",
        "plots/worst_predictions/epoch_0001.jpg",
    ]


def test_nonfinite_predictions_score_0(validator, perfect, zero_heatmaps):
    nonfinite = KeypointPredictions(perfect.ids, perfect.image_xy * torch.nan, perfect.scores * torch.inf)

    result: ValidationResult = validator.validate(
        nonfinite, heatmap_fn=zero_heatmaps, epoch=1, best_score=ModelScore(-math.inf)
    )

    assert result.to_metrics()["val/OKS_AP"] == validator.last_objective == 0.0


def test_the_heatmaps_are_drawn_beside_each_crop(tmp_path: Path, validator, perfect, zero_heatmaps):
    """A peak in a corner of one crop's heatmap appears in that corner of its right half."""

    def corner_heatmaps(crops: np.ndarray) -> np.ndarray:
        heatmaps = zero_heatmaps(crops)
        heatmaps[1, 0, 6:, :2] = 1
        return heatmaps

    for epoch, heatmap_fn in enumerate((zero_heatmaps, corner_heatmaps), start=1):
        validator.validate(perfect, heatmap_fn=heatmap_fn, epoch=epoch, best_score=ModelScore(1.1))

    before, after = (
        codec.read_image(tmp_path / "plots" / "sample_predictions" / f"epoch_{epoch:04d}.jpg").astype(int)
        for epoch in (1, 2)
    )
    y, x = np.argwhere(np.abs(after - before).sum(-1) > 300).T
    tile_px = HEATMAP_TILE_HEIGHT_PX
    pair_px = 4 * tile_px + GRID_GAP_PX  # two tiles, each twice as wide as high
    assert before.shape == (
        3 * (tile_px + GRID_GAP_PX) + GRID_GAP_PX,
        3 * pair_px + GRID_GAP_PX,
        3,
    )
    # Relative to the right half of the second pair.
    corner_y, corner_x = y - GRID_GAP_PX, x - GRID_GAP_PX - 1.5 * pair_px
    assert len(x) > 100
    assert tile_px * 0.7 < corner_y.min() <= corner_y.max() < tile_px
    assert -GRID_GAP_PX <= corner_x.min() <= corner_x.max() < tile_px * 0.6
