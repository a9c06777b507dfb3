"""Data augmentation on the device: half body, scale, rotation, mirroring and color jitter.

A random number depends only on (seed, epoch, row id, purpose), not on the device, the worker or
the other rows of the batch. An epoch can therefore be replayed.

Order and distributions are those of the published training (lib/dataset/JointsDataset.py): half
body, then scale, then rotation, then mirroring. Shapes: B batch, K keypoints, H rows, W columns.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from hrnet_ray.config import AugmentationConfig
from hrnet_ray.pose.device_constants import get_cached_constant
from hrnet_ray.pose.geometry import (
    SCALE_UNIT_PX,
    crop_from_image,
    invert_affine,
    pad_to_aspect_ratio,
)

HALF_BODY_PADDING = 1.5
UPPER_BODY_NORMAL_THRESHOLD = 0.5  # published: a normal, not uniform, sample below this selects the upper body (69 %)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # luma of red, green and blue (ITU-R BT.601)
CPU_CHUNK_SIZE = 4  # canvases per warp on a CPU; so few fit into its cache, which halves the time


@dataclass(frozen=True)
class AffineParams:
    """Crop region, rotation and mirroring of each image of a batch."""

    center_xy: Float[Tensor, "B 2"]
    scale_wh: Float[Tensor, "B 2"]
    rotation_deg: Float[Tensor, " B"]
    mirrored: Bool[Tensor, " B"]

    def crop_from_image(self, *, crop_hw: tuple[int, int]) -> Float[Tensor, "B 3 3"]:
        """Build the matrices from image pixels to crop pixels, mirrored where `mirrored` is true."""
        return crop_from_image(
            self.center_xy,
            self.scale_wh,
            self.rotation_deg,
            crop_hw=crop_hw,
            mirrored=self.mirrored,
        )


def sample_uniform(
    row_ids: Int64[Tensor, " B"], *, seed: int, epoch: int, purpose: str, count: int
) -> Float[Tensor, "B {count}"]:
    """Sample `count` numbers from [0, 1) per id: SplitMix64 (Steele et al., 2014) on counters.

    The arithmetic is integer up to the last step, so every device returns the same bits.
    """
    key = hashlib.blake2b(f"{seed}/{epoch}/{purpose}".encode(), digest_size=8).digest()
    start = _hash_splitmix64(row_ids + int.from_bytes(key, "little", signed=True))
    steps = torch.arange(1, count + 1, device=row_ids.device) * _SPLITMIX_INCREMENT
    return _shift_right_logical(_hash_splitmix64(start[:, None] + steps), 40).float() / 2**24


def sample_normal(
    row_ids: Int64[Tensor, " B"], *, seed: int, epoch: int, purpose: str, count: int
) -> Float[Tensor, "B {count}"]:
    """Sample `count` standard normal numbers per id (Box and Muller, 1958).

    The last bit may differ between devices, because logarithm and cosine do.
    """
    uniform = sample_uniform(row_ids, seed=seed, epoch=epoch, purpose=purpose, count=2 * count)
    radius_from, angle_from = uniform.chunk(2, dim=1)
    radius = (-2 * torch.log(1 - radius_from)).sqrt()  # 1 - u: u may be 0, never 1
    return radius * torch.cos(2 * math.pi * angle_from)


def sample_affine_params(
    row_ids: Int64[Tensor, " B"],
    *,
    seed: int,
    epoch: int,
    image_xy: Float[Tensor, "B K 2"],
    visible: Shaped[Tensor, "B K"],
    center_xy: Float[Tensor, "B 2"],
    scale_wh: Float[Tensor, "B 2"],
    upper_body_keypoints: Sequence[int],
    augmentation: AugmentationConfig,
    input_hw: tuple[int, int],
) -> AffineParams:
    """Sample the crop of each image: half body, then shift, scale, rotation and mirroring."""
    uniform = sample_uniform(row_ids, seed=seed, epoch=epoch, purpose="warp: whether", count=3)
    normal = sample_normal(row_ids, seed=seed, epoch=epoch, purpose="warp: how much", count=3)
    takes_half_body, rotated, mirrored = (
        uniform[:, index] < probability
        for index, probability in enumerate(
            (augmentation.half_body_prob, augmentation.rotation_prob, augmentation.flip_prob)
        )
    )
    center_xy, scale_wh = apply_half_body_transform(
        image_xy,
        visible,
        center_xy,
        scale_wh,
        upper_body_keypoints=upper_body_keypoints,
        aspect_ratio=input_hw[1] / input_hw[0],
        min_visible=augmentation.half_body_min_visible,
        selected=takes_half_body,
        prefers_upper=normal[:, 0] < UPPER_BODY_NORMAL_THRESHOLD,
    )
    if augmentation.shift_factor:
        shift = sample_normal(row_ids, seed=seed, epoch=epoch, purpose="warp: shift", count=2).clamp(-2, 2)
        center_xy = center_xy + (shift * augmentation.shift_factor * SCALE_UNIT_PX).to(scale_wh.dtype) * scale_wh
    spread, degrees = augmentation.scale_factor, augmentation.rotation_deg
    zoom = (normal[:, 1] * spread + 1).clamp(1 - spread, 1 + spread)
    rotation = (normal[:, 2] * degrees).clamp(-2 * degrees, 2 * degrees)
    return AffineParams(
        center_xy=center_xy,
        scale_wh=scale_wh * zoom[:, None].to(scale_wh.dtype),
        rotation_deg=torch.where(rotated, rotation, 0.0).to(scale_wh.dtype),
        mirrored=mirrored,
    )


def apply_half_body_transform(
    image_xy: Float[Tensor, "B K 2"],
    visible: Shaped[Tensor, "B K"],
    center_xy: Float[Tensor, "B 2"],
    scale_wh: Float[Tensor, "B 2"],
    *,
    upper_body_keypoints: Sequence[int],
    aspect_ratio: float,
    min_visible: int,
    selected: Bool[Tensor, " B"],
    prefers_upper: Bool[Tensor, " B"],
) -> tuple[Float[Tensor, "B 2"], Float[Tensor, "B 2"]]:
    """Restrict crops to the upper or the lower body, as published; return new centers and scales.

    A pose keeps its center and scale if it is not `selected`, has fewer than `min_visible` visible
    keypoints, or its half has no extent. A half with fewer than 3 visible keypoints is replaced by
    the other one. If neither has 3, the upper half is used, which then needs 2.
    `aspect_ratio` is width / height of the crop.
    """
    is_visible = visible > 0
    half = _select_body_half(is_visible, upper_body_keypoints, prefers_upper)
    count = half.sum(1, keepdim=True)
    points = torch.where(half[..., None], image_xy, 0.0)  # a hidden point may be NaN
    low_xy = torch.where(half[..., None], image_xy, math.inf).amin(1)
    high_xy = torch.where(half[..., None], image_xy, -math.inf).amax(1)
    extent_wh = pad_to_aspect_ratio(high_xy - low_xy, aspect_ratio)

    usable = selected & (is_visible.sum(1) >= min_visible) & (count[:, 0] >= 2) & (extent_wh > 0).all(1)
    half_center_xy = points.sum(1) / count.clamp_min(1)
    half_scale_wh = extent_wh * (HALF_BODY_PADDING / SCALE_UNIT_PX)
    return (
        torch.where(usable[:, None], half_center_xy.to(center_xy.dtype), center_xy),
        torch.where(usable[:, None], half_scale_wh.to(scale_wh.dtype), scale_wh),
    )


def warp_images(
    canvases: UInt8[Tensor, "B Hc Wc 3"],
    crop_from_canvas: Float[Tensor, "B 3 3"],
    *,
    crop_hw: tuple[int, int],
) -> Float[Tensor, "B 3 {crop_hw[0]} {crop_hw[1]}"]:
    """Warp canvases to crops with values in 0..1: bilinear, black outside the canvas.

    Integer coordinates are pixel centers, as in `cv2.warpAffine`. OpenCV rounds positions to 1/32
    of a pixel; this function does not.
    """
    grids = _compute_sampling_grid(invert_affine(crop_from_canvas).float(), crop_hw, canvases.shape[1:3])
    chunk_size = CPU_CHUNK_SIZE if canvases.device.type == "cpu" else max(len(canvases), 1)
    crops = [
        F.grid_sample(_to_channels_first(chunk), grid, align_corners=True)  # pads with 0
        for chunk, grid in zip(canvases.split(chunk_size), grids.split(chunk_size), strict=True)
    ]
    return torch.cat(crops).div_(255)


def flip_keypoints(
    crop_xy: Float[Tensor, "B K 2"],
    visible: Shaped[Tensor, "B K"],
    *,
    mirrored: Bool[Tensor, " B"],
    flip_order: Sequence[int],
) -> tuple[Float[Tensor, "B K 2"], Shaped[Tensor, "B K"]]:
    """Exchange left and right keypoints of mirrored images.

    The crop matrix has mirrored the coordinates already; this function reorders the keypoints.
    """
    order = get_cached_constant(flip_order, device=crop_xy.device, dtype=torch.int64)
    return (
        torch.where(mirrored[:, None, None], crop_xy[:, order], crop_xy),
        torch.where(mirrored[:, None], visible[:, order], visible),
    )


def apply_color_jitter(
    crops: Float[Tensor, "B 3 H W"],
    row_ids: Int64[Tensor, " B"],
    *,
    seed: int,
    epoch: int,
    augmentation: AugmentationConfig,
) -> Float[Tensor, "B 3 H W"]:
    """Multiply brightness, contrast and saturation by random factors; values stay in 0..1.

    Contrast scales the difference from the mean gray of the crop, saturation the difference from
    the gray of each pixel.
    """
    amounts = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    if not any(amounts):
        return crops
    uniform = sample_uniform(row_ids, seed=seed, epoch=epoch, purpose="colour", count=3)
    max_change = get_cached_constant(amounts, device=uniform.device, dtype=uniform.dtype)
    factors = 1 + (2 * uniform - 1) * max_change
    brightness, contrast, saturation = factors.to(crops.dtype)[:, :, None, None, None].unbind(1)
    crops = (crops * brightness).clamp(0, 1)
    crops = torch.lerp(_to_grayscale(crops).mean((-2, -1), keepdim=True), crops, contrast).clamp(0, 1)
    return torch.lerp(_to_grayscale(crops), crops, saturation).clamp(0, 1)


def normalize_imagenet(crops: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Normalize RGB crops in 0..1 by the mean and standard deviation of ImageNet per channel."""
    mean, std = (_to_channel_tensor(values, like=crops) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (crops - mean) / std


def _select_body_half(
    visible: Bool[Tensor, "B K"],
    upper_body_keypoints: Sequence[int],
    prefers_upper: Bool[Tensor, " B"],
) -> Bool[Tensor, "B K"]:
    is_upper = get_cached_constant(
        [k in upper_body_keypoints for k in range(visible.shape[1])],
        device=visible.device,
        dtype=torch.bool,
    )
    upper, lower = visible & is_upper, visible & ~is_upper
    takes_upper = (prefers_upper & (upper.sum(1) > 2)) | (lower.sum(1) <= 2)
    return torch.where(takes_upper[:, None], upper, lower)


def _compute_sampling_grid(
    canvas_from_crop: Float[Tensor, "B 3 3"], crop_hw: tuple[int, int], canvas_hw: Sequence[int]
) -> Float[Tensor, "B {crop_hw[0]} {crop_hw[1]} 2"]:
    """Compute the canvas position of each crop pixel for grid_sample: -1 first pixel, 1 last."""
    last_xy = (canvas_hw[1] - 1, canvas_hw[0] - 1)
    to_unit = 2 / get_cached_constant(last_xy, device=canvas_from_crop.device, dtype=canvas_from_crop.dtype)
    linear = canvas_from_crop[:, :2, :2] * to_unit[:, None]
    shift = canvas_from_crop[:, :2, 2] * to_unit - 1
    rows, columns = (torch.arange(length, device=linear.device).float() for length in crop_hw)
    along_x = columns[:, None] * linear[:, None, :, 0]  # [B, W, 2]
    along_y = rows[:, None] * linear[:, None, :, 1] + shift[:, None]  # [B, H, 2]
    return along_y[:, :, None] + along_x[:, None]


def _to_channels_first(canvases: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    return canvases.permute(0, 3, 1, 2).contiguous().float()  # reordered while a value is 1 byte


def _to_grayscale(crops: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    return (crops * _to_channel_tensor(LUMA_WEIGHTS, like=crops)).sum(1, keepdim=True)


def _to_channel_tensor(values: Sequence[float], *, like: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "3 1 1"]:
    return get_cached_constant(values, device=like.device, dtype=like.dtype)[:, None, None]


_SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15 - 2**64  # increment of SplitMix64 as a signed 64-bit integer
_SPLITMIX_MULTIPLIER_A = 0xBF58476D1CE4E5B9 - 2**64
_SPLITMIX_MULTIPLIER_B = 0x94D049BB133111EB - 2**64


def _hash_splitmix64(number: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Apply the finalizer of SplitMix64: one changed bit of `number` flips about half of the bits.

    int64 wraps around like the uint64 of the original. Only right shifts differ: they are masked
    to drop the sign.
    """
    number = (number ^ _shift_right_logical(number, 30)) * _SPLITMIX_MULTIPLIER_A
    number = (number ^ _shift_right_logical(number, 27)) * _SPLITMIX_MULTIPLIER_B
    return number ^ _shift_right_logical(number, 31)


def _shift_right_logical(number: Int64[Tensor, "*shape"], bits: int) -> Int64[Tensor, "*shape"]:
    return (number >> bits) & ((1 << (64 - bits)) - 1)
