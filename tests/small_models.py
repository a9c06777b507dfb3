"""The smallest HRNets: their architecture, settings, specs and random weights."""

from typing import Any

import torch
from torch import nn

from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.models import HRNet
from hrnet_ray.skeletons import Skeleton

SMALL: dict[str, Any] = {"width": 8, "modules": (1, 1, 1), "blocks": 1, "stem": 8}
SMALLEST: dict[str, Any] = SMALL | {"width": 4}


def make_small_hrnet(keypoints: int, **changes: Any) -> HRNet:
    return HRNet(keypoints=keypoints, **SMALL | changes)


def make_spec(skeleton: Skeleton, **changes: Any) -> ModelSpec:
    values: dict[str, Any] = SMALL | {
        "input_hw": (32, 32),
        "padding": 1.25,
        "sigma": 1.0,
        "decode": "quarter",
        "flip_test": True,
        "shift_heatmap": True,
    }
    return ModelSpec(skeleton=skeleton, **values | changes)


def make_random_model(spec: ModelSpec, *, seed: int = 0) -> HRNet:
    """Make a model with Kaiming initialization; the published one gives nearly zero heatmaps."""
    torch.manual_seed(seed)
    return randomize_convolutions(spec.build_model()).eval()


def randomize_convolutions(model: HRNet) -> HRNet:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model
