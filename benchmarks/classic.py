"""The published way to a training batch, as a baseline: a torch Dataset that does all per sample.

Written anew from the description of lib/dataset/JointsDataset.py and lib/utils/transforms.py: the
whole image is decoded, one random similarity cuts the crop, and each keypoint's Gaussian is drawn
in numpy. Half bodies are left out: the MPII recipe has none.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hrnet_ray.data.annotations import PoseInstance
from hrnet_ray.data.images.codec import cv2
from hrnet_ray.pose.augmentation import IMAGENET_MEAN, IMAGENET_STD
from hrnet_ray.pose.geometry import box_to_center_scale

UNIT_PX = 200  # pixels in one unit of scale
REACH_SIGMAS = 3
READ_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

Sample = tuple[Tensor, Tensor, Tensor]
"""Crop float32 [3, H, W], heatmaps float32 [K, Hh, Wh], weights float32 [K, 1]."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The values of the published MPII recipe."""

    flip_order: Sequence[int]
    input_hw: tuple[int, int] = (256, 256)
    heatmap_hw: tuple[int, int] = (64, 64)
    sigma: int = 2
    scale_factor: float = 0.25
    rotation_deg: float = 30.0
    rotation_share: float = 0.6
    flip_share: float = 0.5
    padding: float = 1.25


class ClassicPoses(Dataset):
    """Instances of images below `folder`, each made anew whenever it is asked for."""

    def __init__(self, instances: Sequence[PoseInstance], folder: Path, recipe: Recipe) -> None:
        self.instances, self.folder, self.recipe = instances, folder, recipe
        boxes = torch.tensor([one.box_xywh for one in instances], dtype=torch.float64)
        center_xy, scale_wh = box_to_center_scale(boxes, input_hw=recipe.input_hw, padding=recipe.padding)
        self.center_xy, self.scale_wh = center_xy.numpy(), scale_wh.numpy()

    def __len__(self) -> int:
        return len(self.instances)

    def __getitem__(self, at: int) -> Sample:
        return self.sample(at, (self.folder / self.instances[at].image).read_bytes())

    def sample(self, at: int, data: bytes) -> Sample:
        """One training sample from the bytes of its image."""
        recipe, one = self.recipe, self.instances[at]
        picture = decoded(data)
        image_xy, visible = one.image_xy.copy(), one.visible.astype(np.float64)
        center_xy = self.center_xy[at].copy()
        zoom, turn_deg, mirrored = drawn(recipe)
        if mirrored:
            width = picture.shape[1]
            picture = picture[:, ::-1, :]
            order = list(recipe.flip_order)
            image_xy, visible = image_xy[order], visible[order]
            image_xy[:, 0] = width - 1 - image_xy[:, 0]
            center_xy[0] = width - 1 - center_xy[0]
        matrix = affine(center_xy, self.scale_wh[at] * zoom, turn_deg, input_hw=recipe.input_hw)
        crop = cut(picture, matrix, input_hw=recipe.input_hw)
        crop_xy = np.zeros_like(image_xy)
        for keypoint in np.flatnonzero(visible):
            crop_xy[keypoint] = matrix @ [*image_xy[keypoint], 1.0]
        maps, weights = heatmaps(
            crop_xy,
            visible,
            input_hw=recipe.input_hw,
            heatmap_hw=recipe.heatmap_hw,
            sigma=recipe.sigma,
        )
        return normalised(crop), torch.from_numpy(maps), torch.from_numpy(weights)


