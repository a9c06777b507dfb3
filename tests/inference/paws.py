"""Small model with random weights, and a test image."""

import cv2
import numpy as np

from hrnet_ray.models import HRNet
from hrnet_ray.skeletons import Skeleton
from tests.small_models import make_random_model, make_spec

PAWS = Skeleton(name="paws", keypoints=("left_paw", "right_paw", "nose"))
SPEC = make_spec(PAWS, input_hw=(96, 64), sigma=2.0)
BOXES = np.array([[20.0, 10.0, 50.0, 40.0], [70.5, 30.0, 60.0, 80.0], [-15.0, 60.0, 90.0, 70.0]])


def make_paws_model() -> HRNet:
    return make_random_model(SPEC, seed=6)


def make_test_image() -> np.ndarray:
    """Make an image of blurred noise: RGB uint8 [120, 150, 3]."""
    noise = np.random.default_rng(8).uniform(0, 255, (120, 150, 3))
    return np.clip(5 * (cv2.GaussianBlur(noise, (0, 0), 2) - 127) + 127, 0, 255).astype(np.uint8)
