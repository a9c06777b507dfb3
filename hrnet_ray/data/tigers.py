"""Amur tigers as numbers, and how such a tiger is drawn.

The animal is built once, facing right, in its own frame: lengths in body lengths (shoulder to hip),
x towards the head, y up, z towards the viewer. A camera turns that into the figure frame (y down, still
facing right), and only the last step, `Tiger.place`, mirrors, scales and moves it into the picture. So a
mirrored tiger is the same numbers with the other `facing`, and left and right cannot go wrong: facing
right we look at its right flank, so what is near is right.
"""

from collections.abc import Iterable
from colorsys import hsv_to_rgb
from dataclasses import dataclass, replace
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

Stroke = tuple[np.ndarray, tuple[float, ...]]  # polygons [N, M, 2] and their colour


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
    """Turns of near front, far front, near back, far back leg; the upper half turn is in the air."""
    neck_deg: float
    head_yaw_deg: float
    """How far the face turns to the viewer."""
    head_pitch_deg: float
    tail_deg: float
    tail_curl_deg: float
    fur_hsv: tuple[float, float, float]
    pattern: int
    """Seed of the stripes."""

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
    return Tiger(
        facing="right" if rng.uniform() < 0.5 else "left",
        center_xy=(0.0, 0.0),
        body_px=1.0,
        yaw_deg=rng.uniform(-24, 24),
        camera_deg=rng.uniform(4, 16),
        slope_deg=rng.uniform(-14, 14),
        shoulder_height=rng.uniform(0.46, 0.62),
        hip_height=rng.uniform(0.50, 0.62),
        stride=rng.uniform(0.12, 0.30),
        phases=phases,
        neck_deg=rng.uniform(-25, 38),
        head_yaw_deg=rng.uniform(5, 75),
        head_pitch_deg=rng.uniform(-25, 15),
        tail_deg=rng.uniform(-70, 35),
        tail_curl_deg=rng.uniform(-60, 170),
        fur_hsv=(rng.uniform(0.055, 0.09), rng.uniform(0.68, 0.86), rng.uniform(0.82, 1.0)),
        pattern=int(rng.integers(2**31)),
    )


def mirrored(tiger: Tiger, *, width: int) -> Tiger:
    """Return the tiger as seen in a picture of `width` pixels turned left for right."""
    x, y = tiger.center_xy
    facing = "left" if tiger.facing == "right" else "right"
    return replace(tiger, facing=facing, center_xy=(width - 1 - x, y))


# The bones: everything below up to `keypoints` is geometry.


class Anatomy(NamedTuple):
    """Joints in the body frame; a leg is [joints, 3] from the body down to the paw."""

    legs: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    trunk: np.ndarray
    tail: np.ndarray
    head: np.ndarray


def anatomy(tiger: Tiger) -> Anatomy:
    """Pose the bones: paws on the ground or in mid-step, knees where they must then be."""
    front, back = 0.5, -0.5
    chest, rump = tiger.shoulder_height + 0.09, tiger.hip_height + 0.10
    neck = np.radians(tiger.neck_deg)
    head = np.array([front + 0.14 + 0.40 * np.cos(neck), chest + 0.08 + 0.40 * np.sin(neck), 0])
    return Anatomy(
        legs=(
            _front_leg(tiger, HALF_WIDTH, tiger.phases[0]),
            _front_leg(tiger, -HALF_WIDTH, tiger.phases[1]),
            _back_leg(tiger, HALF_WIDTH, tiger.phases[2]),
            _back_leg(tiger, -HALF_WIDTH, tiger.phases[3]),
        ),
        trunk=np.array(
            [
                (back - 0.10, rump, 0),
                (back + 0.05, rump, 0),
                (0.0, (chest + rump) / 2 - 0.02, 0),
                (front - 0.05, chest, 0),
                (front + 0.13, chest + 0.03, 0),
            ]
        ),
        tail=_tail(tiger, np.array([back - 0.17, rump + 0.07])),
        head=head,
    )