def loader(poses: ClassicPoses, *, size: int, workers: int) -> DataLoader:
    """Batches of `size` from `workers` processes, in an order drawn anew each time.

    OpenCV is held to one thread, here and so in the workers: to the baseline's good, for they have
    a core each; and a worker forked from a process with a pool of threads would wait for them.
    """
    cv2.setNumThreads(1)
    return DataLoader(
        poses,
        batch_size=size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def decoded(data: bytes) -> np.ndarray:
    """The whole image, turned to RGB in a second pass.

    Raises:
        ValueError: `data` is no image.
    """
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), READ_FLAGS)
    if picture is None:
        raise ValueError(f"{len(data):,} bytes that are no image")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def drawn(recipe: Recipe) -> tuple[float, float, bool]:
    """Draw the zoom, the turn in degrees, and whether the image is mirrored."""
    spread, degrees = recipe.scale_factor, recipe.rotation_deg
    zoom = np.clip(np.random.randn() * spread + 1, 1 - spread, 1 + spread)
    turn_deg = np.clip(np.random.randn() * degrees, -2 * degrees, 2 * degrees)
    if random.random() > recipe.rotation_share:
        turn_deg = 0.0
    return float(zoom), float(turn_deg), random.random() <= recipe.flip_share


def affine(center_xy: np.ndarray, scale_wh: np.ndarray, turn_deg: float, *, input_hw: tuple[int, int]) -> np.ndarray:
    """The matrix [2, 3] from the image to the crop, by way of three points."""
    height, width = input_hw
    reach, turn = scale_wh[0] * UNIT_PX / 2, np.deg2rad(turn_deg)
    upwards = np.array([np.sin(turn), -np.cos(turn)]) * reach
    return cv2.getAffineTransform(
        _three_points(center_xy, upwards),
        _three_points(np.array([width / 2, height / 2]), np.array([0, -width / 2])),
    )


def cut(picture: np.ndarray, matrix: np.ndarray, *, input_hw: tuple[int, int]) -> np.ndarray:
    """One bilinear warp, black where the image ends."""
    return cv2.warpAffine(picture, matrix, input_hw[::-1], flags=cv2.INTER_LINEAR)


def normalised(crop: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] to float32 [3, H, W] of mean 0 and deviation 1 (torchvision's two steps)."""
    planes = torch.from_numpy(crop.transpose(2, 0, 1)).contiguous().float().div(255)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return planes.sub_(mean).div_(std)


def heatmaps(
    crop_xy: np.ndarray,
    visible: np.ndarray,
    *,
    input_hw: tuple[int, int],
    heatmap_hw: tuple[int, int],
    sigma: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Paste a Gaussian of 3 sigma each way per keypoint; float32 [K, Hh, Wh] and weights [K, 1].

    A keypoint whose window misses the map altogether has the weight 0.
    """
    (height, width), reach = heatmap_hw, REACH_SIGMAS * sigma
    stride_x, stride_y = input_hw[1] / width, input_hw[0] / height
    maps = np.zeros((len(crop_xy), height, width), np.float32)
    weights = visible.astype(np.float32)[:, None]
    for keypoint, (x, y) in enumerate(crop_xy):
        column, row = int(x / stride_x + 0.5), int(y / stride_y + 0.5)  # towards zero
        left, top, right, bottom = column - reach, row - reach, column + reach + 1, row + reach + 1
        if left >= width or top >= height or right < 0 or bottom < 0:
            weights[keypoint] = 0
        elif weights[keypoint] > 0.5:
            bell = _bell(reach, sigma)
            first_x, last_x = max(0, -left), min(right, width) - left
            first_y, last_y = max(0, -top), min(bottom, height) - top
            maps[keypoint, max(0, top) : min(bottom, height), max(0, left) : min(right, width)] = bell[
                first_y:last_y, first_x:last_x
            ]
    return maps, weights


def _bell(reach: int, sigma: int) -> np.ndarray:
    along = np.arange(-reach, reach + 1, dtype=np.float32)
    return np.exp(-(along**2 + along[:, None] ** 2) / (2 * sigma**2))


def _three_points(middle_xy: np.ndarray, upwards: np.ndarray) -> np.ndarray:
    """The middle, the point above it, and the one at a right angle to both; rounded to float32."""
    points = np.zeros((3, 2), np.float32)
    points[0], points[1] = middle_xy, middle_xy + upwards
    down = points[0] - points[1]
    points[2] = points[1] + np.array([-down[1], down[0]], np.float32)
    return points
