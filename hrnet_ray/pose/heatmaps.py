"""Encode keypoints as heatmaps, and decode heatmaps to keypoints.

Shapes: B batch, K keypoints, H rows and W columns of a heatmap. Integer coordinates are cell
centers: a point at (3, 5) peaks in row 5, column 3. The arithmetic follows the published HRNet code
(lib/dataset/JointsDataset.py, lib/core/inference.py) and, for "dark", DarkPose.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from hrnet_ray.pose.device_constants import get_cached_constant

DECODE_METHODS = ("argmax", "quarter", "dark")
GAUSSIAN_RADIUS_SIGMAS = 3  # published: a Gaussian is cut to a square of 3 sigma in each direction
DARK_KERNEL_SIZE = 11  # cells; DarkPose's kernel for targets of sigma 2, for which OpenCV blurs with sigma 2


def encode_heatmaps(
    crop_xy: Float[Tensor, "B K 2"],
    visible: Shaped[Tensor, "B K"],
    *,
    input_hw: tuple[int, int],
    heatmap_hw: tuple[int, int],
    sigma: float | int,
    rounded: bool = True,
) -> tuple[
    Float[Tensor, "B K {heatmap_hw[0]} {heatmap_hw[1]}"],
    Float[Tensor, "B K"],
]:
    """Render a Gaussian of height 1 and width `sigma` cells at each visible keypoint.

    `crop_xy` is in crop pixels. `visible` is a bool or a weight; a keypoint above 0.5 is rendered.
    Returns the heatmaps and the weights. A weight is `visible`, or 0 if the square of the Gaussian
    lies outside the heatmap.

    `rounded=True` is the published target: centered on a cell and cut to the square. It also
    supports fractional sigmas, unlike the published loop. `rounded=False` keeps the fraction of the
    center and does not cut; the weights are the same.
    """
    cells_per_px_xy = (heatmap_hw[1] / input_hw[1], heatmap_hw[0] / input_hw[0])
    cell_xy = crop_xy * get_cached_constant(cells_per_px_xy, device=crop_xy.device, dtype=crop_xy.dtype)
    rounded_xy = (cell_xy + 0.5).trunc()  # truncates like int(): -0.9 becomes cell 0
    radius_cells = math.floor(GAUSSIAN_RADIUS_SIGMAS * sigma + 1e-9)  # cells; 1e-9 keeps 3 * (7 / 3) at 7
    outside = _is_outside_heatmap(rounded_xy, radius_cells, heatmap_hw)
    rendered = (visible > 0.5) & ~outside

    center_xy, cut_radius = (rounded_xy, radius_cells) if rounded else (cell_xy, None)
    bell_x = _compute_gaussian_1d(center_xy[..., 0], heatmap_hw[1], sigma, cut_radius)  # [B, K, W]
    bell_y = _compute_gaussian_1d(center_xy[..., 1], heatmap_hw[0], sigma, cut_radius)  # [B, K, H]
    maps = bell_y[..., :, None] * bell_x[..., None, :]  # a 2-D Gaussian is separable
    return (
        torch.where(rendered[..., None, None], maps, 0.0),  # not a product: a hidden keypoint may be NaN
        torch.where(outside, 0.0, visible.to(crop_xy.dtype)),
    )


def decode_heatmaps(
    heatmaps: Float[Tensor, "B K H W"],
    *,
    method: str = "quarter",
    kernel_size: int = DARK_KERNEL_SIZE,
) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
    """Find the peak of each heatmap: (x, y) in heatmap cells, and its height as the score.

    "argmax" returns the highest cell. "quarter" moves it a quarter cell towards the higher neighbor
    on each axis (Newell et al., 2016; the published default). "dark" takes one Newton step on the
    log of the heatmap blurred by `kernel_size` cells (Zhang et al., DarkPose, 2020). Peaks near the
    border are not moved. A heatmap without a positive value gives (0, 0).
    """
    if method not in DECODE_METHODS:
        raise ValueError(f"method must be one of {', '.join(DECODE_METHODS)}, got {method!r}")
    peak_xy, scores = _find_peak_cell(heatmaps)
    if method == "quarter":
        offset = 0.25 * _compute_central_difference(heatmaps, peak_xy).sign()
        offset = offset * _is_inside_margin(peak_xy, heatmaps, margin_cells=1)[..., None]
    elif method == "dark":
        offset = _compute_newton_step(_compute_log_blurred(heatmaps, kernel_size), peak_xy)
        offset = torch.where(_is_inside_margin(peak_xy, heatmaps, margin_cells=2)[..., None], offset, 0.0)
    else:
        return peak_xy.to(heatmaps.dtype), scores
    return peak_xy + offset, scores


def average_flipped_heatmaps(
    heatmaps: Float[Tensor, "B K H W"],
    heatmaps_of_mirrored: Float[Tensor, "B K H W"],
    *,
    flip_order: Sequence[int],
    shift: bool = True,
) -> Float[Tensor, "B K H W"]:
    """Average the heatmaps of an image and of its mirror image, as in the published flip test.

    `shift` moves the mirrored heatmaps right by one cell and repeats column 0. With heatmap_xy =
    crop_xy / 4, mirroring a crop of width 4 W moves a peak to the left by 3/4 of a cell.
    """
    order = get_cached_constant(flip_order, device=heatmaps.device, dtype=torch.int64)
    unflipped = heatmaps_of_mirrored.flip(-1)[:, order]
    if shift:
        unflipped = torch.cat([unflipped[..., :1], unflipped[..., :-1]], dim=-1)
    return (heatmaps + unflipped) * 0.5


def _is_outside_heatmap(
    rounded_cell_xy: Float[Tensor, "B K 2"], radius_cells: int, heatmap_hw: tuple[int, int]
) -> Bool[Tensor, "B K"]:
    """Return whether the square of a Gaussian lies outside the heatmap.

    As in the published code, a square that ends in cell -1 does not count as outside.
    """
    size_wh = get_cached_constant(heatmap_hw[::-1], device=rounded_cell_xy.device, dtype=rounded_cell_xy.dtype)
    outside = (rounded_cell_xy - radius_cells >= size_wh) | (rounded_cell_xy + radius_cells + 1 < 0)
    return outside.any(-1)


def _compute_gaussian_1d(
    center_cell: Float[Tensor, "B K"], length: int, sigma: float | int, radius_cells: int | None
) -> Float[Tensor, "B K {length}"]:
    cells = torch.arange(length, device=center_cell.device, dtype=center_cell.dtype)
    distance = cells - center_cell[..., None]
    bell = torch.exp(-distance.square() / (2 * sigma**2))
    return bell if radius_cells is None else bell * (distance.abs() <= radius_cells)


def _find_peak_cell(
    heatmaps: Float[Tensor, "B K H W"],
) -> tuple[Int[Tensor, "B K 2"], Float[Tensor, "B K"]]:
    flat = heatmaps.flatten(-2)
    index = flat.argmax(-1, keepdim=True)  # the first of equal maxima, as in numpy
    scores = flat.gather(-1, index).squeeze(-1)
    width = heatmaps.shape[-1]
    cell_xy = torch.cat([index % width, index // width], dim=-1)
    return torch.where((scores > 0)[..., None], cell_xy, 0), scores


def _is_inside_margin(
    cell_xy: Int[Tensor, "B K 2"], heatmaps: Float[Tensor, "B K H W"], *, margin_cells: int
) -> Bool[Tensor, "B K"]:
    """Check 1 < x < W - margin, as published; it excludes column 1 although both neighbors exist."""
    height, width = heatmaps.shape[-2:]
    end_xy = get_cached_constant(
        (width - margin_cells, height - margin_cells), device=cell_xy.device, dtype=cell_xy.dtype
    )
    return ((cell_xy > 1) & (cell_xy < end_xy)).all(-1)


def _compute_central_difference(
    heatmaps: Float[Tensor, "B K H W"], cell_xy: Int[Tensor, "B K 2"]
) -> Float[Tensor, "B K 2"]:
    """Subtract the left from the right, and the upper from the lower neighbor of a cell."""
    slope_x = _get_height_at(heatmaps, cell_xy, 1, 0) - _get_height_at(heatmaps, cell_xy, -1, 0)
    slope_y = _get_height_at(heatmaps, cell_xy, 0, 1) - _get_height_at(heatmaps, cell_xy, 0, -1)
    return torch.stack([slope_x, slope_y], dim=-1)


def _compute_newton_step(
    log_heatmaps: Float[Tensor, "B K H W"], cell_xy: Int[Tensor, "B K 2"]
) -> Float[Tensor, "B K 2"]:
    """Compute the Newton step from a cell towards the maximum; 0 where the Hessian is singular."""
    middle = _get_height_at(log_heatmaps, cell_xy, 0, 0)
    gradient = 0.5 * _compute_central_difference(log_heatmaps, cell_xy)
    hess_xx = 0.25 * (
        _get_height_at(log_heatmaps, cell_xy, 2, 0) - 2 * middle + _get_height_at(log_heatmaps, cell_xy, -2, 0)
    )
    hess_yy = 0.25 * (
        _get_height_at(log_heatmaps, cell_xy, 0, 2) - 2 * middle + _get_height_at(log_heatmaps, cell_xy, 0, -2)
    )
    hess_xy = 0.25 * (
        _get_height_at(log_heatmaps, cell_xy, 1, 1)
        - _get_height_at(log_heatmaps, cell_xy, -1, 1)
        - _get_height_at(log_heatmaps, cell_xy, 1, -1)
        + _get_height_at(log_heatmaps, cell_xy, -1, -1)
    )
    slope_x, slope_y = gradient.unbind(-1)
    determinant = hess_xx * hess_yy - hess_xy.square()
    step = torch.stack([hess_xy * slope_y - hess_yy * slope_x, hess_xy * slope_x - hess_xx * slope_y], dim=-1)
    singular = determinant == 0
    return torch.where(singular[..., None], 0.0, step / torch.where(singular, 1.0, determinant)[..., None])


def _compute_log_blurred(heatmaps: Float[Tensor, "B K H W"], kernel_size: int) -> Float[Tensor, "B K H W"]:
    """Blur a heatmap, restore its height, and take the log.

    The log of a Gaussian is a parabola, as the Newton step requires. Cells outside the heatmap
    count as zero.
    """
    blur_sigma = 0.3 * ((kernel_size - 1) * 0.5 - 1) + 0.8  # OpenCV's rule for sigma=0, used by DarkPose
    cells = torch.arange(kernel_size, device=heatmaps.device, dtype=heatmaps.dtype) - (kernel_size - 1) / 2
    bell = torch.exp(-cells.square() / (2 * blur_sigma**2))
    bell = bell / bell.sum()
    planes = heatmaps.flatten(0, 1)[:, None]
    planes = F.conv2d(planes, bell.view(1, 1, 1, -1), padding=(0, kernel_size // 2))
    planes = F.conv2d(planes, bell.view(1, 1, -1, 1), padding=(kernel_size // 2, 0))
    blurred = planes.view_as(heatmaps)
    gain = heatmaps.amax((-2, -1), keepdim=True) / blurred.amax((-2, -1), keepdim=True)
    return (blurred * gain).clamp_min(1e-10).log()


def _get_height_at(
    heatmaps: Float[Tensor, "B K H W"], cell_xy: Int[Tensor, "B K 2"], offset_x: int, offset_y: int
) -> Float[Tensor, "B K"]:
    """Return the value of the cell at an offset; outside the heatmap, that of the nearest cell."""
    height, width = heatmaps.shape[-2:]
    column = (cell_xy[..., 0] + offset_x).clamp(0, width - 1)
    row = (cell_xy[..., 1] + offset_y).clamp(0, height - 1)
    return heatmaps.flatten(-2).gather(-1, (row * width + column)[..., None]).squeeze(-1)
