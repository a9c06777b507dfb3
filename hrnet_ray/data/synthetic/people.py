"""People as numbers, and how such a person is drawn: from the front or from behind.

Left and right are the person's own. Seen from behind, the right arm is on the picture's right; seen
from the front it is on the left. Mirrored, a person keeps the view and exchanges the limbs.
"""

from colorsys import hsv_to_rgb
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from hrnet_ray.data.synthetic.primitives import (
    SUBPIXEL_BITS,
    Colour,
    fixed,
    polygon,
    tube as paint_tube,
)
from hrnet_ray.skeletons import MPII

SHOES: Colour = (42, 42, 48)
SKINS: tuple[Colour, ...] = ((180, 205, 240), (140, 175, 225), (95, 130, 185), (60, 85, 130))
HAIRS: tuple[Colour, ...] = ((30, 30, 35), (40, 65, 100), (80, 150, 200), (150, 150, 155))


@dataclass(frozen=True, kw_only=True)
class Limb:
    """An arm or a leg: outwards from straight down, then the bend; reach < 1 is foreshortened."""

    out_deg: float
    bend_deg: float
    upper_reach: float
    lower_reach: float


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person: where, in which posture, in which clothes. Lengths are in body heights."""

    view: Literal["front", "back"]
    pelvis_xy: tuple[float, float]
    height_px: float
    lean_deg: float
    """Positive leans to the picture's right."""
    head_deg: float
    right_arm: Limb
    left_arm: Limb
    right_leg: Limb
    left_leg: Limb
    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour

    def place(self, figure_xy: np.ndarray) -> np.ndarray:
        """From the figure (pelvis at 0, y down) to picture pixels."""
        return np.asarray(figure_xy) * self.height_px + self.pelvis_xy


def random_person(rng: np.random.Generator) -> Person:
    """Draw a person of height 1 at (0, 0); `replace` moves them to where they are wanted."""

    def limb(outwards: tuple[float, float], bend: tuple[float, float]) -> Limb:
        upper, lower = rng.uniform(0.75, 1.0, 2)
        return Limb(
            out_deg=rng.uniform(*outwards),
            bend_deg=rng.uniform(*bend),
            upper_reach=upper,
            lower_reach=lower,
        )

    def cloth() -> Colour:
        hue, saturation, value = rng.uniform((0, 0.1, 0.25), (1, 0.65, 0.9))
        r, g, b = hsv_to_rgb(hue, saturation, value)
        return (255 * b, 255 * g, 255 * r)

    return Person(
        view="front" if rng.uniform() < 0.65 else "back",
        pelvis_xy=(0.0, 0.0),
        height_px=1.0,
        lean_deg=rng.normal(0, 10),
        head_deg=rng.normal(0, 10),
        right_arm=limb((5.0, 150.0), (-20.0, 110.0)),
        left_arm=limb((5.0, 150.0), (-20.0, 110.0)),
        right_leg=limb((-2.0, 35.0), (-40.0, 5.0)),
        left_leg=limb((-2.0, 35.0), (-40.0, 5.0)),
        skin=SKINS[rng.integers(len(SKINS))],
        hair=HAIRS[rng.integers(len(HAIRS))],
        shirt=cloth(),
        trousers=cloth(),
    )


def mirrored(person: Person, *, width: int) -> Person:
    """Return the person as seen in a picture of `width` pixels turned left for right."""
    x, y = person.pelvis_xy
    return replace(
        person,
        pelvis_xy=(width - 1 - x, y),
        lean_deg=-person.lean_deg,
        head_deg=-person.head_deg,
        right_arm=person.left_arm,
        left_arm=person.right_arm,
        right_leg=person.left_leg,
        left_leg=person.right_leg,
    )


def keypoints(person: Person) -> np.ndarray:
    """Where the 16 keypoints lie in the picture, [16, 2]."""
    joints = _joints(person)
    return person.place(np.array([joints[name] for name in MPII.keypoints]))


def _joints(person: Person) -> dict[str, np.ndarray]:
    spine, head = np.radians([person.lean_deg, person.lean_deg + person.head_deg])
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
        elbow, wrist = _limb(arm, shoulder, (0.165, 0.15), sign)
        knee, ankle = _limb(leg, hip, (0.24, 0.23), sign)
        names = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        points = (shoulder, elbow, wrist, hip, knee, ankle)
        joints |= {f"{side}_{name}": xy for name, xy in zip(names, points, strict=True)}
    return joints


def _limb(
    limb: Limb, root: np.ndarray, lengths: tuple[float, float], sign: int
) -> tuple[np.ndarray, np.ndarray]:
    upper, lower = np.radians([limb.out_deg, limb.out_deg + limb.bend_deg])
    middle = root + lengths[0] * limb.upper_reach * np.array([sign * np.sin(upper), np.cos(upper)])
    end = middle + lengths[1] * limb.lower_reach * np.array([sign * np.sin(lower), np.cos(lower)])
    return middle, end


