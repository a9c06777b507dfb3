"""Body parts of a synthetic tiger: outlines, colors and stripes on posed and projected joints.

Coordinates are in the figure frame of `tigers`: lengths in body lengths, x towards the head, y
down. `FigureToImage` converts them to image pixels. Parts of the head are given as (forward, up,
sideways) from its center; `HeadProjection` converts them to the figure frame.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import cv2
import numpy as np

from hrnet_ray.data.synthetic.primitives import (
    SUBPIXEL_BITS,
    BgrColor,
    fill_polygon,
    fill_tube,
    to_fixed_point,
)

DARK = (28, 30, 38)  # colours are BGR
CREAM = (222, 236, 244)
PINK = (120, 125, 205)
AMBER = (60, 185, 215)

PaintStroke = tuple[np.ndarray, BgrColor]  # polygons [N, M, 2] and their color
HeadBall = tuple[float, float, float, float]  # forward, up, sideways from the head's center; radius
FigureToImage = Callable[[np.ndarray], np.ndarray]
"""Function from the figure frame to image pixels."""
HeadProjection = Callable[[np.ndarray], np.ndarray]
"""Function from balls of a head [N, 4] to figure x, y, depth (towards the viewer) and radius."""

NEAR_EAR_OFFSET = (-0.02, 0.15, 0.125)  # forward, up, sideways from the head's center
NOSE_OFFSET = (0.195, -0.055, 0.0)
FAR_EAR_OFFSET = (NEAR_EAR_OFFSET[0], NEAR_EAR_OFFSET[1], -NEAR_EAR_OFFSET[2])


class BodyPart(NamedTuple):
    """Tubes that form one silhouette, its color, and the strokes on it, in drawing order."""

    tubes: list[np.ndarray]
    """Each [N, 3]: figure x, y and radius. A single row is a ball."""
    color: BgrColor
    strokes: list[PaintStroke]
    rim_brightness: float = 0.60
    """Brightness at the outline; it increases to 1 inside."""


# Positions avoid the bends at 1/3 and 2/3 of a leg, where stripes would overlap.
LEG_STRIPE_POSITIONS = np.array([0.06, 0.14, 0.22, 0.42, 0.50, 0.58])
FRONT_LEG_RADII = (0.125, 0.080, 0.056, 0.064)
BACK_LEG_RADII = (0.165, 0.100, 0.052, 0.062)


def build_leg(
    joints_xy: np.ndarray,
    radii: tuple[float, ...],
    fur_color: BgrColor,
    rng: np.random.Generator,
    *,
    brightness: float = 1.0,
) -> BodyPart:
    """Build a leg with a paw and stripes; a lower `brightness` distinguishes far legs."""
    tube = _build_smooth_tube(joints_xy, radii)
    toes = np.array([[*(joints_xy[-1] + (0.035, 0.012)), 0.9 * radii[-1]]])
    fur_color, cream, dark = (tuple(brightness * c for c in color) for color in (fur_color, CREAM, DARK))
    paw = _build_disc_polygons(np.array([[*joints_xy[-1], 1.1 * radii[-1]], toes[0] + (0, 0, 0.02)]))
    along = LEG_STRIPE_POSITIONS + rng.uniform(-0.02, 0.02, len(LEG_STRIPE_POSITIONS))
    widths = rng.uniform(0.012, 0.018, len(along))
    stripes = _build_stripe_polygons(tube, along, widths, start=1.1, end=rng.uniform(-0.6, 0.2, len(along)))
    return BodyPart([tube, toes], fur_color, [(paw, cream), (stripes, dark)], rim_brightness=0.72)


def build_tail(joints_xy: np.ndarray, fur_color: BgrColor, rng: np.random.Generator) -> BodyPart:
    """Build the tail with dark rings and a dark tip."""
    tube = _build_smooth_tube(joints_xy, np.linspace(0.055, 0.042, len(joints_xy)))
    rings = _build_stripe_polygons(tube, np.linspace(0.2, 0.85, 6), rng.uniform(0.018, 0.028, 6), start=1.2, end=-1.2)
    tip = _build_disc_polygons(tube[-3:] * (1, 1, 1.3))
    return BodyPart([tube], fur_color, [(rings, DARK), (tip, DARK)])


def build_trunk(spine_xy: np.ndarray, head_xy: np.ndarray, fur_color: BgrColor, rng: np.random.Generator) -> BodyPart:
    """Build body and neck from the joints of the spine [5, 2] and the head's center [2]."""
    body = _build_smooth_tube(spine_xy, (0.165, 0.205, 0.185, 0.215, 0.185))
    neck = _build_smooth_tube(np.array([spine_xy[-2] + (0, -0.02), spine_xy[-1], head_xy]), (0.20, 0.19, 0.17))
    belly = _build_belly_polygon(body)
    count = int(rng.integers(11, 15))
    along = np.linspace(0.04, 0.97, count) + rng.uniform(-0.02, 0.02, count)
    widths = rng.uniform(0.016, 0.030, count)
    down = _build_stripe_polygons(body, along, widths, start=1.1, end=rng.uniform(-0.75, 0.0, count))
    up = _build_stripe_polygons(body, along + 0.035, 0.7 * widths, start=-1.1, end=rng.uniform(-0.6, -0.3, count))
    mane = _build_stripe_polygons(neck, np.array([0.45, 0.7]), np.array([0.02, 0.02]), start=1.1, end=0.1)
    return BodyPart([body, neck], fur_color, [(belly, CREAM), (np.concatenate([down, up, mane]), DARK)])


