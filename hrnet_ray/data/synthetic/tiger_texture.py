"""The coat of a tiger: what is painted on bones that somebody has posed and seen.

Everything is in the figure frame of `drawn.tigers`: lengths in body lengths, x towards the
head, y down. Only `place` leads into the picture. What is drawn of a head is given as forward, up
and sideways from its centre, and turned by `See`.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import cv2
import numpy as np

from hrnet_ray.data.synthetic.primitives import (
    SUBPIXEL_BITS,
    Colour,
    fixed,
    polygon,
    tube as paint_tube,
)

DARK = (28, 30, 38)  # colours are BGR
CREAM = (222, 236, 244)
PINK = (120, 125, 205)
AMBER = (60, 185, 215)

Stroke = tuple[np.ndarray, Colour]  # polygons [N, M, 2], and what to fill them with
Ball = tuple[float, float, float, float]  # forward, up, sideways from the head's centre; radius
Place = Callable[[np.ndarray], np.ndarray]
"""From the figure frame to picture pixels."""
See = Callable[[np.ndarray], np.ndarray]
"""From balls of a head [N, 4] to figure x, y, depth (towards the viewer) and radius."""

EAR = (-0.02, 0.15, 0.125)  # forward, up, sideways from the head's centre
NOSE = (0.195, -0.055, 0.0)
OTHER_EAR = (EAR[0], EAR[1], -EAR[2])


class Part(NamedTuple):
    """Tubes that make one silhouette, its colour, and what is painted on it, in order."""

    tubes: list[np.ndarray]
    """Each [N, 3]: figure x, y and radius. A single row is a ball."""
    colour: Colour
    strokes: list[Stroke]
    rim: float = 0.60
    """Brightness at the outline; it rises to 1 inside."""


# A leg bends at 1/3 and 2/3 of its tube: stripes across a bend would run into each other.
LEG_STRIPES = np.array([0.06, 0.14, 0.22, 0.42, 0.50, 0.58])
FRONT_RADII = (0.125, 0.080, 0.056, 0.064)
BACK_RADII = (0.165, 0.100, 0.052, 0.062)


def leg(
    joints: np.ndarray,
    radii: tuple[float, ...],
    fur: Colour,
    rng: np.random.Generator,
    *,
    light: float = 1.0,
) -> Part:
    """Far legs get less light: they stand in the body's shadow, and so can be told apart."""
    tube = _tube(joints, radii)
    toes = np.array([[*(joints[-1] + (0.035, 0.012)), 0.9 * radii[-1]]])
    fur, cream, dark = (tuple(light * c for c in colour) for colour in (fur, CREAM, DARK))
    paw = _discs(np.array([[*joints[-1], 1.1 * radii[-1]], toes[0] + (0, 0, 0.02)]))
    along = LEG_STRIPES + rng.uniform(-0.02, 0.02, len(LEG_STRIPES))
    widths = rng.uniform(0.012, 0.018, len(along))
    stripes = _stripes(tube, along, widths, start=1.1, end=rng.uniform(-0.6, 0.2, len(along)))
    return Part([tube, toes], fur, [(paw, cream), (stripes, dark)], rim=0.72)


def tail(joints: np.ndarray, fur: Colour, rng: np.random.Generator) -> Part:
    """Dark rings, and a dark tip."""
    tube = _tube(joints, np.linspace(0.055, 0.042, len(joints)))
    rings = _stripes(
        tube, np.linspace(0.2, 0.85, 6), rng.uniform(0.018, 0.028, 6), start=1.2, end=-1.2
    )
    tip = _discs(tube[-3:] * (1, 1, 1.3))
    return Part([tube], fur, [(rings, DARK), (tip, DARK)])


def trunk(spine: np.ndarray, head: np.ndarray, fur: Colour, rng: np.random.Generator) -> Part:
    """Body and neck, from the joints of the spine [5, 2] and the head's centre [2]."""
    body = _tube(spine, (0.165, 0.205, 0.185, 0.215, 0.185))
    neck = _tube(np.array([spine[-2] + (0, -0.02), spine[-1], head]), (0.20, 0.19, 0.17))
    belly = _belly(body)
    count = int(rng.integers(11, 15))
    along = np.linspace(0.04, 0.97, count) + rng.uniform(-0.02, 0.02, count)
    widths = rng.uniform(0.016, 0.030, count)
    down = _stripes(body, along, widths, start=1.1, end=rng.uniform(-0.75, 0.0, count))
    up = _stripes(body, along + 0.035, 0.7 * widths, start=-1.1, end=rng.uniform(-0.6, -0.3, count))
    mane = _stripes(neck, np.array([0.45, 0.7]), np.array([0.02, 0.02]), start=1.1, end=0.1)
    return Part([body, neck], fur, [(belly, CREAM), (np.concatenate([down, up, mane]), DARK)])


