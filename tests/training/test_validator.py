"""The best model is kept, even when there was no room for it at first."""

import numpy as np
import pytest
import torch

from hrnet_ray.data import records
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import read_split
from hrnet_ray.inference.model_package import load_model
from hrnet_ray.metrics.predictions import KeypointPredictions
from hrnet_ray.runs.event_log import read_events
from hrnet_ray.training import validator as room
from hrnet_ray.training.builders import build_model
from hrnet_ray.training.checkpoint import TrainState
from hrnet_ray.training.validator import HeatmapFn, LoadCropsFn, Validator
from hrnet_ray.visualization.crop_grid import HEATMAP_TILE_HEIGHT_PX

GAP = 6  # of a sheet


@pytest.fixture
def crops(tiny, tigers) -> LoadCropsFn:
    """The validation rows, as a worker's feed gives them."""
    data = tiny.data
    every = records.decode_eval_batch(
        records.add_intact_column(read_split(tigers, "val")),
        input_hw=data.input_hw,
        padding=data.padding,
    )
    return lambda numbers: {name: column[numbers] for name, column in every.items()}


@pytest.fixture
def judge(tiny, tigers, crops, tmp_path) -> Validator:
    return Validator(tiny, tigers, tmp_path, load_crops=crops)


@pytest.fixture
def dark(tigers) -> HeatmapFn:
    """A model that sees nothing."""
    return lambda crops: np.zeros((len(crops), len(tigers.skeleton), 8, 8), np.float32)


@pytest.fixture
def found(judge) -> KeypointPredictions:
    """Every keypoint exactly where it is."""
    truth = judge.truth
    xy = torch.tensor(truth["image_xy"]).float()
    return KeypointPredictions(torch.tensor(truth["id"]), xy, torch.ones(xy.shape[:2]))


def test_a_best_model_that_did_not_fit_is_written_at_the_next_validation(
    tiny, tigers, tmp_path, judge, found, dark, monkeypatch
):
    model = build_model(tiny, tigers)
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room, "save_model", full)
        done, figures = judge.judge(found, model, look=dark, epoch=0, done=TrainState(epoch=-1))

    assert done == TrainState(epoch=-1)  # a run that went on from here would find it again
    assert figures["val/best.OKS_AP"] == figures["val/OKS_AP"] > 0.9
    assert read_events(tmp_path) == ["not written: the best model (No space left on device)"]
    with torch.no_grad():
        model.conv1.weight.add_(1)
    worse = KeypointPredictions(found.ids, found.image_xy + 500, found.scores)

    done, figures = judge.judge(worse, model, look=dark, epoch=1, done=done)

    assert (done.best_epoch, done.best) == (0, figures["val/best.OKS_AP"])
    kept, spec = load_model(tmp_path / "model")
    assert all(torch.equal(weight, best[name]) for name, weight in kept.state_dict().items())
    assert spec.scores["OKS_AP"] == done.best


def test_the_worst_are_drawn_after_each_best_and_the_same_ones_after_each(
    tiny, tigers, tmp_path, judge, found, crops, dark, monkeypatch
):
    model, asked = build_model(tiny, tigers), []
    monkeypatch.setattr(judge, "_crops", lambda numbers: asked.append(numbers) or crops(numbers))
    off = found.image_xy.clone()
    off[2] += 500
    off[4] += 200

    judge.judge(
        KeypointPredictions(found.ids, off, found.scores),
        model,
        look=dark,
        epoch=0,
        done=TrainState(epoch=-1),
    )
    judge.judge(found, model, look=dark, epoch=1, done=TrainState(epoch=0, best_score=1.0))

    assert asked[0][:2].tolist() == [2, 4]
    drawn = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("plots/*/*"))
    assert drawn == [
        "plots/fixed16/epoch_0000.jpg",
        "plots/fixed16/epoch_0001.jpg",
        "plots/worst16/epoch_0000.jpg",
    ]


def test_a_net_that_came_to_no_number_scores_nothing(tiny, tigers, judge, found, dark):
    model = build_model(tiny, tigers)
    nowhere = KeypointPredictions(found.ids, found.image_xy * torch.nan, found.scores * torch.inf)

    _, figures = judge.judge(nowhere, model, look=dark, epoch=0, done=TrainState(epoch=-1))

    assert figures["val/OKS_AP"] == judge.last == 0.0


def test_what_the_model_sees_stands_beside_each_crop(tiny, tigers, tmp_path, judge, found, dark):
    """A light in one corner of one crop's heatmaps is in that crop's other half, in its corner."""
    model, done = build_model(tiny, tigers), TrainState(epoch=0, best_score=1.0)

    def lit(crops: np.ndarray) -> np.ndarray:
        heatmaps = dark(crops)
        heatmaps[1, 0, 6:, :2] = 1
        return heatmaps

    for epoch, look in enumerate((dark, lit)):
        judge.judge(found, model, look=look, epoch=epoch, done=done)

    before, after = (
        codec.read_image(tmp_path / "plots" / "fixed16" / f"epoch_{epoch:04d}.jpg").astype(int)
        for epoch in range(2)
    )
    y, x = np.argwhere(np.abs(after - before).sum(-1) > 300).T
    pair_px = 4 * HEATMAP_TILE_HEIGHT_PX + GAP  # two tiles, each twice as wide as high
    assert before.shape == (3 * (HEATMAP_TILE_HEIGHT_PX + GAP) + GAP, 3 * pair_px + GAP, 3)
    corner = (y - GAP, x - GAP - 1.5 * pair_px)  # the right half of the second pair
    assert len(x) > 100
    assert (
        HEATMAP_TILE_HEIGHT_PX * 0.7 < corner[0].min() <= corner[0].max() < HEATMAP_TILE_HEIGHT_PX
    )
    assert -GAP <= corner[1].min() <= corner[1].max() < HEATMAP_TILE_HEIGHT_PX * 0.6