def _build_belly_polygon(body_tube: np.ndarray) -> np.ndarray:
    """Build the underside as one polygon [1, N, 2]."""
    inner = body_tube[:, :2] + (0, 0.62) * body_tube[:, 2:]
    outer = body_tube[::-1, :2] + (0, 1.2) * body_tube[::-1, 2:]
    return np.concatenate([inner, outer])[None]


XY_RADIUS_COLUMNS = [0, 1, 3]  # of a projected ball (x, y, depth, radius)
SKULL_BALLS = np.array(
    [
        (0.0, 0.0, 0.0, 0.175),
        (0.02, -0.05, 0.08, 0.115),  # cheeks
        (0.02, -0.05, -0.08, 0.115),
        (0.12, -0.075, 0.0, 0.095),  # muzzle
    ]
)


def _mirror_ball(color: BgrColor, ball: HeadBall) -> tuple[tuple[BgrColor, HeadBall], tuple[BgrColor, HeadBall]]:
    forward, up, sideways, radius = ball
    return (color, ball), (color, (forward, up, -sideways, radius))


FACE_PATCHES = (
    *_mirror_ball(CREAM, (0.06, -0.08, 0.13, 0.085)),  # cheeks
    *_mirror_ball(CREAM, (0.15, 0.075, 0.075, 0.036)),  # brows
    *_mirror_ball(CREAM, (0.165, -0.085, 0.04, 0.068)),  # muzzle
    (CREAM, (0.13, -0.13, 0.0, 0.055)),  # chin
)
EYES_AND_NOSE = (
    *_mirror_ball(DARK, (0.16, 0.025, 0.082, 0.034)),
    *_mirror_ball(AMBER, (0.165, 0.026, 0.082, 0.024)),
    *_mirror_ball(DARK, (0.168, 0.025, 0.084, 0.012)),
    (DARK, (*NOSE_OFFSET, 0.042)),
    (PINK, (*NOSE_OFFSET, 0.030)),
)
FACE_STRIPES = np.array(
    [
        *([(0.13, 0.10, s, 0.012), (0.08, 0.16, 1.5 * s, 0.016)] for s in (-0.045, 0.0, 0.045)),
        *([(0.08, 0.0, s, 0.010), (0.0, -0.03, 1.2 * s, 0.016)] for s in (-0.14, 0.14)),
        *([(0.08, -0.06, s, 0.010), (0.0, -0.09, 1.2 * s, 0.016)] for s in (-0.14, 0.14)),
    ]
)


