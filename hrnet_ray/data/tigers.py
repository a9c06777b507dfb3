"""Amur tigers as numbers, and how such a tiger is drawn.

The animal is built once, facing right, in its own frame: lengths in body lengths (shoulder to
hip), x towards the head, y up, z towards the viewer. A camera turns that into the figure frame
(y down, still facing right), and only the last step, `Tiger.place`, mirrors, scales and moves it
into the picture. So a mirrored tiger is the same numbers with the other `facing`, and left and
right cannot go wrong: facing right we look at its right flank, so what is near is right.
"""

import cmath
import math
from collections.abc import Iterable
from colorsys import hsv_to_rgb
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple

import cv2
import numpy as np

from hrnet_ray.skeletons import ATRW

HALF_WIDTH = 0.13  # from the middle of the body to a shoulder or hip
SUBPIXEL_BITS = 4  # cv2's drawing takes fixed-point coordinates

DARK = (28, 30, 38)  # colours are BGR
CREAM = (222, 236, 244)
PINK = (120, 125, 205)
AMBER = (60, 185, 215)

Colour = tuple[int | float, ...]
Stroke = tuple[np.ndarray, Colour]  # polygons [N, M, 2], and what to fill them with
Ball = tuple[float, float, float, float]  # forward, up, sideways from the head's centre; radius


@dataclass(frozen=True, kw_only=True)
class Tiger:
    """One animal: where it stands, how it stands and what it wears. Angles are in degrees."""

    facing: Literal["left", "right"]
    center_xy: tuple[float, float]
    """Where the body centre lies, in picture pixels."""
    body_px: float
    """Pixels per body length."""
    yaw_deg: float
    """Positive: the head is farther from the viewer than the tail."""
    camera_deg: float
    """How far the viewer looks down."""
    slope_deg: float
    """Ground that rises towards the head."""
    shoulder_height: float
    hip_height: float
    stride: float
    phases: tuple[float, float, float, float]
    """Of near front, far front, near back, far back leg, in turns; half a turn is in the air."""
    neck_deg: float
    head_yaw_deg: float
    """How far the face turns to the viewer."""
    head_pitch_deg: float
    tail_deg: float
    tail_curl_deg: float
    fur_hsv: tuple[float, float, float]
    pattern: int
    """Seed of the stripes."""

    @cached_property
    def figure_from_body(self) -> np.ndarray:
        """The camera: yaw, then look down, then the slope. Its third row is depth."""
        (c, s), (cd, sd) = _cos_sin(self.yaw_deg), _cos_sin(self.camera_deg)
        cs, ss = _cos_sin(self.slope_deg)
        yawed_from_body = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        level_from_yawed = np.array([[1, 0, 0], [0, -cd, sd], [0, 0, 1]])
        figure_from_level = np.array([[cs, ss, 0], [-ss, cs, 0], [0, 0, 1]])
        return figure_from_level @ level_from_yawed @ yawed_from_body

    def place(self, figure_xy: np.ndarray) -> np.ndarray:
        """From the figure frame to picture pixels."""
        sign = 1.0 if self.facing == "right" else -1.0
        return figure_xy * (sign * self.body_px, self.body_px) + self.center_xy