def _step(tiger: Tiger, phase: float) -> tuple[float, float]:
    """Where a paw is in its stride: along the ground and above it."""
    turn = 2 * np.pi * phase
    return tiger.stride * np.cos(turn), 0.15 * max(0.0, np.sin(turn))


def _front_leg(tiger: Tiger, z: float, phase: float) -> np.ndarray:
    along, lift = _step(tiger, phase)
    shoulder = np.array([0.5, tiger.shoulder_height])
    elbow, wrist = _bend(shoulder, np.array([0.5 + along, 0.09 + lift]), (0.28, 0.30), towards=-1)
    paw = wrist + (0.03, -0.06)
    return _at_depth([shoulder, elbow, wrist, paw], z)


def _back_leg(tiger: Tiger, z: float, phase: float) -> np.ndarray:
    along, lift = _step(tiger, phase)
    hip = np.array([-0.5, tiger.hip_height])
    heel = np.array([-0.58 + along, 0.22 + lift])
    knee, heel = _bend(hip, heel, (0.27, 0.25), towards=1)
    paw = heel + (0.05 - 0.5 * lift, -0.19)
    return _at_depth([hip, knee, heel, paw], z)


def _bend(
    root: np.ndarray, end: np.ndarray, lengths: tuple[float, float], *, towards: int
) -> tuple[np.ndarray, np.ndarray]:
    """Solve a two-bone limb; the joint bends `towards` the head (1) or the tail (-1)."""
    upper, lower = lengths
    reach = end - root
    distance = np.linalg.norm(reach)
    reach = reach / distance
    distance = np.clip(distance, 0.35 * (upper + lower), 0.985 * (upper + lower))
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    aside = np.sqrt(max(upper**2 - along**2, 0.0))
    forward = np.array([-reach[1], reach[0]])
    return root + along * reach + towards * aside * forward, root + distance * reach


def _tail(tiger: Tiger, root: np.ndarray) -> np.ndarray:
    """Follow the tail from its root; it leaves backwards and curls evenly."""
    angles = np.radians(180 - tiger.tail_deg - np.linspace(0, tiger.tail_curl_deg, 6))
    steps = 0.14 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return _at_depth(root + np.vstack([np.zeros(2), np.cumsum(steps, axis=0)]), 0.0)


def _at_depth(xy: Iterable[np.ndarray], z: float) -> np.ndarray:
    points = np.asarray(list(xy))
    return np.column_stack([points, np.full(len(points), z)])


def _see(tiger: Tiger, body_xyz: np.ndarray) -> np.ndarray:
    """Turn body-frame points [..., 3] into figure x, y (down) and depth (towards the viewer)."""
    middle = (tiger.shoulder_height + tiger.hip_height) / 2 + 0.075
    x, y, z = np.moveaxis(np.asarray(body_xyz) - (0, middle, 0), -1, 0)
    yaw, down, slope = np.radians([tiger.yaw_deg, tiger.camera_deg, tiger.slope_deg])
    across, depth = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    below = -y * np.cos(down) + depth * np.sin(down)
    turned_x = across * np.cos(slope) + below * np.sin(slope)
    turned_y = below * np.cos(slope) - across * np.sin(slope)
    return np.stack([turned_x, turned_y, depth], axis=-1)


def _see_head(tiger: Tiger, head: np.ndarray, head_fus: np.ndarray) -> np.ndarray:
    """The same for points given from the head's centre: forward, up, and sideways to the near ear."""
    yaw, pitch = np.radians([tiger.head_yaw_deg, tiger.head_pitch_deg])
    f, u, s = np.moveaxis(np.asarray(head_fus, dtype=float), -1, 0)
    ahead, up = f * np.cos(pitch) - u * np.sin(pitch), f * np.sin(pitch) + u * np.cos(pitch)
    x, z = ahead * np.cos(yaw) - s * np.sin(yaw), ahead * np.sin(yaw) + s * np.cos(yaw)
    return _see(tiger, head + np.stack([x, up, z], axis=-1))


