"""Amur tigers as numbers, and how such a tiger is drawn.

The animal is built once, facing right, in its own frame: lengths in body lengths (shoulder to
hip), x towards the head, y up, z towards the viewer. A camera turns that into the figure frame
(y down, still facing right), and only the last step, `Tiger.place`, mirrors, scales and moves it
into the picture. So a mirrored tiger is the same numbers with the other `facing`, and left and
right cannot go wrong: facing right we look at its right flank, so what is near is right.
"""

import cmath
import math
from colorsys import hsv_to_rgb
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np

from hrnet_ray.data.synthetic import tiger_texture
from hrnet_ray.skeletons import ATRW

HALF_WIDTH = 0.13  # from the middle of the body to a shoulder or hip
HEAD_SIZE = 1.12


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


# The bones: everything below up to `keypoints` is geometry; `fur` has the paint.


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


def keypoints(tiger: Tiger) -> np.ndarray:
    """Where the 15 keypoints lie in the picture, [15, 2], hidden or not."""
    bones = anatomy(tiger)
    near, far = ("right", "left") if tiger.facing == "right" else ("left", "right")
    face = _see_head(
        tiger,
        bones.head,
        np.array([tiger_texture.EAR, tiger_texture.OTHER_EAR, tiger_texture.NOSE]),
    )
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


def draw_tiger(picture: np.ndarray, tiger: Tiger) -> np.ndarray:
    """Paint the tiger into `picture` (BGR, in place) and return its silhouette, uint8 [H, W]."""
    rng = np.random.default_rng(tiger.pattern)
    bones = anatomy(tiger)
    legs = _see(tiger, bones.legs)[..., :2]
    silhouette = np.zeros(picture.shape[:2], np.uint8)
    place, body_px = tiger.place, tiger.body_px
    tiger_texture.shadow(
        picture, legs[:, -1], place=place, body_px=body_px, slope_deg=tiger.slope_deg
    )
    for part in _parts(tiger, bones, legs, rng):
        tiger_texture.paint(picture, silhouette, part, place=place, body_px=body_px)
    return silhouette


def _parts(
    tiger: Tiger, bones: Anatomy, legs: np.ndarray, rng: np.random.Generator
) -> list[tiger_texture.Part]:
    """From the farthest to the nearest."""
    colour = tuple(255 * c for c in reversed(hsv_to_rgb(*tiger.fur_hsv)))
    spine, head = (_see(tiger, joints)[..., :2] for joints in (bones.trunk, bones.head))
    near_front, far_front, near_back, far_back = legs
    return [
        tiger_texture.leg(far_back, tiger_texture.BACK_RADII, colour, rng, light=0.55),
        tiger_texture.leg(far_front, tiger_texture.FRONT_RADII, colour, rng, light=0.55),
        tiger_texture.tail(_see(tiger, bones.tail)[:, :2], colour, rng),
        tiger_texture.trunk(spine, head, colour, rng),
        tiger_texture.leg(near_back, tiger_texture.BACK_RADII, colour, rng),
        tiger_texture.leg(near_front, tiger_texture.FRONT_RADII, colour, rng),
        *tiger_texture.head(partial(_see_balls, tiger, bones.head), colour),
    ]


def _see_balls(tiger: Tiger, head: np.ndarray, balls: np.ndarray) -> np.ndarray:
    """From forward, up, sideways, radius [N, 4] to figure x, y, depth and radius."""
    return np.column_stack([_see_head(tiger, head, balls[:, :3]), HEAD_SIZE * balls[:, 3]])