def random_tiger(rng: np.random.Generator) -> Tiger:
    """Draw a tiger of body length 1 at (0, 0); `replace` moves it to where it is wanted."""
    near_phase = rng.uniform()
    between = rng.normal(0.5, 0.12, 2)  # the far leg steps when the near one stands
    lag = rng.normal(0.25, 0.1)
    phases = (near_phase, near_phase + between[0], near_phase + lag, near_phase + lag + between[1])
    yaw_deg = rng.uniform(-24, 24)
    return Tiger(
        facing="right" if rng.uniform() < 0.5 else "left",
        center_xy=(0.0, 0.0),
        body_px=1.0,
        yaw_deg=yaw_deg,
        camera_deg=rng.uniform(4, 16),
        slope_deg=rng.uniform(-14, 14),
        shoulder_height=rng.uniform(0.50, 0.66),
        hip_height=rng.uniform(0.53, 0.65),
        stride=rng.uniform(0.12, 0.30),
        phases=phases,
        neck_deg=rng.uniform(-25, 38),
        head_yaw_deg=yaw_deg + rng.uniform(5, 70),
        head_pitch_deg=rng.uniform(-25, 15),
        tail_deg=rng.uniform(-70, 35),
        tail_curl_deg=rng.uniform(-60, 170),
        fur_hsv=(rng.uniform(0.065, 0.10), rng.uniform(0.62, 0.82), rng.uniform(0.82, 1.0)),
        pattern=int(rng.integers(2**31)),
    )


def mirrored(tiger: Tiger, *, width: int) -> Tiger:
    """Return the tiger as seen in a picture of `width` pixels turned left for right."""
    x, y = tiger.center_xy
    facing = "left" if tiger.facing == "right" else "right"
    return replace(tiger, facing=facing, center_xy=(width - 1 - x, y))


# The bones: everything below up to `keypoints` is geometry.


class Anatomy(NamedTuple):
    """Joints in the body frame, each row x, y, z."""

    legs: np.ndarray
    """[4, 4, 3]: near front, far front, near back, far back; from the body down to the paw."""
    trunk: np.ndarray
    tail: np.ndarray
    head: np.ndarray


def anatomy(tiger: Tiger) -> Anatomy:
    """Pose the bones: paws on the ground or in mid-step, knees where they must then be.

    The bones move in the plane of the body's length and height, which complex numbers suit.
    """
    chest = 0.5 + 1j * (tiger.shoulder_height + 0.09)
    rump = -0.5 + 1j * (tiger.hip_height + 0.10)
    limbs = (_front_leg, _front_leg, _back_leg, _back_leg)
    sides = (HALF_WIDTH, -HALF_WIDTH, HALF_WIDTH, -HALF_WIDTH)
    return Anatomy(
        legs=np.array(
            [
                _at_depth(leg(tiger, phase), z)
                for leg, phase, z in zip(limbs, tiger.phases, sides, strict=True)
            ]
        ),
        trunk=_at_depth(
            [
                rump - 0.1,
                rump + 0.05,
                (chest + rump) / 2 - 0.02j,
                chest - 0.05,
                chest + 0.13 + 0.03j,
            ]
        ),
        tail=_at_depth(_tail(tiger, rump - 0.17 + 0.07j)),
        head=_at_depth([chest + 0.15 + 0.08j + 0.42 * _direction(tiger.neck_deg)])[0],
    )


def _direction(deg: float) -> complex:
    return cmath.rect(1.0, math.radians(deg))


def _step(tiger: Tiger, phase: float) -> complex:
    """Where a paw is in its stride: along the ground and above it."""
    turn = _direction(360 * phase)
    return complex(tiger.stride * turn.real, 0.15 * max(0.0, turn.imag))


def _front_leg(tiger: Tiger, phase: float) -> list[complex]:
    shoulder = 0.5 + 1j * tiger.shoulder_height
    wanted = 0.5 + 0.09j + _step(tiger, phase)
    elbow, wrist = _bend(shoulder, wanted, (0.30, 0.32), towards=-1)
    return [shoulder, elbow, wrist, wrist + 0.03 - 0.06j]


def _back_leg(tiger: Tiger, phase: float) -> list[complex]:
    hip = -0.5 + 1j * tiger.hip_height
    step = _step(tiger, phase)
    knee, heel = _bend(hip, -0.58 + 0.22j + step, (0.28, 0.27), towards=1)
    return [hip, knee, heel, heel + 0.05 - 0.5 * step.imag - 0.19j]


