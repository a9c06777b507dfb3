"""A net without BatchNorms computes what it did with them."""

import torch
from torch import nn

from hrnet_ray.models import HRNet
from hrnet_ray.models.bn_folding import fold_batchnorm


def a_net() -> HRNet:
    torch.manual_seed(0)
    net = HRNet(8, 5, modules=(1, 2, 1), blocks=2, stem=16)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            part.running_mean = torch.randn(part.num_features) * 0.3
            part.running_var = torch.rand(part.num_features) + 0.5
    return net


def test_every_batchnorm_is_gone_and_the_heatmaps_are_the_same():
    net = a_net().eval()
    crops = torch.randn(2, 3, 64, 96)

    quick = fold_batchnorm(net)

    assert not any(isinstance(part, nn.BatchNorm2d) for part in quick.modules())
    with torch.no_grad():
        plain, found = net(crops), quick(crops)
    assert plain.std() > 0.1
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)


def test_the_net_itself_stays_whole_and_in_its_mode():
    net = a_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}

    quick = fold_batchnorm(net)

    assert net.training
    assert not quick.training
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_memory_order_is_kept():
    net = a_net().to(memory_format=torch.channels_last)

    quick = fold_batchnorm(net)

    assert quick.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_rounded_once_give_what_autocast_gives():
    net, crops = a_net().eval(), torch.randn(2, 3, 64, 96)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain, found = fold_batchnorm(net)(crops), fold_batchnorm(net, bf16=True)(crops)

    assert plain.std() > 0.1
    assert torch.equal(found, plain)
