"""Synthetic people: parameters, keypoints and rendering, from the front or from the back.

Left and right are the person's own. In a back view, the right arm is on the right of the image; in
a front view, it is on the left. Mirroring keeps the view and exchanges left and right limbs.
"""

from colorsys import hsv_to_rgb
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from hrnet_ray.data.synthetic.primitives import (
    SUBPIXEL_BITS,
    BgrColor,
    fill_polygon,
    fill_tube,
    to_fixed_point,
)
from hrnet_ray.skeletons import MPII

SHOE_COLOR: BgrColor = (42, 42, 48)
SKIN_COLORS: tuple[BgrColor, ...] = (
    (180, 205, 240),
    (140, 175, 225),
    (95, 130, 185),
    (60, 85, 130),
)
HAIR_COLORS: tuple[BgrColor, ...] = ((30, 30, 35), (40, 65, 100), (80, 150, 200), (150, 150, 155))


@dataclass(frozen=True, kw_only=True)
class LimbPose:
    """Angles of an arm or a leg, 0 is straight down; a length scale < 1 is foreshortening."""

    outward_deg: float
    bend_deg: float
    upper_length_scale: float
    lower_length_scale: float


@dataclass(frozen=True, kw_only=True)
class SyntheticPerson:
    """Position, posture and clothes of one person. Lengths are in body heights."""

    view: Literal["front", "back"]
    pelvis_xy: tuple[float, float]
    height_px: float
    lean_deg: float
    """A positive value leans to the right of the image."""
    head_tilt_deg: float
    right_arm: LimbPose
    left_arm: LimbPose
    right_leg: LimbPose
    left_leg: LimbPose
    skin_color: BgrColor
    hair_color: BgrColor
    shirt_color: BgrColor
    trousers_color: BgrColor

    def to_image_xy(self, figure_xy: np.ndarray) -> np.ndarray:
        """Transform figure coordinates (pelvis at 0, y down) to image pixels."""
        return np.asarray(figure_xy) * self.height_px + self.pelvis_xy


def sample_person(rng: np.random.Generator) -> SyntheticPerson:
    """Sample a person of height 1 at (0, 0); set position and height with `dataclasses.replace`."""

    def sample_limb(outward_range_deg: tuple[float, float], bend_range_deg: tuple[float, float]) -> LimbPose:
        upper, lower = rng.uniform(0.75, 1.0, 2)
        return LimbPose(
            outward_deg=rng.uniform(*outward_range_deg),
            bend_deg=rng.uniform(*bend_range_deg),
            upper_length_scale=upper,
            lower_length_scale=lower,
        )

    def sample_clothing_color() -> BgrColor:
        hue, saturation, value = rng.uniform((0, 0.1, 0.25), (1, 0.65, 0.9))
        r, g, b = hsv_to_rgb(hue, saturation, value)
        return (255 * b, 255 * g, 255 * r)

    return SyntheticPerson(
        view="front" if rng.uniform() < 0.65 else "back",
        pelvis_xy=(0.0, 0.0),
        height_px=1.0,
        lean_deg=rng.normal(0, 10),
        head_tilt_deg=rng.normal(0, 10),
        right_arm=sample_limb((5.0, 150.0), (-20.0, 110.0)),
        left_arm=sample_limb((5.0, 150.0), (-20.0, 110.0)),
        right_leg=sample_limb((-2.0, 35.0), (-40.0, 5.0)),
        left_leg=sample_limb((-2.0, 35.0), (-40.0, 5.0)),
        skin_color=SKIN_COLORS[rng.integers(len(SKIN_COLORS))],
        hair_color=HAIR_COLORS[rng.integers(len(HAIR_COLORS))],
        shirt_color=sample_clothing_color(),
        trousers_color=sample_clothing_color(),
    )