def _bend(
    root: complex, end: complex, lengths: tuple[float, float], *, towards: int
) -> tuple[complex, complex]:
    """Solve a two-bone limb; the joint bends `towards` the head (1) or the tail (-1)."""
    upper, lower = lengths
    reach = abs(end - root)
    direction = (end - root) / reach
    reach = min(max(reach, 0.35 * (upper + lower)), 0.985 * (upper + lower))
    along = (upper**2 - lower**2 + reach**2) / (2 * reach)
    aside = max(upper**2 - along**2, 0.0) ** 0.5
    return root + direction * complex(along, towards * aside), root + direction * reach


def _tail(tiger: Tiger, root: complex) -> list[complex]:
    """Follow the tail from its root; it leaves backwards and curls evenly."""
    turns = np.linspace(0, tiger.tail_curl_deg, 6)
    steps = (0.14 * _direction(180 - tiger.tail_deg - turn) for turn in turns.tolist())
    return list(accumulate(steps, initial=root))


def _at_depth(plane: list[complex], z: float = 0.0) -> np.ndarray:
    return np.array([(point.real, point.imag, z) for point in plane])


def _see(tiger: Tiger, body_xyz: np.ndarray) -> np.ndarray:
    """Turn body-frame points [..., 3] into figure x, y (down) and depth (towards the viewer)."""
    middle = (0, (tiger.shoulder_height + tiger.hip_height) / 2 + 0.075, 0)
    return (body_xyz - middle) @ tiger.figure_from_body.T


def _see_head(tiger: Tiger, head: np.ndarray, head_fus: np.ndarray) -> np.ndarray:
    """The same for points seen from the head's centre: forward, up, sideways to the near ear."""
    (c, s), (cp, sp) = map(_cos_sin, (tiger.head_yaw_deg, tiger.head_pitch_deg))
    pitched_from_head = np.array([[cp, -sp, 0], [sp, cp, 0], [0, 0, 1]])
    body_from_pitched = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    turn = body_from_pitched @ pitched_from_head
    return _see(tiger, head + HEAD_SIZE * head_fus @ turn.T)


def _cos_sin(deg: float) -> tuple[float, float]:
    return math.cos(math.radians(deg)), math.sin(math.radians(deg))


HEAD_SIZE = 1.12
EAR = (-0.02, 0.15, 0.125)  # forward, up, sideways from the head's centre
NOSE = (0.195, -0.055, 0.0)
OTHER_EAR = (EAR[0], EAR[1], -EAR[2])


def keypoints(tiger: Tiger) -> np.ndarray:
    """Where the 15 keypoints lie in the picture, [15, 2], hidden or not."""
    bones = anatomy(tiger)
    near, far = ("right", "left") if tiger.facing == "right" else ("left", "right")
    face = _see_head(tiger, bones.head, np.array([EAR, OTHER_EAR, NOSE]))
    seen = {f"{near}_ear": face[0], f"{far}_ear": face[1], "nose": face[2]}
    joints = _see(tiger, bones.legs)
    for side, (shoulder, _, _, front_paw), (hip, knee, _, back_paw) in (
        (near, joints[0], joints[2]),
        (far, joints[1], joints[3]),
    ):
        seen |= {f"{side}_shoulder": shoulder, f"{side}_front_paw": front_paw}
        seen |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_back_paw": back_paw}
    seen["tail"] = _see(tiger, bones.tail[0])
    seen["center"] = _see(tiger, bones.trunk[2])
    return tiger.place(np.array([seen[name][:2] for name in ATRW.keypoints]))


# The fur: everything below puts paint on bones.


class Part(NamedTuple):
    """Tubes that make one silhouette, its colour, and what is painted on it, in order."""

    tubes: list[np.ndarray]
    """Each [N, 3]: figure x, y and radius. A single row is a ball."""
    colour: Colour
    strokes: list[Stroke]
    rim: float = 0.60
    """Brightness at the outline; it rises to 1 inside."""