def build_head(project_balls: HeadProjection, fur_color: BgrColor) -> list[BodyPart]:
    """Build far ear, skull with face, and near ear."""

    def build_ear(ear_offset: tuple[float, float, float]) -> BodyPart:
        f, u, s = ear_offset
        balls = np.array([(f, u, s, 0.075), (f, u, s, 0.085), (f + 0.03, u - 0.01, s, 0.042)])
        whole, rim, inside = project_balls(balls)[:, None, XY_RADIUS_COLUMNS]
        return BodyPart(
            [whole],
            fur_color,
            [(_build_disc_polygons(rim), DARK), (_build_disc_polygons(inside), CREAM)],
        )

    skull = list(project_balls(SKULL_BALLS)[:, None, XY_RADIUS_COLUMNS])
    return [
        build_ear(FAR_EAR_OFFSET),
        BodyPart(skull, fur_color, _build_face_strokes(project_balls)),
        build_ear(NEAR_EAR_OFFSET),
    ]


def _build_face_strokes(project_balls: HeadProjection) -> list[PaintStroke]:
    """Build the visible strokes of the face: patches, then stripes, then eyes and nose."""
    rear = project_balls(np.zeros((1, 4)))[0, 2] - 0.01
    lines = project_balls(FACE_STRIPES.reshape(-1, 4)).reshape(-1, 2, 4)
    stripes = _build_bar_polygons(lines[lines[..., 2].min(axis=1) > rear])

    def build_spot_strokes(spots: tuple[tuple[BgrColor, HeadBall], ...]) -> list[PaintStroke]:
        balls = project_balls(np.array([ball for _, ball in spots]))
        discs = _build_disc_polygons(balls[:, XY_RADIUS_COLUMNS])[:, None]
        is_visible = balls[:, 2] > rear
        return [(disc, color) for disc, (color, _), visible in zip(discs, spots, is_visible, strict=True) if visible]

    return [*build_spot_strokes(FACE_PATCHES), (stripes, DARK), *build_spot_strokes(EYES_AND_NOSE)]


def _build_bar_polygons(lines: np.ndarray) -> np.ndarray:
    """Build short stripes between pairs of balls [N, 2, 4], as thick as the balls: [N, 4, 2]."""
    start, end = lines[:, 0], lines[:, 1]
    along = end[:, :2] - start[:, :2]
    aside = along[:, ::-1] * (-1, 1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-6)
    a, b = aside * start[:, 3:], aside * end[:, 3:]
    first, last = start[:, :2], end[:, :2]
    return np.stack([first + a, last + b, last - b, first - a], axis=1)


SPLINE_STEPS = np.linspace(0, 1, 4)[:-1]
CATMULL_ROM_WEIGHTS = 0.5 * np.stack(
    [
        -SPLINE_STEPS + 2 * SPLINE_STEPS**2 - SPLINE_STEPS**3,
        2 - 5 * SPLINE_STEPS**2 + 3 * SPLINE_STEPS**3,
        SPLINE_STEPS + 4 * SPLINE_STEPS**2 - 3 * SPLINE_STEPS**3,
        SPLINE_STEPS**3 - SPLINE_STEPS**2,
    ],
    axis=1,
)


def _build_smooth_tube(joints_xy: np.ndarray, radii: Iterable[float]) -> np.ndarray:
    """Interpolate joints and radii by a smooth curve: [N, 3]."""
    p = np.column_stack([joints_xy, np.fromiter(radii, float)])
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    spans = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)
    return np.vstack([(CATMULL_ROM_WEIGHTS @ spans).reshape(-1, 3), p[-2]])