EAR = (-0.02, 0.15, 0.125)  # forward, up, sideways from the head's centre
NOSE = (0.235, -0.055, 0.0)
OTHER_EAR = (EAR[0], EAR[1], -EAR[2])


def keypoints(tiger: Tiger) -> np.ndarray:
    """Where the 15 keypoints lie in the picture, [15, 2], hidden or not."""
    bones = anatomy(tiger)
    near, far = ("right", "left") if tiger.facing == "right" else ("left", "right")
    face = _see_head(tiger, bones.head, np.array([EAR, OTHER_EAR, NOSE]))
    seen = {f"{near}_ear": face[0], f"{far}_ear": face[1], "nose": face[2]}
    for side, front, back in ((near, 0, 2), (far, 1, 3)):
        shoulder, _, _, front_paw = _see(tiger, bones.legs[front])
        hip, knee, _, back_paw = _see(tiger, bones.legs[back])
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
    colour: tuple[float, ...]
    strokes: list[Stroke]


def draw_tiger(picture: np.ndarray, tiger: Tiger) -> np.ndarray:
    """Paint the tiger into `picture` (BGR, in place) and return its silhouette, uint8 [H, W]."""
    silhouette = np.zeros(picture.shape[:2], np.uint8)
    for part in _parts(tiger):
        _paint(picture, silhouette, tiger, part)
    return silhouette


def _parts(tiger: Tiger) -> list[Part]:
    """From the farthest to the nearest."""
    rng = np.random.default_rng(tiger.pattern)
    bones = anatomy(tiger)
    fur = tuple(255 * c for c in reversed(hsv_to_rgb(*tiger.fur_hsv)))
    near_front, far_front, near_back, far_back = (_see(tiger, leg)[:, :2] for leg in bones.legs)
    return [
        _leg(far_back, BACK_RADII, _dim(fur), rng),
        _leg(far_front, FRONT_RADII, _dim(fur), rng),
        _tail_part(_see(tiger, bones.tail)[:, :2], fur, rng),
        _trunk(tiger, bones, fur, rng),
        _leg(near_back, BACK_RADII, fur, rng),
        _leg(near_front, FRONT_RADII, fur, rng),
        *_head(tiger, bones.head, fur),
    ]


LEG_STRIPES = np.array([0.06, 0.14, 0.22, 0.42, 0.50, 0.58])  # between the joints, where it bends
FRONT_RADII = (0.125, 0.085, 0.060, 0.068)
BACK_RADII = (0.165, 0.105, 0.058, 0.066)


def _dim(colour: tuple[float, ...]) -> tuple[float, ...]:
    """Far legs stand in the body's shadow."""
    return tuple(0.60 * c for c in colour)


def _leg(
    joints: np.ndarray, radii: tuple[float, ...], fur: tuple[float, ...], rng: np.random.Generator
) -> Part:
    tube = _tube(joints, radii)
    toes = np.array([[*(joints[-1] + (0.035, 0.012)), 0.9 * radii[-1]]])
    shade = fur[2] / 255
    pale = tuple(shade * c for c in CREAM)
    paw = _discs(np.array([[*joints[-1], 1.1 * radii[-1]], toes[0] + (0, 0, 0.02)]))
    along = np.linspace(0.12, 0.80, 7) + rng.uniform(-0.03, 0.03, 7)
    stripes = _stripes(
        tube, along, rng.uniform(0.014, 0.022, 7), start=1.1, end=rng.uniform(-0.7, 0.3, 7)
    )
    return Part([tube, toes], fur, [(paw, pale), (stripes, DARK)])


def _tail_part(joints: np.ndarray, fur: tuple[float, ...], rng: np.random.Generator) -> Part:
    tube = _tube(joints, np.linspace(0.055, 0.042, len(joints)))
    rings = _stripes(
        tube, np.linspace(0.2, 0.85, 6), rng.uniform(0.018, 0.028, 6), start=1.2, end=-1.2
    )
    tip = _discs(tube[-3:] * (1, 1, 1.3))
    return Part([tube], fur, [(rings, DARK), (tip, DARK)])