def _belly(body: np.ndarray) -> np.ndarray:
    """The underside as one polygon [1, N, 2]."""
    inner = body[:, :2] + (0, 0.62) * body[:, 2:]
    outer = body[::-1, :2] + (0, 1.2) * body[::-1, 2:]
    return np.concatenate([inner, outer])[None]


X_Y_RADIUS = [0, 1, 3]  # of a seen ball: x, y, depth, radius
SKULL = np.array(
    [
        (0.0, 0.0, 0.0, 0.175),
        (0.02, -0.05, 0.08, 0.115),  # cheeks
        (0.02, -0.05, -0.08, 0.115),
        (0.12, -0.075, 0.0, 0.095),  # muzzle
    ]
)


def _both_sides(colour: Colour, ball: Ball) -> tuple[tuple[Colour, Ball], tuple[Colour, Ball]]:
    forward, up, sideways, radius = ball
    return (colour, ball), (colour, (forward, up, -sideways, radius))


FACE = (
    *_both_sides(CREAM, (0.06, -0.08, 0.13, 0.085)),  # cheeks
    *_both_sides(CREAM, (0.15, 0.075, 0.075, 0.036)),  # brows
    *_both_sides(CREAM, (0.165, -0.085, 0.04, 0.068)),  # muzzle
    (CREAM, (0.13, -0.13, 0.0, 0.055)),  # chin
)
EYES_AND_NOSE = (
    *_both_sides(DARK, (0.16, 0.025, 0.082, 0.034)),
    *_both_sides(AMBER, (0.165, 0.026, 0.082, 0.024)),
    *_both_sides(DARK, (0.168, 0.025, 0.084, 0.012)),
    (DARK, (*NOSE, 0.042)),
    (PINK, (*NOSE, 0.030)),
)
FACE_LINES = np.array(
    [
        *([(0.13, 0.10, s, 0.012), (0.08, 0.16, 1.5 * s, 0.016)] for s in (-0.045, 0.0, 0.045)),
        *([(0.08, 0.0, s, 0.010), (0.0, -0.03, 1.2 * s, 0.016)] for s in (-0.14, 0.14)),
        *([(0.08, -0.06, s, 0.010), (0.0, -0.09, 1.2 * s, 0.016)] for s in (-0.14, 0.14)),
    ]
)


def head(see: See, fur: Colour) -> list[Part]:
    """Far ear, skull with the face, near ear."""

    def ear(fus: tuple[float, float, float]) -> Part:
        f, u, s = fus
        balls = np.array([(f, u, s, 0.075), (f, u, s, 0.085), (f + 0.03, u - 0.01, s, 0.042)])
        whole, rim, inside = see(balls)[:, None, X_Y_RADIUS]
        return Part([whole], fur, [(_discs(rim), DARK), (_discs(inside), CREAM)])

    skull = list(see(SKULL)[:, None, X_Y_RADIUS])
    return [ear(OTHER_EAR), Part(skull, fur, _face(see)), ear(EAR)]


def _face(see: See) -> list[Stroke]:
    """Cheeks, brows and muzzle, then stripes, then eyes and nose, where they are in sight."""
    rear = see(np.zeros((1, 4)))[0, 2] - 0.01
    lines = see(FACE_LINES.reshape(-1, 4)).reshape(-1, 2, 4)
    stripes = _bars(lines[lines[..., 2].min(axis=1) > rear])

    def spots(marks: tuple[tuple[Colour, Ball], ...]) -> list[Stroke]:
        balls = see(np.array([ball for _, ball in marks]))
        discs = _discs(balls[:, X_Y_RADIUS])[:, None]
        in_sight = balls[:, 2] > rear
        return [
            (disc, colour)
            for disc, (colour, _), seen in zip(discs, marks, in_sight, strict=True)
            if seen
        ]

    return [*spots(FACE), (stripes, DARK), *spots(EYES_AND_NOSE)]


def _bars(lines: np.ndarray) -> np.ndarray:
    """Short stripes between pairs of balls [N, 2, 4], as thick as these: [N, 4, 2]."""
    start, end = lines[:, 0], lines[:, 1]
    along = end[:, :2] - start[:, :2]
    aside = along[:, ::-1] * (-1, 1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-6)
    a, b = aside * start[:, 3:], aside * end[:, 3:]
    first, last = start[:, :2], end[:, :2]
    return np.stack([first + a, last + b, last - b, first - a], axis=1)


