"""Synthetic Amur tigers: parameters, joints, keypoints and rendering.

A tiger is built facing right in the body frame: lengths in body lengths (shoulder to hip), x
towards the head, y up, z towards the viewer. The camera transforms it to the figure frame (y down,
still facing right). `SyntheticTiger.to_image_xy` then mirrors, scales and moves it into the image.
A mirrored tiger therefore differs in `facing` and position only. A tiger that faces right shows its
right flank, so its near limbs are the right ones.
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

BODY_HALF_WIDTH = 0.13  # from the center plane of the body to a shoulder or hip
HEAD_SCALE = 1.12


@dataclass(frozen=True, kw_only=True)
class SyntheticTiger:
    """Position, posture and fur of one tiger. Angles are in degrees."""

    facing: Literal["left", "right"]
    center_xy: tuple[float, float]
    """Body center in image pixels."""
    body_length_px: float
    """Pixels per body length."""
    yaw_deg: float
    """A positive value turns the head away from the viewer."""
    camera_pitch_deg: float
    """Downward angle of the camera."""
    ground_slope_deg: float
    """A positive value lets the ground rise towards the head."""
    shoulder_height: float
    hip_height: float
    stride_length: float
    leg_phases: tuple[float, float, float, float]
    """Stride phases of near front, far front, near back and far back leg, in turns; a paw is in the air for
    half a turn."""
    neck_pitch_deg: float
    head_yaw_deg: float
    """A positive value turns the face to the viewer."""
    head_pitch_deg: float
    tail_pitch_deg: float
    tail_curl_deg: float
    fur_hsv: tuple[float, float, float]
    stripe_seed: int
    """Random seed of the stripes."""

    @cached_property
    def figure_from_body(self) -> np.ndarray:
        """Camera matrix: yaw, then pitch, then ground slope. Its third row is depth."""
        (c, s), (cd, sd) = _compute_cos_sin(self.yaw_deg), _compute_cos_sin(self.camera_pitch_deg)
        cs, ss = _compute_cos_sin(self.ground_slope_deg)
        yawed_from_body = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        level_from_yawed = np.array([[1, 0, 0], [0, -cd, sd], [0, 0, 1]])
        figure_from_level = np.array([[cs, ss, 0], [-ss, cs, 0], [0, 0, 1]])
        return figure_from_level @ level_from_yawed @ yawed_from_body

    def to_image_xy(self, figure_xy: np.ndarray) -> np.ndarray:
        """Transform figure coordinates to image pixels."""
        sign = 1.0 if self.facing == "right" else -1.0
        return figure_xy * (sign * self.body_length_px, self.body_length_px) + self.center_xy


def sample_tiger(rng: np.random.Generator) -> SyntheticTiger:
    """Sample a tiger of body length 1 at (0, 0); set position and size with `dataclasses.replace`."""
    near_phase = rng.uniform()
    between = rng.normal(0.5, 0.12, 2)  # near and far leg alternate
    lag = rng.normal(0.25, 0.1)
    phases = (near_phase, near_phase + between[0], near_phase + lag, near_phase + lag + between[1])
    yaw_deg = rng.uniform(-24, 24)
    return SyntheticTiger(
        facing="right" if rng.uniform() < 0.5 else "left",
        center_xy=(0.0, 0.0),
        body_length_px=1.0,
        yaw_deg=yaw_deg,
        camera_pitch_deg=rng.uniform(4, 16),
        ground_slope_deg=rng.uniform(-14, 14),
        shoulder_height=rng.uniform(0.50, 0.66),
        hip_height=rng.uniform(0.53, 0.65),
        stride_length=rng.uniform(0.12, 0.30),
        leg_phases=phases,
        neck_pitch_deg=rng.uniform(-25, 38),
        head_yaw_deg=yaw_deg + rng.uniform(5, 70),
        head_pitch_deg=rng.uniform(-25, 15),
        tail_pitch_deg=rng.uniform(-70, 35),
        tail_curl_deg=rng.uniform(-60, 170),
        fur_hsv=(rng.uniform(0.065, 0.10), rng.uniform(0.62, 0.82), rng.uniform(0.82, 1.0)),
        stripe_seed=int(rng.integers(2**31)),
    )


def mirror_tiger(tiger: SyntheticTiger, *, image_width: int) -> SyntheticTiger:
    """Mirror a tiger about the vertical axis of an image of `image_width` pixels."""
    x, y = tiger.center_xy
    facing = "left" if tiger.facing == "right" else "right"
    return replace(tiger, facing=facing, center_xy=(image_width - 1 - x, y))


# Geometry. Colors and stripes are in `tiger_texture`.


class TigerJoints(NamedTuple):
    """Joints in the body frame, each row x, y, z."""

    legs: np.ndarray
    """[4, 4, 3]: near front, far front, near back, far back; from the body down to the paw."""
    trunk: np.ndarray
    tail: np.ndarray
    head: np.ndarray


def compute_tiger_joints(tiger: SyntheticTiger) -> TigerJoints:
    """Compute the joints: paws from the stride phases, knees and elbows from the paws.

    Joints move in the plane of body length and height, represented by complex numbers.
    """
    chest = 0.5 + 1j * (tiger.shoulder_height + 0.09)
    rump = -0.5 + 1j * (tiger.hip_height + 0.10)
    limbs = (_compute_front_leg, _compute_front_leg, _compute_back_leg, _compute_back_leg)
    sides = (BODY_HALF_WIDTH, -BODY_HALF_WIDTH, BODY_HALF_WIDTH, -BODY_HALF_WIDTH)
    return TigerJoints(
        legs=np.array(
            [_to_body_xyz(leg(tiger, phase), z) for leg, phase, z in zip(limbs, tiger.leg_phases, sides, strict=True)]
        ),
        trunk=_to_body_xyz(
            [
                rump - 0.1,
                rump + 0.05,
                (chest + rump) / 2 - 0.02j,
                chest - 0.05,
                chest + 0.13 + 0.03j,
            ]
        ),
        tail=_to_body_xyz(_compute_tail_joints(tiger, rump - 0.17 + 0.07j)),
        head=_to_body_xyz([chest + 0.15 + 0.08j + 0.42 * _compute_direction(tiger.neck_pitch_deg)])[0],
    )


def _compute_direction(angle_deg: float) -> complex:
    return cmath.rect(1.0, math.radians(angle_deg))


def _compute_paw_offset(tiger: SyntheticTiger, phase: float) -> complex:
    """Compute the offset of a paw in its stride: along the ground, and height above it."""
    turn = _compute_direction(360 * phase)
    return complex(tiger.stride_length * turn.real, 0.15 * max(0.0, turn.imag))


def _compute_front_leg(tiger: SyntheticTiger, phase: float) -> list[complex]:
    shoulder = 0.5 + 1j * tiger.shoulder_height
    target = 0.5 + 0.09j + _compute_paw_offset(tiger, phase)
    elbow, wrist = _compute_limb_bend(shoulder, target, (0.30, 0.32), bend_sign=-1)
    return [shoulder, elbow, wrist, wrist + 0.03 - 0.06j]


def _compute_back_leg(tiger: SyntheticTiger, phase: float) -> list[complex]:
    hip = -0.5 + 1j * tiger.hip_height
    step = _compute_paw_offset(tiger, phase)
    knee, heel = _compute_limb_bend(hip, -0.58 + 0.22j + step, (0.28, 0.27), bend_sign=1)
    return [hip, knee, heel, heel + 0.05 - 0.5 * step.imag - 0.19j]


def _compute_limb_bend(
    root: complex, end: complex, bone_lengths: tuple[float, float], *, bend_sign: int
) -> tuple[complex, complex]:
    """Solve a limb of two bones; `bend_sign` bends the joint towards the head (1) or the tail (-1)."""
    upper, lower = bone_lengths
    reach = abs(end - root)
    direction = (end - root) / reach
    reach = min(max(reach, 0.35 * (upper + lower)), 0.985 * (upper + lower))
    along = (upper**2 - lower**2 + reach**2) / (2 * reach)
    aside = max(upper**2 - along**2, 0.0) ** 0.5
    return root + direction * complex(along, bend_sign * aside), root + direction * reach


def _compute_tail_joints(tiger: SyntheticTiger, tail_root: complex) -> list[complex]:
    """Compute the joints of the tail from its root; it points backwards and curls evenly."""
    turns = np.linspace(0, tiger.tail_curl_deg, 6)
    steps = (0.14 * _compute_direction(180 - tiger.tail_pitch_deg - turn) for turn in turns.tolist())
    return list(accumulate(steps, initial=tail_root))


def _to_body_xyz(plane_points: list[complex], z: float = 0.0) -> np.ndarray:
    return np.array([(point.real, point.imag, z) for point in plane_points])


def _project_to_figure(tiger: SyntheticTiger, body_xyz: np.ndarray) -> np.ndarray:
    """Project body-frame points [..., 3] to figure x, y (down) and depth (towards the viewer)."""
    middle = (0, (tiger.shoulder_height + tiger.hip_height) / 2 + 0.075, 0)
    return (body_xyz - middle) @ tiger.figure_from_body.T


def _project_head_points(tiger: SyntheticTiger, head_xyz: np.ndarray, head_offsets: np.ndarray) -> np.ndarray:
    """Project offsets from the head's center: forward, up, sideways towards the near ear."""
    (c, s), (cp, sp) = map(_compute_cos_sin, (tiger.head_yaw_deg, tiger.head_pitch_deg))
    pitched_from_head = np.array([[cp, -sp, 0], [sp, cp, 0], [0, 0, 1]])
    body_from_pitched = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    turn = body_from_pitched @ pitched_from_head
    return _project_to_figure(tiger, head_xyz + HEAD_SCALE * head_offsets @ turn.T)


