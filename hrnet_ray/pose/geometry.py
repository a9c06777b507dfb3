"""Affine transforms between image, crop and heatmap coordinates.

A matrix is named `to_from`, so adjacent frames in a product match: `heatmap_from_crop @
crop_from_image`. Conventions follow the published HRNet code (lib/utils/transforms.py): an instance
is a center and a scale in units of 200 px, and its center maps to (W / 2, H / 2) of the crop.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hrnet_ray.pose.device_constants import get_cached_constant

SCALE_UNIT_PX = 200.0  # image pixels per unit of scale, as in MPII's annotations


def box_to_center_scale(
    box_xywh: Float[Tensor, "N 4"], *, input_hw: tuple[int, int], padding: float | int = 1.25
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N 2"]]:
    """Convert boxes (corner and size, image pixels) to centers and padded scales (units of 200 px).

    The shorter side is lengthened to the aspect ratio of `input_hw`. Both sides are then multiplied
    by `padding`.
    """
    corner_xy, box_wh = box_xywh[:, :2], box_xywh[:, 2:]
    aspect = input_hw[1] / input_hw[0]
    return corner_xy + box_wh * 0.5, pad_to_aspect_ratio(box_wh, aspect) * (padding / SCALE_UNIT_PX)


def pad_to_aspect_ratio(size_wh: Float[Tensor, "N 2"], aspect_ratio: float) -> Float[Tensor, "N 2"]:
    """Lengthen the shorter side until width / height equals `aspect_ratio`."""
    width, height = size_wh.unbind(-1)
    return torch.stack(
        [torch.maximum(width, height * aspect_ratio), torch.maximum(height, width / aspect_ratio)],
        -1,
    )


def crop_from_image(
    center_xy: Float[Tensor, "N 2"],
    scale_wh: Float[Tensor, "N 2"],
    rotation_deg: Float[Tensor, " N"],
    *,
    crop_hw: tuple[int, int],
    mirrored: Bool[Tensor, " N"] | None = None,
) -> Float[Tensor, "N 3 3"]:
    """Build matrices from image to crop pixels: the published three-point transform in closed form.

    The transform is a similarity and uses only the width of `scale_wh`; `box_to_center_scale`
    returns scales with the aspect ratio of the crop. With the heatmap's size as `crop_hw`, the
    matrix maps to heatmap cells: heatmap_xy = crop_xy / 4, without a half-pixel term. `mirrored`
    instances are flipped about their center first, then rotated and cropped, as published.
    """
    height, width = crop_hw
    crop_middle_xy = get_cached_constant(
        (width / 2, height / 2), device=center_xy.device, dtype=_select_exact_dtype(center_xy)
    )
    linear, anchor_xy = _compute_three_point_transform(center_xy, scale_wh[:, 0], rotation_deg, width)
    if mirrored is not None:
        linear = _mirror_x(linear, mirrored)
    shift = crop_middle_xy - (linear @ anchor_xy[..., None]).squeeze(-1)
    return _build_affine_matrix(linear, shift).to(center_xy.dtype)


def compute_heatmap_from_crop(
    *, crop_hw: tuple[int, int], heatmap_hw: tuple[int, int], like: Float[Tensor, "..."]
) -> Float[Tensor, "3 3"]:
    """Build the matrix from crop pixels to heatmap cells: a division (by 4 for HRNet), as published.

    The matrix has the dtype and the device of `like`.
    """
    shrink_y, shrink_x = (cells / pixels for cells, pixels in zip(heatmap_hw, crop_hw, strict=True))
    return torch.diag(get_cached_constant((shrink_x, shrink_y, 1.0), device=like.device, dtype=like.dtype))


def transform_points(to_from: Float[Tensor, "B 3 3"], xy: Float[Tensor, "B K 2"]) -> Float[Tensor, "B K 2"]:
    """Transform points by `to_from` matrices."""
    return xy @ to_from[:, :2, :2].mT + to_from[:, None, :2, 2]


def invert_affine(matrix: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
    """Invert affine matrices.

    The inverse is in closed form, because `matrix.inverse()` synchronizes with the GPU to check for
    singular matrices.
    """
    linear = _invert_2x2(matrix[:, :2, :2])
    return _build_affine_matrix(linear, -(linear @ matrix[:, :2, 2:]).squeeze(-1))


def _compute_three_point_transform(
    center_xy: Float[Tensor, "N 2"],
    scale_w: Float[Tensor, " N"],
    rotation_deg: Float[Tensor, " N"],
    crop_width: int,
) -> tuple[Float[Tensor, "N 2 2"], Float[Tensor, "N 2"]]:
    """Solve the published three-point transform: linear part, and the image point it rotates about.

    The points in the image are the center, the rotated point half a width above it, and a third one
    at a right angle to both. The published code rounds them to float32, which moves a crop by up to
    1e-4 px. Without the same rounding, some pixels of `cv2.warpAffine` differ by one gray level.
    """
    dtype = _select_exact_dtype(center_xy)
    rotation_rad = torch.deg2rad(rotation_deg.to(dtype))
    up = (
        torch.stack([rotation_rad.sin(), -rotation_rad.cos()], dim=-1)
        * (scale_w.to(dtype) * SCALE_UNIT_PX / 2)[:, None]
    )
    middle = center_xy.float()
    top = (center_xy.to(dtype) + up).float()
    down = middle - top
    side = top + torch.stack([-down[:, 1], down[:, 0]], dim=-1)

    middle, top, side = middle.to(dtype), top.to(dtype), side.to(dtype)
    # In the crop, middle - top is (0, W/2) and side - top is (-W/2, 0).
    image_from_crop = torch.stack([top - side, middle - top], dim=-1) * (2 / crop_width)
    return _invert_2x2(image_from_crop), middle


def _invert_2x2(matrix: Float[Tensor, "N 2 2"]) -> Float[Tensor, "N 2 2"]:
    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    return torch.stack([d, -b, -c, a], dim=-1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]


def _select_exact_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def _mirror_x(linear: Float[Tensor, "N 2 2"], mirrored: Bool[Tensor, " N"]) -> Float[Tensor, "N 2 2"]:
    """Multiply by diag(-1, 1) from the right, so x is mirrored before the other transforms."""
    mirrored_x = torch.where(mirrored[:, None], -linear[:, :, 0], linear[:, :, 0])
    return torch.stack([mirrored_x, linear[:, :, 1]], dim=-1)


def _build_affine_matrix(linear: Float[Tensor, "N 2 2"], shift: Float[Tensor, "N 2"]) -> Float[Tensor, "N 3 3"]:
    matrix = torch.zeros(len(shift), 3, 3, dtype=shift.dtype, device=shift.device)
    matrix[:, :2, :2] = linear
    matrix[:, :2, 2] = shift
    matrix[:, 2, 2] = 1.0
    return matrix