T = np.linspace(0, 1, 4)[:-1]
CATMULL_ROM = 0.5 * np.stack(
    [-T + 2 * T**2 - T**3, 2 - 5 * T**2 + 3 * T**3, T + 4 * T**2 - 3 * T**3, T**3 - T**2], axis=1
)


def _tube(joints: np.ndarray, radii: Iterable[float]) -> np.ndarray:
    """Run a smooth curve through the joints and their radii: [N, 3]."""
    p = np.column_stack([joints, np.fromiter(radii, float)])
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    spans = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)
    return np.vstack([(CATMULL_ROM @ spans).reshape(-1, 3), p[-2]])


def _stripes(
    tube: np.ndarray,
    along: np.ndarray,
    widths: np.ndarray,
    *,
    start: float,
    end: np.ndarray | float,
) -> np.ndarray:
    """Cut wedges across a tube, from `start` to a point at `end` (1 = upper edge, -1 = lower).

    Returns:
        polygons [N, 5, 2] in the figure frame.
    """
    at = np.clip(along, 0, 1) * (len(tube) - 1)
    piece = np.minimum(at.astype(int), len(tube) - 2)
    step = tube[piece + 1] - tube[piece]
    balls = tube[piece] + (at - piece)[:, None] * step
    ahead = step[:, :2] / np.hypot(step[:, 0], step[:, 1])[:, None]
    across = np.stack([ahead[:, 1], -ahead[:, 0]], axis=-1) * balls[:, 2:]
    end = np.broadcast_to(end, at.shape)
    reach = start + np.array([0, 0.5, 1, 0.5, 0]) * (end - start)[:, None]
    sideways = np.array([-1, -0.3, 0.4, 1.1, 1]) * widths[:, None]
    return (
        balls[:, None, :2]
        + reach[..., None] * across[:, None]
        + sideways[..., None] * ahead[:, None]
    )


TURN = np.linspace(0, 2 * np.pi, 16, endpoint=False)
CIRCLE = np.stack([np.cos(TURN), np.sin(TURN)], axis=-1)


def _discs(balls: np.ndarray) -> np.ndarray:
    """Circles as polygons [N, 16, 2]."""
    return balls[:, None, :2] + balls[:, None, 2:] * CIRCLE


def shadow(
    picture: np.ndarray, paws: np.ndarray, *, place: Place, body_px: float, slope_deg: float
) -> None:
    """Darken the ground under the paws."""
    slope = math.tan(math.radians(slope_deg))
    oval = CIRCLE * (0.85, 0.09) + CIRCLE[:, :1] * (0, -0.85 * slope)
    oval = oval + paws.mean(axis=0) + np.array([0, 0.05])
    mask = np.zeros(picture.shape[:2], np.uint8)
    polygon(mask, place(oval), (110,))
    soft = max(3, round(0.12 * body_px))
    mask = cv2.blur(mask, (soft, soft))
    x, y, w, h = cv2.boundingRect(mask)
    under = picture[y : y + h, x : x + w]
    under[:] = under * (1 - mask[y : y + h, x : x + w, None] * np.float32(1 / 255))


def paint(
    picture: np.ndarray, silhouette: np.ndarray, part: Part, *, place: Place, body_px: float
) -> None:
    """Colour, strokes and a rounded shade inside the part's outline."""
    mask = np.zeros_like(silhouette)
    for tube in part.tubes:
        paint_tube(mask, place(tube[:, :2]), tube[:, 2] * body_px, (255,))
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0:  # outside the picture
        return
    coat = np.empty((h, w, 3), np.uint8)
    coat[:] = np.round(part.colour)
    for polygons, colour in part.strokes:
        for corners in fixed(place(polygons) - (x, y)):  # together, overlaps would be holes
            cv2.fillPoly(coat, [corners], colour, cv2.LINE_AA, SUBPIXEL_BITS)
    inside, under = mask[y : y + h, x : x + w], picture[y : y + h, x : x + w]
    depth = cv2.distanceTransform((inside > 127).astype(np.uint8), cv2.DIST_L2, 3)
    light = part.rim + (1 - part.rim) * np.minimum(depth * (1 / (0.07 * body_px)), 1)
    alpha = inside * np.float32(1 / 255)
    shaded = cv2.multiply(coat, cv2.merge([light] * 3), dtype=cv2.CV_8U)
    under[:] = cv2.blendLinear(shaded, under, alpha, 1 - alpha)
    covered = silhouette[y : y + h, x : x + w]
    np.maximum(covered, inside, out=covered)
