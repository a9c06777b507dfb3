"""One epoch of training and one of prediction, with models small enough to check by hand."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from hrnet_ray.data.batch import EvalBatch, TrainBatch, normalize_crops
from hrnet_ray.inference.predict_loop import DecodeConfig, compute_dark_kernel_size, predict_batches
from hrnet_ray.metrics.predictions import KeypointPredictions
from hrnet_ray.models import HRNet
from hrnet_ray.pose.geometry import transform_points
from hrnet_ray.pose.heatmaps import encode_heatmaps
from hrnet_ray.pose.losses import keypoint_mse_loss, keypoint_ohkm_loss
from hrnet_ray.pose.targets import LOSS_FUNCTIONS, HeatmapTargetConfig
from hrnet_ray.training.ema import ModelEma
from hrnet_ray.training.engine import train_epoch
from tests.small_models import make_small_hrnet

INPUT_HW, HEATMAP_HW = (96, 64), (24, 16)
TARGET = HeatmapTargetConfig(input_hw=INPUT_HW, heatmap_hw=HEATMAP_HW, sigma=1.5)
DOTS_HW = (128, 96)
DOTS_XY = torch.tensor(  # left toe, right toe: 6 cells from the border, never half-way between cells
    [[[33.0, 44.5], [61.0, 79.0]], [[28.5, 97.0], [56.5, 53.0]], [[40.5, 49.0], [65.0, 41.0]]]
)


class DotDetector(nn.Module):
    """Finds a bright dot in each half of a crop, and renders its Gaussian: left and right toe."""

    def forward(self, crops: Tensor) -> Tensor:
        height, width = crops.shape[-2:]
        black = normalize_crops(torch.zeros(1, 1, 1, 3, dtype=torch.uint8))
        light = (crops - black).sum(1)
        x, y = torch.arange(width), torch.arange(height)
        dots_xy = []
        for half in (x < width / 2, x >= width / 2):
            masked = light * half
            weight = masked.sum((1, 2))
            sum_x, sum_y = (masked.sum(1) * x).sum(1), (masked.sum(2) * y).sum(1)
            dots_xy.append(torch.stack([sum_x, sum_y], dim=-1) / weight[:, None])
        maps, _ = encode_heatmaps(
            torch.stack(dots_xy, dim=1),
            torch.ones(len(crops), 2),
            input_hw=(height, width),
            heatmap_hw=(height // 4, width // 4),
            sigma=2.0,
            rounded=False,
        )
        return maps


def draw_dots(crop_xy: Tensor) -> Tensor:
    """White dots on black crops, uint8 [B, H, W, 3]."""
    x, y = (
        torch.exp(-(torch.arange(length) - crop_xy[..., axis, None]).square() / 3)
        for axis, length in ((0, DOTS_HW[1]), (1, DOTS_HW[0]))
    )
    light = (y[..., :, None] * x[..., None, :]).sum(1)
    return (255 * light).round().byte()[..., None].expand(-1, -1, -1, 3)


def make_eval_batches() -> tuple[list[EvalBatch], Tensor]:
    """Three crops in two batches, and image_from_crop of each."""
    matrices = torch.zeros(3, 3, 3, dtype=torch.float64)
    for row, zoom in enumerate((0.5, 1.0, 2.0)):
        matrices[row] = torch.tensor([[zoom, 0, 7.0], [0, zoom, -31.0], [0, 0, 1]])
    ids, crops = torch.tensor([40, 5, 17]), draw_dots(DOTS_XY)
    parts = [EvalBatch(ids[part], crops[part], matrices[part]) for part in ([0, 1], [2])]
    return parts, torch.linalg.inv(matrices)


def make_decoding(method: str, *, flip: bool = False, shift: bool = True) -> DecodeConfig:
    flip_order = (1, 0) if flip else None
    return DecodeConfig(method=method, flip_order=flip_order, shift_heatmap=shift, sigma=2.0)


@pytest.mark.parametrize("method", ["argmax", "quarter", "dark"])
def test_predictions_are_in_image_pixels_and_sorted_by_id(method: str):
    cell_xy = DOTS_XY / 4
    whole_xy = cell_xy.round()
    expected = {
        "argmax": 4 * whole_xy,
        "quarter": 4 * (whole_xy + 0.25 * (cell_xy - whole_xy).sign()),
        "dark": DOTS_XY,
    }
    batches, image_from_crop = make_eval_batches()

    predictions = predict_batches(DotDetector(), batches, decoding=make_decoding(method))

    expected_xy = transform_points(image_from_crop, expected[method].double())
    assert predictions.ids.tolist() == [5, 17, 40]
    error = (predictions.image_xy - expected_xy[[1, 2, 0]]).abs().amax((1, 2))
    assert (error * torch.tensor([1.0, 2.0, 0.5]) < 0.1).all()  # in crop pixels
    assert (predictions.scores > 0.9).all()


@pytest.mark.parametrize(("shift", "moved_px"), [(True, 0.5), (False, -1.5)])
def test_the_flip_test_keeps_the_sides_and_shifts_x_as_published(shift: bool, moved_px: float):
    # A mirrored crop's dot at x peaks in cell (W - 1 - x) / 4, so it comes back at x - 3 pixels;
    # shifted by a cell at x + 1. The mean with x is half of that away.
    batches, image_from_crop = make_eval_batches()

    predictions = predict_batches(DotDetector(), batches, decoding=make_decoding("dark", flip=True, shift=shift))

    expected_xy = transform_points(image_from_crop, (DOTS_XY + torch.tensor([moved_px, 0.0])).double())
    error = (predictions.image_xy - expected_xy[[1, 2, 0]]).abs().amax((1, 2))
    assert (error * torch.tensor([1.0, 2.0, 0.5]) < 0.1).all()


@pytest.mark.parametrize("loss", ["mse", "ohkm"])
def test_each_predicted_row_has_the_training_loss(loss: str, monkeypatch):
    monkeypatch.setitem(LOSS_FUNCTIONS, "ohkm", partial(keypoint_ohkm_loss, topk=1))
    batches, image_from_crop = make_eval_batches()
    truth_xy = transform_points(image_from_crop, (DOTS_XY + 3).double())
    visible = torch.tensor([[True, True], [True, False], [False, True]])
    labelled = [
        replace(batch, image_xy=truth_xy[rows], visible=visible[rows])
        for batch, rows in zip(batches, ([0, 1], [2]), strict=True)
    ]
    target = HeatmapTargetConfig(input_hw=DOTS_HW, heatmap_hw=(DOTS_HW[0] // 4, DOTS_HW[1] // 4), sigma=2.0)
    target = replace(target, loss=loss)

    predictions = predict_batches(DotDetector(), labelled, decoding=make_decoding("dark"), target=target)

    expected, weights = encode_heatmaps(
        DOTS_XY + 3,
        visible,
        input_hw=target.input_hw,
        heatmap_hw=target.heatmap_hw,
        sigma=target.sigma,
        rounded=True,
    )
    maps = DotDetector()(normalize_crops(draw_dots(DOTS_XY)))
    mean = LOSS_FUNCTIONS[loss](maps, expected, weights)
    torch.testing.assert_close(predictions.losses.mean(), mean)
    single = LOSS_FUNCTIONS[loss](maps[1:2], expected[1:2], weights[1:2])
    torch.testing.assert_close(predictions.losses[0], single)  # id 5 comes first
    assert predict_batches(DotDetector(), labelled, decoding=make_decoding("dark")).losses is None


def test_no_batches_give_no_predictions():
    predictions = predict_batches(DotDetector(), [], decoding=make_decoding("dark"))

    assert (predictions.ids.shape, predictions.image_xy.shape, predictions.scores.shape) == (
        (0,),
        (0, 0, 2),
        (0, 0),
    )


def test_concatenated_predictions_are_sorted_by_id():
    def part(*ids: int) -> KeypointPredictions:
        rows = torch.tensor(ids)
        return KeypointPredictions(rows, rows.float()[:, None, None].expand(-1, 1, 2), rows[:, None] / 10)

    whole = KeypointPredictions.concat_parts([part(9, 2), KeypointPredictions.make_empty(), part(4)])

    assert whole.ids.tolist() == [2, 4, 9]
    assert whole.image_xy.tolist() == [[[2.0, 2.0]], [[4.0, 4.0]], [[9.0, 9.0]]]
    assert torch.equal(whole.scores, torch.tensor([[0.2], [0.4], [0.9]]))


@pytest.mark.parametrize(("sigma", "cells"), [(2.0, 11), (3.0, 17), (1.5, 9), (0.1, 3)])
def test_the_dark_kernel_is_that_of_darkpose_and_odd_for_other_heatmap_sigmas(sigma: float, cells: int):
    assert compute_dark_kernel_size(sigma) == cells


def make_train_batch() -> TrainBatch:
    generator = torch.Generator().manual_seed(3)
    crops = torch.randn(4, 3, *INPUT_HW, generator=generator)
    crop_xy = torch.rand(4, 2, 2, generator=generator) * torch.tensor([48.0, 80.0]) + 8
    return TrainBatch(crops, crop_xy, torch.ones(4, 2, dtype=torch.bool))


def make_tiny_model(*, lr: float, seed: int = 0) -> tuple[HRNet, torch.optim.Adam, torch.optim.lr_scheduler.LambdaLR]:
    torch.manual_seed(seed)
    model = make_small_hrnet(2, stem=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def test_a_tiny_hrnet_overfits_one_batch():
    model, optimizer, scheduler = make_tiny_model(lr=5e-3)
    batch = make_train_batch()

    first = train_epoch(model, [batch], optimizer, scheduler, target=TARGET)
    for _ in range(8):
        last = train_epoch(model, [batch] * 10, optimizer, scheduler, target=TARGET)

    assert last < 0.02 * first  # 0.3 % at most, on eight seeds


def test_an_epoch_returns_the_mean_loss_and_counts_crops():
    model, optimizer, scheduler = make_tiny_model(lr=0.0)
    whole = make_train_batch()
    parts = [TrainBatch(whole.crops[rows], whole.crop_xy[rows], whole.visible[rows]) for rows in ([0, 1, 2], [3])]
    crop_counts: list[int] = []

    loss = train_epoch(model, parts, optimizer, scheduler, target=TARGET, on_step=crop_counts.append)

    expected = []
    for part in parts:
        maps, weights = encode_heatmaps(part.crop_xy, part.visible, input_hw=INPUT_HW, heatmap_hw=HEATMAP_HW, sigma=1.5)
        expected.append(keypoint_mse_loss(model(part.crops), maps, weights))
    assert torch.allclose(loss, (expected[0] + expected[1]) / 2, rtol=1e-5)
    assert crop_counts == [3, 1]
    assert scheduler.last_epoch == 2
    assert model.training


def test_a_hidden_keypoint_has_no_gradient():
    batch = make_train_batch()
    hidden = TrainBatch(batch.crops, batch.crop_xy, torch.zeros(4, 2, dtype=torch.bool))
    model, optimizer, scheduler = make_tiny_model(lr=1e-2)
    before = model.final_layer.weight.clone()

    loss = train_epoch(model, [hidden], optimizer, scheduler, target=TARGET)

    assert loss == 0.0
    assert torch.equal(model.final_layer.weight, before)


def test_prediction_does_not_change_the_model():
    model, _, _ = make_tiny_model(lr=0.0)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    predict_batches(model, make_eval_batches()[0], decoding=make_decoding("dark", flip=True))

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def freeze_batchnorm(model: HRNet) -> HRNet:
    """Let BatchNorm use its running statistics, in training too."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.track_running_stats, part.momentum = True, 0.0
            part.train = lambda mode=True, part=part: part  # type: ignore[method-assign]
            part.training = False
    return model


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_gradient_accumulation_takes_the_step_of_the_whole_batch_except_for_batchnorm(parts: int):
    batch = make_train_batch()
    whole = TrainBatch(*(torch.cat([x, x.flip(0)[:2]]) for x in list(vars(batch).values())[:3]), 0.5)
    results = {}
    for num_parts in (1, parts):
        model, _, _ = make_tiny_model(lr=1.0)
        for weight in freeze_batchnorm(model).parameters():
            weight.data = weight.data.double() * 20
        model.double()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)
        float64_batch = TrainBatch(whole.crops.double(), whole.crop_xy, whole.visible, whole.loss_weight)
        loss = train_epoch(
            model,
            [float64_batch],
            sgd,
            scheduler,
            target=TARGET,
            gradient_accumulation_steps=num_parts,
        )
        results[num_parts] = loss, nn.utils.parameters_to_vector(model.parameters())
        assert scheduler.last_epoch == 1

    (loss, weights), (loss_in_parts, weights_in_parts) = results.values()
    torch.testing.assert_close(loss_in_parts, loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(weights_in_parts, weights, rtol=1e-5, atol=1e-7)


def test_only_a_long_gradient_is_clipped():
    moved = {}
    for max_grad_norm in (0.0, 1e-3, 1e3):
        model, _, _ = make_tiny_model(lr=1.0)
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        sgd = torch.optim.SGD(model.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)
        train_epoch(model, [make_train_batch()], sgd, scheduler, target=TARGET, max_grad_norm=max_grad_norm)
        after = nn.utils.parameters_to_vector(model.parameters()).detach()
        moved[max_grad_norm] = (after - before).norm().item()

    assert moved[1e3] == moved[0.0] > 1e-3
    assert moved[1e-3] == pytest.approx(1e-3, rel=0.02)


def test_the_ema_is_updated_after_each_step():
    model, optimizer, scheduler = make_tiny_model(lr=1e-2)
    ema = ModelEma(model, decay=0.9)

    train_epoch(model, [make_train_batch()] * 3, optimizer, scheduler, target=TARGET, ema=ema)

    assert ema.steps == 3
    assert not torch.equal(ema.averaged_weights["conv1.weight"], model.conv1.weight)


def test_heatmaps_are_float32_under_autocast():
    model, _, _ = make_tiny_model(lr=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        heatmaps = model(make_train_batch().crops)

    assert heatmaps.dtype == torch.float32
    assert not torch.equal(heatmaps, heatmaps.bfloat16().float())
