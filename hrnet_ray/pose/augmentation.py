"""Random warps, mirror images, half bodies and colours, drawn and done on the device.

Every random number is a function of (seed, epoch, row id, purpose) alone: it is the same on a CPU
and on a GPU, independent of the worker and of the other rows of the batch. So an epoch
can be replayed.

The order and the distributions are those of the published training (lib/dataset/JointsDataset.py):
half body, then scale, then rotation, then mirror. Shapes: B batch, K keypoints, H and W rows and
columns.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from hrnet_ray.pose.device_constants import get_cached_constant
from hrnet_ray.pose.geometry import (
    SCALE_UNIT_PX,
    crop_from_image,
    invert_affine,
    pad_to_aspect_ratio,
)

HALF_BODY_PADDING = 1.5
UPPER_BODY_NORMAL_THRESHOLD = 0.5  # published: a NORMAL number below this chooses the upper body, so 69 % do
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # how bright red, green and blue look (ITU-R BT.601)
CPU_CHUNK_SIZE = 4  # canvases warped at once on a CPU: they stay in its cache, which halves the time


@dataclass(frozen=True)
class AugmentationParams:
    """How much chance there is in training. The values are the published ones for MPII."""

    scale_factor: float = 0.25
    """Standard deviation of the size, and the most it changes."""
    rotation_deg: float = 30.0
    """Standard deviation of the rotation; it goes up to twice that."""
    rotation_prob: float = 0.6
    flip_prob: float = 0.5
    half_body_prob: float = 0.0
    half_body_min_visible: int = 9
    """Minimum number of visible keypoints; poses with fewer are not cut to half a body."""
    brightness: float = 0.0
    """The most that a factor differs from 1; so with contrast and saturation."""
    contrast: float = 0.0
    saturation: float = 0.0


@dataclass(frozen=True)
class AffineParams:
    """One way for each image of a batch to be cut out."""

    center_xy: Float[Tensor, "B 2"]
    scale_wh: Float[Tensor, "B 2"]
    rotation_deg: Float[Tensor, " B"]
    mirrored: Bool[Tensor, " B"]

    def crop_from_image(self, *, crop_hw: tuple[int, int]) -> Float[Tensor, "B 3 3"]:
        """Lead image pixels to crop pixels, mirrored where that was drawn."""
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
    """Draw `count` numbers from [0, 1) for each id: SplitMix64 (Steele et al., 2014) on counters.

    Whole-number arithmetic up to the last step, so every device gives the same bits.
    """
    key = hashlib.blake2b(f"{seed}/{epoch}/{purpose}".encode(), digest_size=8).digest()
    start = _hash_splitmix64(row_ids + int.from_bytes(key, "little", signed=True))
    steps = torch.arange(1, count + 1, device=row_ids.device) * _SPLITMIX_INCREMENT
    return _shift_right_logical(_hash_splitmix64(start[:, None] + steps), 40).float() / 2**24


def sample_normal(
    row_ids: Int64[Tensor, " B"], *, seed: int, epoch: int, purpose: str, count: int
) -> Float[Tensor, "B {count}"]:
    """Draw `count` numbers of mean 0 and standard deviation 1 for each id (Box and Muller, 1958).

    Devices may differ in the last bit, as their logarithms and cosines do.
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
    augmentation: AugmentationParams,
    input_hw: tuple[int, int],
) -> AffineParams:
    """Draw how each image is cut out: half body, then scale, then rotation, then mirror."""
    chance = sample_uniform(row_ids, seed=seed, epoch=epoch, purpose="warp: whether", count=3)
    amount = sample_normal(row_ids, seed=seed, epoch=epoch, purpose="warp: how much", count=3)
    halved, rotated, mirrored = (
        chance[:, index] < share
        for index, share in enumerate((augmentation.half_body_prob, augmentation.rotation_prob, augmentation.flip_prob))
    )
    center_xy, scale_wh = apply_half_body_transform(
        image_xy,
        visible,
        center_xy,
        scale_wh,
        upper_body_keypoints=upper_body_keypoints,
        aspect_ratio=input_hw[1] / input_hw[0],
        min_visible=augmentation.half_body_min_visible,
        selected=halved,
        prefers_upper=amount[:, 0] < UPPER_BODY_NORMAL_THRESHOLD,
    )
    spread, degrees = augmentation.scale_factor, augmentation.rotation_deg
    zoom = (amount[:, 1] * spread + 1).clamp(1 - spread, 1 + spread)
    rotation = (amount[:, 2] * degrees).clamp(-2 * degrees, 2 * degrees)
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
    """Look at the upper or the lower body only: the new centres and scales, as published.

    A pose that was not `chosen`, has no more than `above` visible keypoints, or has no extent in
    its half keeps its centre and scale. A half needs 3 visible keypoints, else the other half is
    taken; the upper one with 2 will do where neither has 3. `aspect` is width / height of the crop.
    """
    seen = visible > 0
    half = _select_body_half(seen, upper_body_keypoints, prefers_upper)
    count = half.sum(1, keepdim=True)
    points = torch.where(half[..., None], image_xy, 0.0)  # a hidden point may be NaN
    low_xy = torch.where(half[..., None], image_xy, math.inf).amin(1)
    high_xy = torch.where(half[..., None], image_xy, -math.inf).amax(1)
    extent_wh = pad_to_aspect_ratio(high_xy - low_xy, aspect_ratio)

    usable = selected & (seen.sum(1) >= min_visible) & (count[:, 0] >= 2) & (extent_wh > 0).all(1)
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
    """Cut crops out of canvases: bilinear, black outside, in 0..1.

    Whole numbers are the middles of pixels, as for `cv2.warpAffine`, which rounds positions to 1/32
    of a pixel where this does not.
    """
    places = _compute_sampling_grid(invert_affine(crop_from_canvas).float(), crop_hw, canvases.shape[1:3])
    part = CPU_CHUNK_SIZE if canvases.device.type == "cpu" else max(len(canvases), 1)
    crops = [
        F.grid_sample(_to_channels_first(some), where, align_corners=True)  # pads with 0
        for some, where in zip(canvases.split(part), places.split(part), strict=True)
    ]
    return torch.cat(crops).div_(255)