def mirror_person(person: SyntheticPerson, *, image_width: int) -> SyntheticPerson:
    """Mirror a person about the vertical axis of an image of `image_width` pixels."""
    x, y = person.pelvis_xy
    return replace(
        person,
        pelvis_xy=(image_width - 1 - x, y),
        lean_deg=-person.lean_deg,
        head_tilt_deg=-person.head_tilt_deg,
        right_arm=person.left_arm,
        left_arm=person.right_arm,
        right_leg=person.left_leg,
        left_leg=person.right_leg,
    )


def compute_person_keypoints(person: SyntheticPerson) -> np.ndarray:
    """Compute the 16 keypoints in image pixels, [16, 2]."""
    joints = _compute_joints(person)
    return person.to_image_xy(np.array([joints[name] for name in MPII.keypoints]))


def _compute_joints(person: SyntheticPerson) -> dict[str, np.ndarray]:
    spine, head = np.radians([person.lean_deg, person.lean_deg + person.head_tilt_deg])
    up = np.array([np.sin(spine), -np.cos(spine)])
    across = np.array([np.cos(spine), np.sin(spine)])
    thorax = 0.27 * up
    neck = 0.315 * up
    joints = {
        "pelvis": np.zeros(2),
        "thorax": thorax,
        "upper_neck": neck,
        "head_top": neck + 0.165 * np.array([np.sin(head), -np.cos(head)]),
    }
    for side in ("right", "left"):
        sign = 1 if (side == "right") == (person.view == "back") else -1
        shoulder, hip = thorax + sign * 0.105 * across, sign * 0.06 * across
        arm, leg = getattr(person, f"{side}_arm"), getattr(person, f"{side}_leg")
        elbow, wrist = _compute_limb_joints(arm, shoulder, (0.165, 0.15), sign)
        knee, ankle = _compute_limb_joints(leg, hip, (0.24, 0.23), sign)
        names = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        points = (shoulder, elbow, wrist, hip, knee, ankle)
        joints |= {f"{side}_{name}": xy for name, xy in zip(names, points, strict=True)}
    return joints


def _compute_limb_joints(
    limb: LimbPose, root_xy: np.ndarray, segment_lengths: tuple[float, float], side_sign: int
) -> tuple[np.ndarray, np.ndarray]:
    upper, lower = np.radians([limb.outward_deg, limb.outward_deg + limb.bend_deg])
    middle = root_xy + segment_lengths[0] * limb.upper_length_scale * np.array(
        [side_sign * np.sin(upper), np.cos(upper)]
    )
    end = middle + segment_lengths[1] * limb.lower_length_scale * np.array([side_sign * np.sin(lower), np.cos(lower)])
    return middle, end


def compute_head_box(person: SyntheticPerson) -> np.ndarray:
    """Compute the head box as in MPII: [[x1, y1], [x2, y2]] in image pixels."""
    joints = _compute_joints(person)
    neck, top = person.to_image_xy(np.array([joints["upper_neck"], joints["head_top"]]))
    middle = (neck + top) / 2
    half = np.linalg.norm(top - neck) * np.array([0.40, 0.52])
    return np.array([middle - half, middle + half])


def draw_person(image: np.ndarray, person: SyntheticPerson) -> np.ndarray:
    """Draw the person into `image` (BGR, in place); return the silhouette, uint8 [H, W]."""
    silhouette = np.zeros(image.shape[:2], np.uint8)
    joints = _compute_joints(person)

    def draw_tube(joint_names: str, radii_frac: tuple[float, ...], color: BgrColor) -> None:
        xy = person.to_image_xy(np.array([joints[name] for name in joint_names.split()]))
        r = np.array(radii_frac) * person.height_px
        fill_tube(image, xy, r, _get_shadow_color(color))
        fill_tube(image, xy - 0.15 * r[:, None], 0.84 * r, color)  # lit from above
        fill_tube(silhouette, xy, r, (255, 255, 255))

    for side in ("right", "left"):
        draw_tube(f"{side}_hip {side}_knee {side}_ankle", (0.064, 0.048, 0.034), person.trousers_color)
        draw_tube(f"{side}_ankle", (0.040,), SHOE_COLOR)
    _draw_torso(image, silhouette, person, joints)
    draw_tube("thorax upper_neck", (0.034, 0.034), person.skin_color)
    _draw_head(image, silhouette, person, joints)
    for side in ("right", "left"):
        draw_tube(f"{side}_elbow {side}_wrist", (0.030, 0.024), person.skin_color)
        draw_tube(f"{side}_wrist", (0.031,), person.skin_color)
        draw_tube(f"{side}_shoulder {side}_elbow", (0.044, 0.036), person.shirt_color)
    return silhouette