def _trunk(tiger: Tiger, bones: Anatomy, fur: tuple[float, ...], rng: np.random.Generator) -> Part:
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


def _head(tiger: Tiger, head: np.ndarray, fur: tuple[float, ...]) -> list[Part]:
    """Far ear, skull with the face, near ear."""

    def see(*fus_radius: tuple[float, float, float, float]) -> np.ndarray:
        balls = np.array(fus_radius)
        return np.column_stack([_see_head(tiger, head, balls[:, :3]), balls[:, 3]])

    def ear(fus: tuple[float, float, float]) -> Part:
        f, u, s = fus
        rim, inside = see((f, u, s, 0.075), (f + 0.03, u - 0.01, 0.97 * s, 0.042))[:, [0, 1, 3]]
        return Part(
            [rim[None]],
            fur,
            [(_discs(rim[None] * (1, 1, 1.1)), DARK), (_discs(inside[None]), CREAM)],
        )

    skull = see((0, 0, 0, 0.175), (0.02, -0.05, 0.08, 0.115), (0.02, -0.05, -0.08, 0.115))
    muzzle = see((0.12, -0.075, 0, 0.095))
    tubes = [ball[None, [0, 1, 3]] for ball in (*skull, *muzzle)]
    return [ear(OTHER_EAR), Part(tubes, fur, _face(see)), ear(EAR)]


def _face(see) -> list[Stroke]:
    """Cheeks, brows, muzzle, stripes, eyes and nose; what looks away from the viewer is left out."""

    def shown(*balls: tuple[float, float, float, float]) -> np.ndarray:
        seen = see((0, 0, 0, 0), *balls)
        towards = seen[1:, 2] > seen[0, 2] + 0.01
        return _discs(seen[1:, [0, 1, 3]][towards])

    def both(
        f: float, u: float, s: float, radius: float
    ) -> list[tuple[float, float, float, float]]:
        return [(f, u, s, radius), (f, u, -s, radius)]

    lines = [
        *(((0.13, 0.10, s, 0.012), (0.08, 0.16, 1.5 * s, 0.016)) for s in (-0.045, 0.0, 0.045)),
        *(
            ((0.08, u, s, 0.010), (0.0, u - 0.03, 1.2 * s, 0.016))
            for u in (0.0, -0.06)
            for s in (-0.14, 0.14)
        ),
    ]
    bars = [_bar(see((0, 0, 0, 0), *line)) for line in lines]
    nose = see((*NOSE, 0.034))[:, [0, 1, 3]]
    return [
        (shown(*both(0.06, -0.08, 0.13, 0.085)), CREAM),
        (shown(*both(0.15, 0.075, 0.075, 0.036)), CREAM),
        (
            _discs(see(*both(0.165, -0.085, 0.04, 0.068), (0.13, -0.13, 0, 0.055))[:, [0, 1, 3]]),
            CREAM,
        ),
        (np.concatenate(bars), DARK),
        (shown(*both(0.16, 0.025, 0.082, 0.034)), DARK),
        (shown(*both(0.165, 0.026, 0.082, 0.024)), AMBER),
        (shown(*both(0.168, 0.025, 0.084, 0.012)), DARK),
        (_discs(nose * (1, 1, 1.25)), DARK),
        (_discs(nose * (1, 1, 0.9)), PINK),
    ]


def _bar(seen: np.ndarray) -> np.ndarray:
    """A short stripe between two points of the head, or nothing when it looks away."""
    centre, start, end = seen
    if min(start[2], end[2]) < centre[2] - 0.01:
        return np.empty((0, 4, 2))
    along = end[:2] - start[:2]
    aside = np.array([-along[1], along[0]]) / (np.linalg.norm(along) + 1e-6)
    corners = [
        start[:2] + aside * start[3],
        end[:2] + aside * end[3],
        end[:2] - aside * end[3],
        start[:2] - aside * start[3],
    ]
    return np.array(corners)[None]