def draw_tiger(picture: np.ndarray, tiger: Tiger) -> np.ndarray:
    """Paint the tiger into `picture` (BGR, in place) and return its silhouette, uint8 [H, W]."""
    rng = np.random.default_rng(tiger.pattern)
    bones = anatomy(tiger)
    legs = _see(tiger, bones.legs)[..., :2]
    silhouette = np.zeros(picture.shape[:2], np.uint8)
    _shadow(picture, tiger, legs[:, -1])
    for part in _parts(tiger, bones, legs, rng):
        _paint(picture, silhouette, tiger, part)
    return silhouette


def _parts(tiger: Tiger, bones: Anatomy, legs: np.ndarray, rng: np.random.Generator) -> list[Part]:
    """From the farthest to the nearest."""
    fur = tuple(255 * c for c in reversed(hsv_to_rgb(*tiger.fur_hsv)))
    near_front, far_front, near_back, far_back = legs
    return [
        _leg(far_back, BACK_RADII, fur, rng, light=0.55),
        _leg(far_front, FRONT_RADII, fur, rng, light=0.55),
        _tail_part(_see(tiger, bones.tail)[:, :2], fur, rng),
        _trunk(tiger, bones, fur, rng),
        _leg(near_back, BACK_RADII, fur, rng),
        _leg(near_front, FRONT_RADII, fur, rng),
        *_head(tiger, bones.head, fur),
    ]


# A leg bends at 1/3 and 2/3 of its tube: stripes across a bend would run into each other.
LEG_STRIPES = np.array([0.06, 0.14, 0.22, 0.42, 0.50, 0.58])
FRONT_RADII = (0.125, 0.080, 0.056, 0.064)
BACK_RADII = (0.165, 0.100, 0.052, 0.062)


def _leg(
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


def _tail_part(joints: np.ndarray, fur: Colour, rng: np.random.Generator) -> Part:
    tube = _tube(joints, np.linspace(0.055, 0.042, len(joints)))
    rings = _stripes(
        tube, np.linspace(0.2, 0.85, 6), rng.uniform(0.018, 0.028, 6), start=1.2, end=-1.2
    )
    tip = _discs(tube[-3:] * (1, 1, 1.3))
    return Part([tube], fur, [(rings, DARK), (tip, DARK)])


def _trunk(tiger: Tiger, bones: Anatomy, fur: Colour, rng: np.random.Generator) -> Part:
    spine = _see(tiger, bones.trunk)[:, :2]
    body = _tube(spine, (0.165, 0.205, 0.185, 0.215, 0.185))
    head = _see(tiger, bones.head)[:2]
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


def _head(tiger: Tiger, head: np.ndarray, fur: Colour) -> list[Part]:
    """Far ear, skull with the face, near ear."""

    def ear(fus: tuple[float, float, float]) -> Part:
        f, u, s = fus
        balls = np.array([(f, u, s, 0.075), (f, u, s, 0.085), (f + 0.03, u - 0.01, s, 0.042)])
        whole, rim, inside = _see_balls(tiger, head, balls)[:, None, X_Y_RADIUS]
        return Part([whole], fur, [(_discs(rim), DARK), (_discs(inside), CREAM)])

    skull = list(_see_balls(tiger, head, SKULL)[:, None, X_Y_RADIUS])
    return [ear(OTHER_EAR), Part(skull, fur, _face(tiger, head)), ear(EAR)]


def _face(tiger: Tiger, head: np.ndarray) -> list[Stroke]:
    """Cheeks, brows and muzzle, then stripes, then eyes and nose, where they are in sight."""
    rear = _see(tiger, head)[2] - 0.01
    lines = _see_balls(tiger, head, FACE_LINES.reshape(-1, 4)).reshape(-1, 2, 4)
    stripes = _bars(lines[lines[..., 2].min(axis=1) > rear])

    def spots(marks: tuple[tuple[Colour, Ball], ...]) -> list[Stroke]:
        balls = _see_balls(tiger, head, np.array([ball for _, ball in marks]))
        discs = _discs(balls[:, X_Y_RADIUS])[:, None]
        in_sight = balls[:, 2] > rear
        return [
            (disc, colour)
            for disc, (colour, _), seen in zip(discs, marks, in_sight, strict=True)
            if seen
        ]

    return [*spots(FACE), (stripes, DARK), *spots(EYES_AND_NOSE)]


def _see_balls(tiger: Tiger, head: np.ndarray, balls: np.ndarray) -> np.ndarray:
    """From forward, up, sideways, radius [N, 4] to figure x, y, depth and radius."""
    return np.column_stack([_see_head(tiger, head, balls[:, :3]), HEAD_SIZE * balls[:, 3]])


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


def _shadow(picture: np.ndarray, tiger: Tiger, paws: np.ndarray) -> None:
    """Darken the ground under the paws."""
    slope = math.tan(math.radians(tiger.slope_deg))
    oval = CIRCLE * (0.85, 0.09) + CIRCLE[:, :1] * (0, -0.85 * slope)
    oval = oval + paws.mean(axis=0) + np.array([0, 0.05])
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, _fixed(tiger.place(oval)), 110, cv2.LINE_AA, SUBPIXEL_BITS)
    soft = max(3, round(0.12 * tiger.body_px))
    mask = cv2.blur(mask, (soft, soft))
    x, y, w, h = cv2.boundingRect(mask)
    under = picture[y : y + h, x : x + w]
    under[:] = under * (1 - mask[y : y + h, x : x + w, None] * np.float32(1 / 255))