def _get_shadow_color(color: BgrColor) -> BgrColor:
    return tuple(0.55 * c for c in color)


def _draw_torso(
    image: np.ndarray,
    silhouette: np.ndarray,
    person: SyntheticPerson,
    joints: dict[str, np.ndarray],
) -> None:
    """Draw the hips in the color of the trousers, and the shirt from the shoulders to the waist."""
    chest = [joints["right_shoulder"], joints["left_shoulder"]]
    hips = [joints["left_hip"], joints["right_hip"]]
    waist = [0.78 * hip + 0.22 * joints["thorax"] for hip in hips]
    for corners, radius, color in (
        ([*waist, hips[1], hips[0]], 0.055, person.trousers_color),
        ([*chest, *waist], 0.050, person.shirt_color),
    ):
        outline = person.to_image_xy(np.array(corners))
        round_corners = np.full(5, radius * person.height_px)
        for canvas, ink in ((image, color), (silhouette, (255, 255, 255))):
            fill_polygon(canvas, outline, ink)
            fill_tube(canvas, outline[[0, 1, 2, 3, 0]], round_corners, ink)
    if person.view == "back":
        _draw_straps(image, person, joints)


def _draw_straps(image: np.ndarray, person: SyntheticPerson, joints: dict[str, np.ndarray]) -> None:
    """Draw crossed braces, which distinguish a back from a front."""
    for start, end in (("right_shoulder", "left_hip"), ("left_shoulder", "right_hip")):
        line = to_fixed_point(person.to_image_xy(np.array([joints[start], joints[end]])))
        width = max(1, round(0.02 * person.height_px))
        cv2.polylines(
            image,
            [line],
            False,
            _get_shadow_color(person.shirt_color),
            width,
            cv2.LINE_AA,
            SUBPIXEL_BITS,
        )


def _draw_head(
    image: np.ndarray,
    silhouette: np.ndarray,
    person: SyntheticPerson,
    joints: dict[str, np.ndarray],
) -> None:
    neck, top = person.to_image_xy(np.array([joints["upper_neck"], joints["head_top"]]))
    up = top - neck
    length = np.linalg.norm(up)
    across = np.array([-up[1], up[0]])

    def draw_oval(along_frac: float, aside_frac: float, half_wh_frac: tuple[float, float], color: BgrColor) -> None:
        middle = to_fixed_point(neck + along_frac * up + aside_frac * across).tolist()
        axes = to_fixed_point(length * np.array(half_wh_frac)).tolist()
        turn = np.degrees(np.arctan2(up[0], -up[1]))
        for canvas, ink in ((image, color), (silhouette, (255, 255, 255))):
            cv2.ellipse(canvas, middle, axes, turn, 0, 360, ink, -1, cv2.LINE_AA, SUBPIXEL_BITS)

    draw_oval(0.56, 0.0, (0.40, 0.46), person.hair_color)
    if person.view == "back":
        return
    draw_oval(0.44, 0.0, (0.33, 0.42), person.skin_color)
    for aside in (-0.14, 0.14):
        draw_oval(0.52, aside, (0.055, 0.065), (40, 35, 30))
    draw_oval(0.24, 0.0, (0.12, 0.035), (70, 70, 170))
