"""Antialiased lines, polygons and tubes with subpixel positions."""

import cv2
import numpy as np

SUBPIXEL_BITS = 4  # fractional bits of cv2's fixed-point coordinates

BgrColor = tuple[int | float, ...]  # BGR


def to_fixed_point(xy_px: np.ndarray) -> np.ndarray:
    """Convert pixels to cv2's fixed-point coordinates."""
    return np.round(xy_px * (1 << SUBPIXEL_BITS)).astype(np.int32)


def draw_line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, color: BgrColor, thickness_px: float) -> None:
    """Draw a line from `start` to `end`, at least 1 px thick."""
    a, b = to_fixed_point(np.array([start, end])).tolist()
    cv2.line(canvas, a, b, color, max(1, round(thickness_px)), cv2.LINE_AA, SUBPIXEL_BITS)


def fill_polygon(canvas: np.ndarray, corners: np.ndarray, color: BgrColor) -> None:
    """Fill a convex polygon [N, 2]."""
    cv2.fillConvexPoly(canvas, to_fixed_point(corners), color, cv2.LINE_AA, SUBPIXEL_BITS)


def fill_tube(canvas: np.ndarray, center_xy: np.ndarray, radii_px: np.ndarray, color: BgrColor) -> None:
    """Fill circles at `center_xy` [N, 2] and the straight pieces between successive ones."""
    for center, radius in zip(to_fixed_point(center_xy).tolist(), to_fixed_point(radii_px).tolist(), strict=True):
        cv2.circle(canvas, center, radius, color, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    along = np.diff(center_xy, axis=0)
    aside = along[:, ::-1] * (-1, 1) / (np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9)
    a, b = aside * radii_px[:-1, None], aside * radii_px[1:, None]
    first, last = center_xy[:-1], center_xy[1:]
    for piece in np.stack([first + a, last + b, last - b, first - a], axis=1):
        fill_polygon(canvas, piece, color)