def _compute_cos_sin(angle_deg: float) -> tuple[float, float]:
    return math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))


def compute_tiger_keypoints(tiger: SyntheticTiger) -> np.ndarray:
    """Compute the 15 keypoints in image pixels, [15, 2], whether hidden or not."""
    tiger_joints = compute_tiger_joints(tiger)
    near, far = ("right", "left") if tiger.facing == "right" else ("left", "right")
    face = _project_head_points(
        tiger,
        tiger_joints.head,
        np.array([tiger_texture.NEAR_EAR_OFFSET, tiger_texture.FAR_EAR_OFFSET, tiger_texture.NOSE_OFFSET]),
    )
    figure_points = {f"{near}_ear": face[0], f"{far}_ear": face[1], "nose": face[2]}
    joints = _project_to_figure(tiger, tiger_joints.legs)
    for side, (shoulder, _, _, front_paw), (hip, knee, _, back_paw) in (
        (near, joints[0], joints[2]),
        (far, joints[1], joints[3]),
    ):
        figure_points |= {f"{side}_shoulder": shoulder, f"{side}_front_paw": front_paw}
        figure_points |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_back_paw": back_paw}
    figure_points["tail"] = _project_to_figure(tiger, tiger_joints.tail[0])
    figure_points["center"] = _project_to_figure(tiger, tiger_joints.trunk[2])
    return tiger.to_image_xy(np.array([figure_points[name][:2] for name in ATRW.keypoints]))