def _build_stripe_polygons(
    tube: np.ndarray,
    along_frac: np.ndarray,
    widths: np.ndarray,
    *,
    start: float,
    end: np.ndarray | float,
) -> np.ndarray:
    """Build wedges across a tube, from `start` to a tip at `end` (1 = upper edge, -1 = lower).

    Returns:
        Polygons [N, 5, 2] in the figure frame.
    """
    at = np.clip(along_frac, 0, 1) * (len(tube) - 1)
    piece = np.minimum(at.astype(int), len(tube) - 2)
    step = tube[piece + 1] - tube[piece]
    balls = tube[piece] + (at - piece)[:, None] * step
    ahead = step[:, :2] / np.hypot(step[:, 0], step[:, 1])[:, None]
    across = np.stack([ahead[:, 1], -ahead[:, 0]], axis=-1) * balls[:, 2:]
    end = np.broadcast_to(end, at.shape)
    reach = start + np.array([0, 0.5, 1, 0.5, 0]) * (end - start)[:, None]
    sideways = np.array([-1, -0.3, 0.4, 1.1, 1]) * widths[:, None]
    return balls[:, None, :2] + reach[..., None] * across[:, None] + sideways[..., None] * ahead[:, None]


CIRCLE_ANGLES_RAD = np.linspace(0, 2 * np.pi, 16, endpoint=False)
UNIT_CIRCLE = np.stack([np.cos(CIRCLE_ANGLES_RAD), np.sin(CIRCLE_ANGLES_RAD)], axis=-1)


def _build_disc_polygons(balls: np.ndarray) -> np.ndarray:
    """Build circles as polygons [N, 16, 2]."""
    return balls[:, None, :2] + balls[:, None, 2:] * UNIT_CIRCLE


def draw_shadow(
    image: np.ndarray,
    paws_xy: np.ndarray,
    *,
    to_image_xy: FigureToImage,
    body_length_px: float,
    ground_slope_deg: float,
) -> None:
    """Darken the ground under the paws."""
    slope = math.tan(math.radians(ground_slope_deg))
    oval = UNIT_CIRCLE * (0.85, 0.09) + UNIT_CIRCLE[:, :1] * (0, -0.85 * slope)
    oval = oval + paws_xy.mean(axis=0) + np.array([0, 0.05])
    mask = np.zeros(image.shape[:2], np.uint8)
    fill_polygon(mask, to_image_xy(oval), (110,))
    blur_px = max(3, round(0.12 * body_length_px))
    mask = cv2.blur(mask, (blur_px, blur_px))
    x, y, w, h = cv2.boundingRect(mask)
    region = image[y : y + h, x : x + w]
    region[:] = region * (1 - mask[y : y + h, x : x + w, None] * np.float32(1 / 255))


def draw_body_part(
    image: np.ndarray,
    silhouette: np.ndarray,
    part: BodyPart,
    *,
    to_image_xy: FigureToImage,
    body_length_px: float,
) -> None:
    """Draw color, strokes and shading inside the outline of a part."""
    mask = np.zeros_like(silhouette)
    for tube in part.tubes:
        fill_tube(mask, to_image_xy(tube[:, :2]), tube[:, 2] * body_length_px, (255,))
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0:  # outside the image
        return
    coat = np.empty((h, w, 3), np.uint8)
    coat[:] = np.round(part.color)
    for polygons, color in part.strokes:
        # One polygon per call: in a single call, overlaps would be holes.
        for corners in to_fixed_point(to_image_xy(polygons) - (x, y)):
            cv2.fillPoly(coat, [corners], color, cv2.LINE_AA, SUBPIXEL_BITS)
    inside, region = mask[y : y + h, x : x + w], image[y : y + h, x : x + w]
    depth = cv2.distanceTransform((inside > 127).astype(np.uint8), cv2.DIST_L2, 3)
    light = part.rim_brightness + (1 - part.rim_brightness) * np.minimum(depth * (1 / (0.07 * body_length_px)), 1)
    alpha = inside * np.float32(1 / 255)
    shaded = cv2.multiply(coat, cv2.merge([light] * 3), dtype=cv2.CV_8U)
    region[:] = cv2.blendLinear(shaded, region, alpha, 1 - alpha)
    silhouette_region = silhouette[y : y + h, x : x + w]
    np.maximum(silhouette_region, inside, out=silhouette_region)