def flip_keypoints(
    crop_xy: Float[Tensor, "B K 2"],
    visible: Shaped[Tensor, "B K"],
    *,
    mirrored: Bool[Tensor, " B"],
    flip_order: Sequence[int],
) -> tuple[Float[Tensor, "B K 2"], Shaped[Tensor, "B K"]]:
    """Exchange left and right where an image was mirrored.

    The matrix has mirrored the places already; this gives each the name it now deserves.
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
    augmentation: AugmentationParams,
) -> Float[Tensor, "B 3 H W"]:
    """Change brightness, contrast and saturation, each by its own random factor; stay in 0..1.

    Contrast turns about the picture's mean grey, saturation about each pixel's own grey.
    """
    amounts = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    if not any(amounts):
        return crops
    chance = sample_uniform(row_ids, seed=seed, epoch=epoch, purpose="colour", count=3)
    reach = get_cached_constant(amounts, device=chance.device, dtype=chance.dtype)
    factors = 1 + (2 * chance - 1) * reach
    brightness, contrast, saturation = factors.to(crops.dtype)[:, :, None, None, None].unbind(1)
    crops = (crops * brightness).clamp(0, 1)
    crops = torch.lerp(_to_grayscale(crops).mean((-2, -1), keepdim=True), crops, contrast).clamp(0, 1)
    return torch.lerp(_to_grayscale(crops), crops, saturation).clamp(0, 1)


def normalize_imagenet(crops: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Take RGB crops in 0..1 to the mean 0 and the deviation 1 of ImageNet, channel by channel."""
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
    """Where each crop pixel looks, as grid_sample counts: -1 is the first pixel, 1 the last."""
    last_xy = (canvas_hw[1] - 1, canvas_hw[0] - 1)
    to_unit = 2 / get_cached_constant(last_xy, device=canvas_from_crop.device, dtype=canvas_from_crop.dtype)
    linear = canvas_from_crop[:, :2, :2] * to_unit[:, None]
    shift = canvas_from_crop[:, :2, 2] * to_unit - 1
    rows, columns = (torch.arange(length, device=linear.device).float() for length in crop_hw)
    along_x = columns[:, None] * linear[:, None, :, 0]  # [B, W, 2]
    along_y = rows[:, None] * linear[:, None, :, 1] + shift[:, None]  # [B, H, 2]
    return along_y[:, :, None] + along_x[:, None]


def _to_channels_first(canvases: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    return canvases.permute(0, 3, 1, 2).contiguous().float()  # reordered while still 1 byte each


def _to_grayscale(crops: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    return (crops * _to_channel_tensor(LUMA_WEIGHTS, like=crops)).sum(1, keepdim=True)


def _to_channel_tensor(values: Sequence[float], *, like: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "3 1 1"]:
    return get_cached_constant(values, device=like.device, dtype=like.dtype)[:, None, None]


_SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15 - 2**64  # SplitMix64's step, as a signed 64-bit number
_SPLITMIX_MULTIPLIER_A = 0xBF58476D1CE4E5B9 - 2**64
_SPLITMIX_MULTIPLIER_B = 0x94D049BB133111EB - 2**64


def _hash_splitmix64(number: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """SplitMix64's finalizer: any changed bit of `number` flips about half of the bits.

    int64 wraps around as the original's uint64 does; only the shifts must be masked not to keep the
    sign.
    """
    number = (number ^ _shift_right_logical(number, 30)) * _SPLITMIX_MULTIPLIER_A
    number = (number ^ _shift_right_logical(number, 27)) * _SPLITMIX_MULTIPLIER_B
    return number ^ _shift_right_logical(number, 31)


def _shift_right_logical(number: Int64[Tensor, "*shape"], bits: int) -> Int64[Tensor, "*shape"]:
    return (number >> bits) & ((1 << (64 - bits)) - 1)
