"""Small model with random weights, and a test image."""

import cv2
import numpy as np
import torch
from torch import nn

from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.models import HRNet
from hrnet_ray.skeletons import Skeleton

PAWS = Skeleton(name="paws", keypoints=("left_paw", "right_paw", "nose"))
SPEC = ModelSpec(
    skeleton=PAWS,
    width=8,
    modules=(1, 1, 1),
    blocks=1,
    stem=8,
    input_hw=(96, 64),
    padding=1.25,
    sigma=2.0,
    decode="quarter",
    flip_test=True,
    shift_heatmap=True,
)
BOXES = np.array([[20.0, 10.0, 50.0, 40.0], [70.5, 30.0, 60.0, 80.0], [-15.0, 60.0, 90.0, 70.0]])


def make_random_model() -> HRNet:
    """Make a model with Kaiming initialization; the published one gives nearly zero heatmaps."""
    torch.manual_seed(6)
    model = SPEC.build_model()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model.eval()


def make_test_image() -> np.ndarray:
    """Make an image of blurred noise: RGB uint8 [120, 150, 3]."""
    noise = np.random.default_rng(8).uniform(0, 255, (120, 150, 3))
    return np.clip(5 * (cv2.GaussianBlur(noise, (0, 0), 2) - 127) + 127, 0, 255).astype(np.uint8)
