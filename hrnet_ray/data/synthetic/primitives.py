"""Lines, balls and tubes with soft edges, to a sixteenth of a pixel."""

import cv2
import numpy as np

SUBPIXEL_BITS = 4  # cv2's drawing takes fixed-point coordinates

Colour = tuple[int | float, ...]  # BGR


def fixed(pixels: np.ndarray) -> np.ndarray:
    """Pixels as cv2 takes them: in whole sixteenths."""
    return np.round(pixels * (1 << SUBPIXEL_BITS)).astype(np.int32)


def line(
    canvas: np.ndarray, start: np.ndarray, end: np.ndarray, colour: Colour, thick: float
) -> None:
    """A straight line from `start` to `end`, at least a pixel thick."""
    a, b = fixed(np.array([start, end])).tolist()
    cv2.line(canvas, a, b, colour, max(1, round(thick)), cv2.LINE_AA, SUBPIXEL_BITS)


def polygon(canvas: np.ndarray, corners: np.ndarray, colour: Colour) -> None:
    """Fill a convex polygon [N, 2]."""
    cv2.fillConvexPoly(canvas, fixed(corners), colour, cv2.LINE_AA, SUBPIXEL_BITS)


def tube(canvas: np.ndarray, xy: np.ndarray, radii: np.ndarray, colour: Colour) -> None:
    """Fill balls [N, 2] and the straight pieces that join neighbours."""
    for centre, radius in zip(fixed(xy).tolist(), fixed(radii).tolist(), strict=True):
        cv2.circle(canvas, centre, radius, colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    along = np.diff(xy, axis=0)
    aside = along[:, ::-1] * (-1, 1) / (np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9)
    a, b = aside * radii[:-1, None], aside * radii[1:, None]
    first, last = xy[:-1], xy[1:]
    for piece in np.stack([first + a, last + b, last - b, first - a], axis=1):
        polygon(canvas, piece, colour)
