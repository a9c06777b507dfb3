"""The losses: against a loop over keypoints, and by hand."""

import pytest
import torch
from torch.nn import functional as F

from hrnet_ray.pose.losses import keypoint_mse_loss, keypoint_ohkm_loss


def test_one_wrong_cell_costs_half_its_square_over_all_cells():
    predicted, target = torch.zeros(1, 2, 4, 3), torch.zeros(1, 2, 4, 3)
    predicted[0, 1, 2, 1] = 6.0

    loss = keypoint_mse_loss(predicted, target, torch.ones(1, 2))

    assert loss.item() == pytest.approx(0.5 * 36 / (2 * 4 * 3))


def test_a_weight_counts_squared():
    predicted, target, _ = _maps()
    ones = torch.ones(3, 5)

    assert keypoint_mse_loss(predicted, target, 0.5 * ones).item() == pytest.approx(
        0.25 * keypoint_mse_loss(predicted, target, ones).item()
    )


def test_a_hidden_keypoint_neither_costs_nor_teaches():
    predicted, target, weights = _maps()
    predicted.requires_grad_()
    weights[:, 2] = 0.0

    keypoint_mse_loss(predicted, target, weights).backward()

    assert predicted.grad is not None
    assert predicted.grad[:, 2].eq(0).all()
    assert predicted.grad[:, 1].ne(0).all()


def test_the_loss_is_the_mean_over_keypoints_of_half_their_mean_square():
    predicted, target, weights = _maps()
    scaled = weights[..., None, None]

    each = [0.5 * F.mse_loss(predicted[:, k] * scaled[:, k], target[:, k] * scaled[:, k]) for k in range(5)]

    torch.testing.assert_close(keypoint_mse_loss(predicted, target, weights), sum(each) / 5)


def test_halves_of_a_batch_average_to_the_whole():
    predicted, target, weights = (torch.cat([part, part * 0.3]) for part in _maps())

    first, second = (
        keypoint_mse_loss(predicted[half], target[half], weights[half]) for half in (slice(0, 3), slice(3, 6))
    )

    torch.testing.assert_close((first + second) / 2, keypoint_mse_loss(predicted, target, weights))


def test_hard_mining_over_all_keypoints_is_the_plain_loss():
    predicted, target, weights = _maps()

    torch.testing.assert_close(
        keypoint_ohkm_loss(predicted, target, weights, topk=5),
        keypoint_mse_loss(predicted, target, weights),
    )


def test_hard_mining_keeps_each_pictures_own_worst_keypoints():
    predicted, target = torch.zeros(2, 3, 2, 1), torch.zeros(2, 3, 2, 1)
    predicted[0] = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    predicted[1] = torch.tensor([6.0, 5.0, 4.0])[:, None, None]

    loss = keypoint_ohkm_loss(predicted, target, torch.ones(2, 3), topk=2)

    assert loss.item() == pytest.approx(0.5 * (9 + 4 + 36 + 25) / 4)


@pytest.mark.parametrize("topk", [0, 6])
def test_more_hard_keypoints_than_there_are_is_refused(topk: int):
    predicted, target, weights = _maps()

    with pytest.raises(ValueError, match=f"between 1 and the 5 keypoints, got {topk}"):
        keypoint_ohkm_loss(predicted, target, weights, topk=topk)


def _maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    predicted = torch.rand(3, 5, 8, 6, generator=chance)
    target = torch.rand(3, 5, 8, 6, generator=chance)
    return predicted, target, torch.rand(3, 5, generator=chance)