def _tube(joints: np.ndarray, radii: Iterable[float]) -> np.ndarray:
    """Run a Catmull-Rom curve through the joints and their radii: [N, 3]."""
    p = np.column_stack([joints, np.fromiter(radii, float)])
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, 1, 5)[:-1, None]
    weights = 0.5 * np.hstack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    )
    spans = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)
    return np.vstack([np.einsum("tk,skd->std", weights, spans).reshape(-1, 3), p[-2]])


def _stripes(
    tube: np.ndarray,
    along: np.ndarray,
    widths: np.ndarray,
    *,
    start: float,
    end: np.ndarray | float,
) -> np.ndarray:
    """Cut wedges across a tube, from `start` to a point at `end` (1 = upper edge, -1 = lower): [N, 5, 2]."""
    at = np.clip(along, 0, 1) * (len(tube) - 1)
    index = np.arange(len(tube))
    x, y, radius = (np.interp(at, index, tube[:, i]) for i in range(3))
    tangents = np.gradient(tube[:, :2], axis=0)
    tangent = np.stack([np.interp(at, index, tangents[:, i]) for i in range(2)], axis=-1)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-9
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=-1)

    def corner(across: np.ndarray | float, ahead: float) -> np.ndarray:
        reach = (np.asarray(across) * radius)[:, None]
        return np.stack([x, y], axis=-1) + reach * normal + (ahead * widths)[:, None] * tangent

    middle = 0.5 * (start + np.asarray(end))
    return np.stack(
        [
            corner(start, -1),
            corner(middle, -0.3),
            corner(end, 0.4),
            corner(middle, 1.1),
            corner(start, 1),
        ],
        axis=1,
    )


CIRCLE = np.stack(
    [f(np.linspace(0, 2 * np.pi, 16, endpoint=False)) for f in (np.cos, np.sin)], axis=-1
)


def _discs(balls: np.ndarray) -> np.ndarray:
    """Circles as polygons [N, 16, 2]."""
    return balls[:, None, :2] + balls[:, None, 2:] * CIRCLE


def _paint(picture: np.ndarray, silhouette: np.ndarray, tiger: Tiger, part: Part) -> None:
    """Colour, strokes and a rounded shade inside the part's outline."""
    mask = np.zeros_like(silhouette)
    for tube in part.tubes:
        _fill_tube(mask, tiger.place(tube[:, :2]), tube[:, 2] * tiger.body_px)
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0:
        return
    window = np.s_[y : y + h, x : x + w]
    paint = np.empty((h, w, 3), np.uint8)
    paint[:] = np.array(part.colour).round()
    for polygons, colour in part.strokes:
        cv2.fillPoly(
            paint, list(_fixed(tiger.place(polygons) - (x, y))), colour, cv2.LINE_AA, SUBPIXEL_BITS
        )
    inside = mask[window]
    depth = cv2.distanceTransform((inside > 127).astype(np.uint8), cv2.DIST_L2, 3)
    light = 0.62 + 0.38 * np.minimum(depth / (0.07 * tiger.body_px), 1.0)
    alpha = inside[..., None] * np.float32(1 / 255)
    under = picture[window]
    picture[window] = under + alpha * (paint * light[..., None] - under)
    np.maximum(silhouette[window], inside, out=silhouette[window])


def _fill_tube(mask: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> None:
    """Fill balls and the straight pieces that join neighbours."""
    fixed_radii = _fixed(radii)
    for centre, radius in zip(_fixed(centres), fixed_radii, strict=True):
        cv2.circle(mask, centre.tolist(), int(radius), 255, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    along = np.diff(centres, axis=0)
    aside = along[:, ::-1] * (-1, 1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-9)
    a, b = aside * radii[:-1, None], aside * radii[1:, None]
    pieces = np.stack(
        [centres[:-1] + a, centres[1:] + b, centres[1:] - b, centres[:-1] - a], axis=1
    )
    for piece in _fixed(pieces):
        cv2.fillConvexPoly(mask, piece, 255, cv2.LINE_AA, SUBPIXEL_BITS)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    return np.round(pixels * (1 << SUBPIXEL_BITS)).astype(np.int32)
