"""HRNet: published sizes, gradients, equivariance, and overfitting of one batch."""

import copy

import pytest
import torch
from torch import Tensor, nn

from hrnet_ray.models import HRNet
from hrnet_ray.models.hrnet import compute_branch_channels, init_kaiming
from hrnet_ray.pose.heatmaps import decode_heatmaps, encode_heatmaps
from hrnet_ray.pose.losses import keypoint_mse_loss
from tests.small_models import make_small_hrnet


@pytest.mark.parametrize(
    ("width", "keypoints", "parameters"),
    [(32, 16, 28_536_080), (48, 16, 63_595_696), (32, 15, 28_536_047)],
)
def test_number_of_parameters_is_as_published(width: int, keypoints: int, parameters: int):
    with torch.device("meta"):  # shapes only
        net = HRNet(width, keypoints)

    assert sum(tensor.numel() for tensor in net.parameters()) == parameters


def test_each_branch_doubles_the_channels():
    assert compute_branch_channels(32, 4) == [32, 64, 128, 256]


def test_heatmaps_have_a_quarter_of_the_crop_size():
    heatmaps = make_small_hrnet(5).eval()(torch.zeros(2, 3, 96, 64))

    assert heatmaps.shape == (2, 5, 24, 16)


@pytest.mark.parametrize("size_hw", [(100, 64), (64, 100)])
def test_a_crop_size_that_is_not_a_multiple_of_32_is_refused(size_hw: tuple[int, int]):
    height, width = size_hw

    with pytest.raises(ValueError, match=f"multiples of 32, got {height} x {width}"):
        make_small_hrnet(5)(torch.zeros(1, 3, height, width))


def test_weights_are_initialized_as_published():
    net = HRNet(32, 16, modules=(1, 1, 1))

    convolutions = [part for part in net.modules() if isinstance(part, nn.Conv2d)]
    weights = torch.cat([part.weight.flatten() for part in convolutions])
    assert abs(weights.mean()) < 1e-5
    assert abs(weights.std() - 0.001) < 1e-5
    assert net.final_layer.bias is not None
    assert net.final_layer.bias.eq(0).all()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert (part.momentum, part.weight.min(), part.weight.max()) == (0.1, 1, 1)
            assert part.bias.eq(0).all()


def test_kaiming_weights_depend_on_the_fan_out_but_for_the_last_layer():
    net = HRNet(32, 16, modules=(1, 1, 1))
    init_kaiming(net)

    for part in net.modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 5000:
            fan_out = part.out_channels * part.kernel_size[0] * part.kernel_size[1]
            assert part.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert abs(net.final_layer.weight.std() - 0.001) < 2e-4


def test_every_parameter_receives_a_gradient():
    """DDP blocks if a parameter does not contribute to the output."""
    net = make_small_hrnet(5)
    _randomize_weights(net)
    crops = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    net(crops).square().sum().backward()

    idle = [name for name, tensor in net.named_parameters() if tensor.grad is None or tensor.grad.abs().max() == 0]
    assert idle == []


def test_translating_the_image_translates_the_heatmaps():
    net = make_small_hrnet(5).eval()
    _randomize_weights(net)
    crops = torch.zeros(1, 3, 512, 640)
    chance = torch.Generator().manual_seed(0)
    crops[..., 224:288, 288:320] = torch.rand(3, 64, 32, generator=chance)

    with torch.no_grad():
        empty, still, moved = net(0 * crops), net(crops), net(crops.roll(32, -1))

    trace = still - empty  # removes the effect of zero padding at the border
    assert trace.abs().max() > 0.01
    torch.testing.assert_close(moved - empty, trace.roll(8, -1), rtol=1e-3, atol=1e-5)


def test_channels_last_does_not_change_the_heatmaps():
    net = make_small_hrnet(5).eval()
    _randomize_weights(net)
    crops = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        plain = net(crops)
        last = copy.deepcopy(net).to(memory_format=torch.channels_last)(crops.to(memory_format=torch.channels_last))

    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-4)


def test_training_overfits_one_batch():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make_small_hrnet(3, stem=16).train()
        crops = torch.randn(2, 3, 64, 96)
        crop_xy = torch.rand(2, 3, 2) * torch.tensor([80.0, 48.0]) + 8
    target, weights = encode_heatmaps(crop_xy, torch.ones(2, 3) > 0, input_hw=(64, 96), heatmap_hw=(16, 24), sigma=2.0)
    adam = torch.optim.Adam(net.parameters(), lr=5e-3)

    losses = []
    for _ in range(100):
        loss = keypoint_mse_loss(net(crops), target, weights)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())

    assert losses[-1] < 0.05 * losses[0]
    heatmap_xy, _ = decode_heatmaps(net(crops).detach(), method="argmax")
    wanted_xy, _ = decode_heatmaps(target, method="argmax")
    assert (heatmap_xy - wanted_xy).abs().max() <= 1


def _randomize_weights(net: HRNet) -> None:
    """Scale weights to preserve activations; the published initialization gives nearly zero outputs."""
    chance = torch.Generator().manual_seed(0)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            noise: Tensor = torch.randn(part.weight.shape, generator=chance)
            part.weight.data = noise / part.weight[0].numel() ** 0.5