def draw_tiger(image: np.ndarray, tiger: SyntheticTiger) -> np.ndarray:
    """Draw the tiger into `image` (BGR, in place); return its silhouette, uint8 [H, W]."""
    rng = np.random.default_rng(tiger.stripe_seed)
    tiger_joints = compute_tiger_joints(tiger)
    legs = _project_to_figure(tiger, tiger_joints.legs)[..., :2]
    silhouette = np.zeros(image.shape[:2], np.uint8)
    to_image_xy, body_length_px = tiger.to_image_xy, tiger.body_length_px
    tiger_texture.draw_shadow(
        image,
        legs[:, -1],
        to_image_xy=to_image_xy,
        body_length_px=body_length_px,
        ground_slope_deg=tiger.ground_slope_deg,
    )
    for part in _build_body_parts(tiger, tiger_joints, legs, rng):
        tiger_texture.draw_body_part(image, silhouette, part, to_image_xy=to_image_xy, body_length_px=body_length_px)
    return silhouette


def _build_body_parts(
    tiger: SyntheticTiger, tiger_joints: TigerJoints, legs_xy: np.ndarray, rng: np.random.Generator
) -> list[tiger_texture.BodyPart]:
    """Build the body parts in drawing order, from the farthest to the nearest."""
    color = tuple(255 * c for c in reversed(hsv_to_rgb(*tiger.fur_hsv)))
    spine, head = (_project_to_figure(tiger, joints)[..., :2] for joints in (tiger_joints.trunk, tiger_joints.head))
    near_front, far_front, near_back, far_back = legs_xy
    return [
        tiger_texture.build_leg(far_back, tiger_texture.BACK_LEG_RADII, color, rng, brightness=0.55),
        tiger_texture.build_leg(far_front, tiger_texture.FRONT_LEG_RADII, color, rng, brightness=0.55),
        tiger_texture.build_tail(_project_to_figure(tiger, tiger_joints.tail)[:, :2], color, rng),
        tiger_texture.build_trunk(spine, head, color, rng),
        tiger_texture.build_leg(near_back, tiger_texture.BACK_LEG_RADII, color, rng),
        tiger_texture.build_leg(near_front, tiger_texture.FRONT_LEG_RADII, color, rng),
        *tiger_texture.build_head(partial(_project_head_balls, tiger, tiger_joints.head), color),
    ]


def _project_head_balls(tiger: SyntheticTiger, head_xyz: np.ndarray, balls: np.ndarray) -> np.ndarray:
    """Project (forward, up, sideways, radius) [N, 4] to figure x, y, depth and radius."""
    return np.column_stack([_project_head_points(tiger, head_xyz, balls[:, :3]), HEAD_SCALE * balls[:, 3]])