def head_box(person: Person) -> np.ndarray:
    """The head's box as MPII has it: [[x1, y1], [x2, y2]] in picture pixels."""
    joints = _joints(person)
    neck, top = person.place(np.array([joints["upper_neck"], joints["head_top"]]))
    middle = (neck + top) / 2
    half = np.linalg.norm(top - neck) * np.array([0.40, 0.52])
    return np.array([middle - half, middle + half])


def draw_person(picture: np.ndarray, person: Person) -> np.ndarray:
    """Paint the person into `picture` (BGR, in place) and return the silhouette, uint8 [H, W]."""
    silhouette = np.zeros(picture.shape[:2], np.uint8)
    joints = _joints(person)

    def tube(names: str, radii: tuple[float, ...], colour: Colour) -> None:
        xy = person.place(np.array([joints[name] for name in names.split()]))
        r = np.array(radii) * person.height_px
        paint_tube(picture, xy, r, _dim(colour))
        paint_tube(picture, xy - 0.15 * r[:, None], 0.84 * r, colour)  # lit from above
        paint_tube(silhouette, xy, r, (255, 255, 255))

    for side in ("right", "left"):
        tube(f"{side}_hip {side}_knee {side}_ankle", (0.064, 0.048, 0.034), person.trousers)
        tube(f"{side}_ankle", (0.040,), SHOES)
    _torso(picture, silhouette, person, joints)
    tube("thorax upper_neck", (0.034, 0.034), person.skin)
    _head(picture, silhouette, person, joints)
    for side in ("right", "left"):
        tube(f"{side}_elbow {side}_wrist", (0.030, 0.024), person.skin)
        tube(f"{side}_wrist", (0.031,), person.skin)
        tube(f"{side}_shoulder {side}_elbow", (0.044, 0.036), person.shirt)
    return silhouette


def _dim(colour: Colour) -> Colour:
    return tuple(0.55 * c for c in colour)


def _torso(
    picture: np.ndarray, silhouette: np.ndarray, person: Person, joints: dict[str, np.ndarray]
) -> None:
    """Hips in the trousers' colour, and a shirt from the shoulders to just above them."""
    chest = [joints["right_shoulder"], joints["left_shoulder"]]
    hips = [joints["left_hip"], joints["right_hip"]]
    waist = [0.78 * hip + 0.22 * joints["thorax"] for hip in hips]
    for corners, radius, colour in (
        ([*waist, hips[1], hips[0]], 0.055, person.trousers),
        ([*chest, *waist], 0.050, person.shirt),
    ):
        outline = person.place(np.array(corners))
        round_corners = np.full(5, radius * person.height_px)
        for canvas, ink in ((picture, colour), (silhouette, (255, 255, 255))):
            polygon(canvas, outline, ink)
            paint_tube(canvas, outline[[0, 1, 2, 3, 0]], round_corners, ink)
    if person.view == "back":
        _straps(picture, person, joints)


def _straps(picture: np.ndarray, person: Person, joints: dict[str, np.ndarray]) -> None:
    """Braces cross on the back, so that a back is never taken for a front."""
    for start, end in (("right_shoulder", "left_hip"), ("left_shoulder", "right_hip")):
        line = fixed(person.place(np.array([joints[start], joints[end]])))
        width = max(1, round(0.02 * person.height_px))
        cv2.polylines(picture, [line], False, _dim(person.shirt), width, cv2.LINE_AA, SUBPIXEL_BITS)


def _head(
    picture: np.ndarray, silhouette: np.ndarray, person: Person, joints: dict[str, np.ndarray]
) -> None:
    neck, top = person.place(np.array([joints["upper_neck"], joints["head_top"]]))
    up = top - neck
    length = np.linalg.norm(up)
    across = np.array([-up[1], up[0]])

    def oval(along: float, aside: float, half_wh: tuple[float, float], colour: Colour) -> None:
        middle = fixed(neck + along * up + aside * across).tolist()
        axes = fixed(length * np.array(half_wh)).tolist()
        turn = np.degrees(np.arctan2(up[0], -up[1]))
        for canvas, ink in ((picture, colour), (silhouette, (255, 255, 255))):
            cv2.ellipse(canvas, middle, axes, turn, 0, 360, ink, -1, cv2.LINE_AA, SUBPIXEL_BITS)

    oval(0.56, 0.0, (0.40, 0.46), person.hair)
    if person.view == "back":
        return
    oval(0.44, 0.0, (0.33, 0.42), person.skin)
    for aside in (-0.14, 0.14):
        oval(0.52, aside, (0.055, 0.065), (40, 35, 30))
    oval(0.24, 0.0, (0.12, 0.035), (70, 70, 170))