def _paint(picture: np.ndarray, silhouette: np.ndarray, tiger: Tiger, part: Part) -> None:
    """Colour, strokes and a rounded shade inside the part's outline."""
    mask = np.zeros_like(silhouette)
    for tube in part.tubes:
        _fill_tube(mask, tiger.place(tube[:, :2]), tube[:, 2] * tiger.body_px)
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0:  # outside the picture
        return
    paint = np.empty((h, w, 3), np.uint8)
    paint[:] = np.round(part.colour)
    for polygons, colour in part.strokes:
        for polygon in _fixed(tiger.place(polygons) - (x, y)):  # together, overlaps would be holes
            cv2.fillPoly(paint, [polygon], colour, cv2.LINE_AA, SUBPIXEL_BITS)
    inside, under = mask[y : y + h, x : x + w], picture[y : y + h, x : x + w]
    depth = cv2.distanceTransform((inside > 127).astype(np.uint8), cv2.DIST_L2, 3)
    light = part.rim + (1 - part.rim) * np.minimum(depth * (1 / (0.07 * tiger.body_px)), 1)
    alpha = inside * np.float32(1 / 255)
    shaded = cv2.multiply(paint, cv2.merge([light] * 3), dtype=cv2.CV_8U)
    under[:] = cv2.blendLinear(shaded, under, alpha, 1 - alpha)
    covered = silhouette[y : y + h, x : x + w]
    np.maximum(covered, inside, out=covered)


def _fill_tube(mask: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> None:
    """Fill balls and the straight pieces that join neighbours."""
    for centre, radius in zip(_fixed(centres).tolist(), _fixed(radii).tolist(), strict=True):
        cv2.circle(mask, centre, radius, 255, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    along = np.diff(centres, axis=0)
    aside = along[:, ::-1] * (-1, 1) / (np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9)
    a, b = aside * radii[:-1, None], aside * radii[1:, None]
    first, last = centres[:-1], centres[1:]
    for piece in _fixed(np.stack([first + a, last + b, last - b, first - a], axis=1)):
        cv2.fillConvexPoly(mask, piece, 255, cv2.LINE_AA, SUBPIXEL_BITS)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    return np.round(pixels * (1 << SUBPIXEL_BITS)).astype(np.int32)
