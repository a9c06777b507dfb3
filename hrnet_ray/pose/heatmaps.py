"""Keypoints to heatmaps, and back.

Shapes: B batch, K keypoints, H and W heatmap rows and columns. A cell's centre lies at whole
numbers, so a point that stands at (3, 5) in cells peaks in row 5, column 3. The numbers are those
of the published HRNet code (lib/dataset/JointsDataset.py, lib/core/inference.py) and, for "dark",
of DarkPose.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from hrnet_ray.pose.device_constants import get_cached_constant

DECODE_METHODS = ("argmax", "quarter", "dark")
GAUSSIAN_RADIUS_SIGMAS = 3  # the published Gaussian is cut to a square of 3 sigma each way
DARK_KERNEL_SIZE = 11  # cells; DarkPose's kernel for targets of sigma 2 (OpenCV's rule then blurs with sigma 2)


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
    """Draw a Gaussian of height 1 and width `sigma` cells at each visible keypoint.

    `crop_xy` is in crop pixels, `visible` a bool or a weight; above 0.5 a keypoint is drawn.
    Returns the heatmaps and the weights: `visible`, or 0 where the Gaussian's square misses the map
    altogether.

    `rounded=True` is the published target: centred on a whole cell and cut to the square. The
    published loop is right for whole sigmas only; this holds for any. `rounded=False` keeps the
    fraction of the centre and does not cut; the weights stay the same.
    """
    shrink_xy = (heatmap_hw[1] / input_hw[1], heatmap_hw[0] / input_hw[0])
    cell_xy = crop_xy * get_cached_constant(shrink_xy, device=crop_xy.device, dtype=crop_xy.dtype)
    whole_xy = (cell_xy + 0.5).trunc()  # as int() does: towards zero, so -0.9 counts as cell 0
    reach = math.floor(GAUSSIAN_RADIUS_SIGMAS * sigma + 1e-9)  # cells; the term keeps 3 * (7 / 3) at 7
    missed = _is_outside_heatmap(whole_xy, reach, heatmap_hw)
    drawn = (visible > 0.5) & ~missed

    center_xy, cut = (whole_xy, reach) if rounded else (cell_xy, None)
    bell_x = _compute_gaussian_1d(center_xy[..., 0], heatmap_hw[1], sigma, cut)  # [B, K, W]
    bell_y = _compute_gaussian_1d(center_xy[..., 1], heatmap_hw[0], sigma, cut)  # [B, K, H]
    maps = bell_y[..., :, None] * bell_x[..., None, :]  # a 2-D Gaussian is separable
    return (
        torch.where(drawn[..., None, None], maps, 0.0),  # not a product: a hidden point may be NaN
        torch.where(missed, 0.0, visible.to(crop_xy.dtype)),
    )


def decode_heatmaps(
    heatmaps: Float[Tensor, "B K H W"],
    *,
    method: str = "quarter",
    kernel_size: int = DARK_KERNEL_SIZE,
) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
    """Find each map's peak: its (x, y) in heatmap cells, and its height as the score.

    "argmax" is the highest cell. "quarter" moves it a quarter cell towards the higher neighbour on
    each axis (Newell et al., 2016; the published default). "dark" takes one Newton step on the log
    of the map blurred over `kernel` cells (Zhang et al., DarkPose, 2020). Peaks near the rim stay
    where they are, and a map with nothing above 0 gives (0, 0).
    """
    if method not in DECODE_METHODS:
        raise ValueError(f"no decoding method {method!r}; there are {', '.join(DECODE_METHODS)}")
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
    """Average the maps of an image and of its mirror image: the published flip test.

    `shift` moves the mirrored maps right by one cell (column 0 stays): with cell = crop / 4,
    mirroring a crop of width 4 W moves a peak by three quarters of a cell to the left.
    """
    order = get_cached_constant(flip_order, device=heatmaps.device, dtype=torch.int64)
    back = heatmaps_of_mirrored.flip(-1)[:, order]
    if shift:
        back = torch.cat([back[..., :1], back[..., :-1]], dim=-1)
    return (heatmaps + back) * 0.5


def _is_outside_heatmap(
    rounded_cell_xy: Float[Tensor, "B K 2"], radius_cells: int, heatmap_hw: tuple[int, int]
) -> Bool[Tensor, "B K"]:
    """Whether no cell of the square lies on the map.

    One quirk is kept for the published weights' sake: a square that ends in cell -1 does not count
    as missing.
    """
    size_wh = get_cached_constant(heatmap_hw[::-1], device=rounded_cell_xy.device, dtype=rounded_cell_xy.dtype)
    beyond = (rounded_cell_xy - radius_cells >= size_wh) | (rounded_cell_xy + radius_cells + 1 < 0)
    return beyond.any(-1)


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
    index = flat.argmax(-1, keepdim=True)  # the first one where several are highest, as in numpy
    scores = flat.gather(-1, index).squeeze(-1)
    width = heatmaps.shape[-1]
    cell_xy = torch.cat([index % width, index // width], dim=-1)
    return torch.where((scores > 0)[..., None], cell_xy, 0), scores


def _is_inside_margin(
    cell_xy: Int[Tensor, "B K 2"], heatmaps: Float[Tensor, "B K H W"], *, margin_cells: int
) -> Bool[Tensor, "B K"]:
    """Published: 1 < x < W - rim. Column 1 is left out although both its neighbours exist."""
    height, width = heatmaps.shape[-2:]
    end_xy = get_cached_constant(
        (width - margin_cells, height - margin_cells), device=cell_xy.device, dtype=cell_xy.dtype
    )
    return ((cell_xy > 1) & (cell_xy < end_xy)).all(-1)


def _compute_central_difference(
    heatmaps: Float[Tensor, "B K H W"], cell_xy: Int[Tensor, "B K 2"]
) -> Float[Tensor, "B K 2"]:
    """The difference between the right and left, and the lower and upper, neighbours of a cell."""
    slope_x = _get_height_at(heatmaps, cell_xy, 1, 0) - _get_height_at(heatmaps, cell_xy, -1, 0)
    slope_y = _get_height_at(heatmaps, cell_xy, 0, 1) - _get_height_at(heatmaps, cell_xy, 0, -1)
    return torch.stack([slope_x, slope_y], dim=-1)


def _compute_newton_step(
    log_heatmaps: Float[Tensor, "B K H W"], cell_xy: Int[Tensor, "B K 2"]
) -> Float[Tensor, "B K 2"]:
    """Step to the top of the parabola that fits `surface` around a cell, if it has one."""
    middle = _get_height_at(log_heatmaps, cell_xy, 0, 0)
    gradient = 0.5 * _compute_central_difference(log_heatmaps, cell_xy)
    bend_xx = 0.25 * (
        _get_height_at(log_heatmaps, cell_xy, 2, 0) - 2 * middle + _get_height_at(log_heatmaps, cell_xy, -2, 0)
    )
    bend_yy = 0.25 * (
        _get_height_at(log_heatmaps, cell_xy, 0, 2) - 2 * middle + _get_height_at(log_heatmaps, cell_xy, 0, -2)
    )
    bend_xy = 0.25 * (
        _get_height_at(log_heatmaps, cell_xy, 1, 1)
        - _get_height_at(log_heatmaps, cell_xy, -1, 1)
        - _get_height_at(log_heatmaps, cell_xy, 1, -1)
        + _get_height_at(log_heatmaps, cell_xy, -1, -1)
    )
    slope_x, slope_y = gradient.unbind(-1)
    determinant = bend_xx * bend_yy - bend_xy.square()
    step = torch.stack([bend_xy * slope_y - bend_yy * slope_x, bend_xy * slope_x - bend_xx * slope_y], dim=-1)
    flat = determinant == 0
    return torch.where(flat[..., None], 0.0, step / torch.where(flat, 1.0, determinant)[..., None])


def _compute_log_blurred(heatmaps: Float[Tensor, "B K H W"], kernel_size: int) -> Float[Tensor, "B K H W"]:
    """Blur away the jitter of a predicted map, restore its height, and take the log.

    The log of a Gaussian is the parabola that the Newton step needs. Outside the map counts as
    zero.
    """
    blur_sigma = 0.3 * ((kernel_size - 1) * 0.5 - 1) + 0.8  # OpenCV's rule for sigma=0, on which DarkPose relies
    cells = torch.arange(kernel_size, device=heatmaps.device, dtype=heatmaps.dtype) - (kernel_size - 1) / 2
    bell = torch.exp(-cells.square() / (2 * blur_sigma**2))
    bell = bell / bell.sum()
    planes = heatmaps.flatten(0, 1)[:, None]
    planes = F.conv2d(planes, bell.view(1, 1, 1, -1), padding=(0, kernel_size // 2))
    planes = F.conv2d(planes, bell.view(1, 1, -1, 1), padding=(kernel_size // 2, 0))
    blurred = planes.view_as(heatmaps)
    regained = heatmaps.amax((-2, -1), keepdim=True) / blurred.amax((-2, -1), keepdim=True)
    return (blurred * regained).clamp_min(1e-10).log()


def _get_height_at(
    heatmaps: Float[Tensor, "B K H W"], cell_xy: Int[Tensor, "B K 2"], offset_x: int, offset_y: int
) -> Float[Tensor, "B K"]:
    """The height of the cell that lies `step_x`, `step_y` away; the rim is repeated outside."""
    height, width = heatmaps.shape[-2:]
    column = (cell_xy[..., 0] + offset_x).clamp(0, width - 1)
    row = (cell_xy[..., 1] + offset_y).clamp(0, height - 1)
    return heatmaps.flatten(-2).gather(-1, (row * width + column)[..., None]).squeeze(-1)
