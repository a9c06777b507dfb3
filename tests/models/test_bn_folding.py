"""A model with folded BatchNorms computes the same heatmaps."""

import torch
from torch import nn

from hrnet_ray.models import HRNet
from hrnet_ray.models.bn_folding import fold_batchnorm


def make_model() -> HRNet:
    torch.manual_seed(0)
    model = HRNet(8, 5, modules=(1, 2, 1), blocks=2, stem=16)
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            part.running_mean = torch.randn(part.num_features) * 0.3
            part.running_var = torch.rand(part.num_features) + 0.5
    return model


def test_folding_removes_all_batchnorms_and_keeps_the_heatmaps():
    model = make_model().eval()
    crops = torch.randn(2, 3, 64, 96)

    folded = fold_batchnorm(model)

    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    with torch.no_grad():
        expected, heatmaps = model(crops), folded(crops)
    assert expected.std() > 0.1
    torch.testing.assert_close(heatmaps, expected, rtol=1e-3, atol=1e-4)


def test_folding_does_not_change_the_original_model():
    model = make_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    folded = fold_batchnorm(model)

    assert model.training
    assert not folded.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_folding_keeps_channels_last():
    model = make_model().to(memory_format=torch.channels_last)

    folded = fold_batchnorm(model)

    assert folded.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_bf16_folding_equals_autocast():
    model, crops = make_model().eval(), torch.randn(2, 3, 64, 96)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, heatmaps = fold_batchnorm(model)(crops), fold_batchnorm(model, bf16=True)(crops)

    assert expected.std() > 0.1
    assert torch.equal(heatmaps, expected)
