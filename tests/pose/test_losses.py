"""Losses: compared with a loop over keypoints, and with values computed by hand."""

import pytest
import torch
from torch.nn import functional as F

from hrnet_ray.pose.losses import keypoint_mse_loss, keypoint_ohkm_loss


def test_mse_of_one_wrong_cell_is_half_its_square_over_all_cells():
    predicted, target = torch.zeros(1, 2, 4, 3), torch.zeros(1, 2, 4, 3)
    predicted[0, 1, 2, 1] = 6.0

    loss = keypoint_mse_loss(predicted, target, torch.ones(1, 2))

    assert loss.item() == pytest.approx(0.5 * 36 / (2 * 4 * 3))


def test_weights_enter_the_loss_squared():
    predicted, target, _ = _make_heatmaps()
    ones = torch.ones(3, 5)

    assert keypoint_mse_loss(predicted, target, 0.5 * ones).item() == pytest.approx(
        0.25 * keypoint_mse_loss(predicted, target, ones).item()
    )


def test_a_keypoint_of_weight_zero_has_no_gradient():
    predicted, target, weights = _make_heatmaps()
    predicted.requires_grad_()
    weights[:, 2] = 0.0

    keypoint_mse_loss(predicted, target, weights).backward()

    assert predicted.grad is not None
    assert predicted.grad[:, 2].eq(0).all()
    assert predicted.grad[:, 1].ne(0).all()


def test_mse_equals_the_mean_of_half_mse_per_keypoint():
    predicted, target, weights = _make_heatmaps()
    scaled = weights[..., None, None]

    losses = [0.5 * F.mse_loss(predicted[:, k] * scaled[:, k], target[:, k] * scaled[:, k]) for k in range(5)]

    torch.testing.assert_close(keypoint_mse_loss(predicted, target, weights), sum(losses) / 5)


def test_mse_of_a_batch_is_the_mean_of_its_halves():
    predicted, target, weights = (torch.cat([part, part * 0.3]) for part in _make_heatmaps())

    first, second = (
        keypoint_mse_loss(predicted[half], target[half], weights[half]) for half in (slice(0, 3), slice(3, 6))
    )

    torch.testing.assert_close((first + second) / 2, keypoint_mse_loss(predicted, target, weights))


def test_ohkm_over_all_keypoints_equals_mse():
    predicted, target, weights = _make_heatmaps()

    torch.testing.assert_close(
        keypoint_ohkm_loss(predicted, target, weights, topk=5),
        keypoint_mse_loss(predicted, target, weights),
    )


def test_ohkm_selects_the_worst_keypoints_of_each_instance():
    predicted, target = torch.zeros(2, 3, 2, 1), torch.zeros(2, 3, 2, 1)
    predicted[0] = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    predicted[1] = torch.tensor([6.0, 5.0, 4.0])[:, None, None]

    loss = keypoint_ohkm_loss(predicted, target, torch.ones(2, 3), topk=2)

    assert loss.item() == pytest.approx(0.5 * (9 + 4 + 36 + 25) / 4)


@pytest.mark.parametrize("topk", [0, 6])
def test_ohkm_refuses_topk_outside_the_number_of_keypoints(topk: int):
    predicted, target, weights = _make_heatmaps()

    with pytest.raises(ValueError, match=rf"between 1 and the number of keypoints \(5\), got {topk}"):
        keypoint_ohkm_loss(predicted, target, weights, topk=topk)


def _make_heatmaps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.rand(3, 5, 8, 6, generator=generator)
    target = torch.rand(3, 5, 8, 6, generator=generator)
    return predicted, target, torch.rand(3, 5, generator=generator)
