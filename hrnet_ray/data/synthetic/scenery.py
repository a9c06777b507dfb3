"""Forest backgrounds (mist, trunks, ground, rocks, grass), foreground grass and camera effects."""

from typing import NamedTuple

import cv2
import numpy as np

from hrnet_ray.data.synthetic.primitives import BgrColor, draw_line


class SeasonPalette(NamedTuple):
    """Colors (BGR) of mist, ground and grass."""

    mist: BgrColor
    ground: BgrColor
    grass: BgrColor


SEASON_PALETTES = (
    # Winter day, winter evening, thaw, autumn.
    SeasonPalette(mist=(178, 166, 150), ground=(246, 238, 232), grass=(95, 140, 165)),
    SeasonPalette(mist=(150, 128, 112), ground=(226, 208, 196), grass=(85, 115, 130)),
    SeasonPalette(mist=(138, 152, 140), ground=(196, 205, 208), grass=(70, 125, 140)),
    SeasonPalette(mist=(112, 148, 150), ground=(88, 124, 148), grass=(60, 120, 165)),
)


def draw_scenery(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Draw a forest: mist, far trunks, ground, rocks, near trunks and grass."""
    height, _ = size_hw
    season = SEASON_PALETTES[rng.integers(len(SEASON_PALETTES))]
    horizon = rng.uniform(0.22, 0.42) * height
    image = _make_mottled_texture(rng, size_hw, season.mist, contrast=12.0)
    for _ in range(rng.integers(10, 24)):
        _draw_far_trunk(rng, image, horizon, season.mist)
    image = cv2.GaussianBlur(image, (0, 0), 0.004 * height + 0.3)
    _draw_ground(rng, image, horizon, season.ground)
    for _ in range(rng.integers(0, 4)):
        _draw_rock(rng, image, horizon, season.ground)
    for foot_y in np.sort(rng.uniform(horizon, 0.75 * height, rng.integers(1, 5))):
        _draw_tree_trunk(rng, image, foot_y)
    for foot_y in np.sort(rng.uniform(horizon, height, rng.integers(2, 8))):
        _draw_grass_tuft(rng, image, foot_y, season.grass, length_frac=0.05)
    return image


def _make_mottled_texture(
    rng: np.random.Generator, size_hw: tuple[int, int], color: BgrColor, *, contrast: float
) -> np.ndarray:
    """Make an image of one color with soft blotches."""
    height, width = size_hw
    small = np.array(color) + rng.normal(0, contrast, (6, 8, 1)) + rng.normal(0, 8)
    small = np.clip(small, 0, 255).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _draw_ground(rng: np.random.Generator, image: np.ndarray, horizon_y: float, color: BgrColor) -> None:
    """Draw the ground below a slightly wavy horizon."""
    height, width = image.shape[:2]
    ground = _make_mottled_texture(rng, (height, width), color, contrast=7.0)
    waves = np.sin(np.arange(width) * rng.uniform(5, 12) / width + rng.uniform(0, 6))
    below = np.arange(height)[:, None] > horizon_y + 0.02 * height * waves
    cv2.copyTo(ground, below.astype(np.uint8), image)


def _draw_far_trunk(rng: np.random.Generator, image: np.ndarray, foot_y: float, mist_color: BgrColor) -> None:
    """Draw a trunk in a color close to the mist."""
    height, width = image.shape[:2]
    x, lean, tone = rng.uniform((0, -0.04 * height, 0.35), (width, 0.04 * height, 1.2))
    color = tuple(0.35 * c + 0.65 * c * tone for c in mist_color)
    foot, top = np.array([x, foot_y + 0.05 * height]), np.array([x + lean, -5])
    draw_line(image, foot, top, color, rng.uniform(1, 0.02 * width))


def _draw_tree_trunk(rng: np.random.Generator, image: np.ndarray, foot_y: float) -> None:
    """Draw a birch (white, with dark marks) or a pine (dark) up to the top of the image."""
    height, width = image.shape[:2]
    x, lean = rng.uniform((0, -0.05 * height), (width, 0.05 * height))
    thick = rng.uniform(0.018, 0.05) * width
    birch = rng.uniform() < 0.65
    tone = rng.uniform(175, 235) if birch else rng.uniform(55, 90)
    foot, top = np.array([x, foot_y]), np.array([x + lean, -5])
    draw_line(image, foot, top, (tone, 0.99 * tone, 0.98 * tone), thick)
    side = np.array([0.28 * thick, 0])
    draw_line(image, foot + side, top + side, (0.82 * tone, 0.8 * tone, 0.8 * tone), 0.4 * thick)
    if not birch:
        return
    for at, aside in rng.uniform((0, -1.6), (1, 0.4), (12, 2)):
        mark = foot + at * (top - foot) + aside * side
        draw_line(image, mark, mark + side, (62, 60, 60), 0.12 * thick)


def _draw_rock(rng: np.random.Generator, image: np.ndarray, horizon_y: float, cap_color: BgrColor) -> None:
    """Draw a gray stone with a cap of snow or leaves."""
    height, width = image.shape[:2]
    x, y = rng.uniform((0, horizon_y), (width, height)).astype(int).tolist()
    half_w, half_h = (rng.uniform((0.03, 0.03), (0.09, 0.06)) * width).astype(int).tolist()
    tone = rng.uniform(85, 140)
    pale = tuple(min(255.0, 1.05 * c) for c in cap_color)
    for rise, color in ((1.0, pale), (0.6, (tone, 0.98 * tone, 0.95 * tone))):
        axes = (half_w, round(rise * half_h))
        cv2.ellipse(image, (x, y), axes, 0, 180, 360, color, -1, cv2.LINE_AA)


def _draw_grass_tuft(
    rng: np.random.Generator,
    image: np.ndarray,
    foot_y: float,
    color: BgrColor,
    *,
    length_frac: float,
) -> None:
    """Draw a tuft of dry grass."""
    height, width = image.shape[:2]
    count = int(rng.integers(7, 16))
    feet = rng.normal((rng.uniform(0, width), foot_y), (0.15 * length_frac * width, 1), (count, 2))
    blades = rng.normal((0, -1), (0.35, 0.25), (count, 2)) * length_frac * height
    for foot, blade, tone in zip(feet, blades, rng.uniform(0.7, 1.2, count), strict=True):
        draw_line(image, foot, foot + blade, tuple(tone * c for c in color), 1 + 3 * length_frac)


def draw_foreground(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Draw up to 3 grass tufts and sometimes a trunk over the image; return the mask, bool [H, W]."""
    height = image.shape[0]
    before = image.copy()
    for _ in range(rng.integers(0, 4)):
        grass = SEASON_PALETTES[rng.integers(len(SEASON_PALETTES))].grass
        _draw_grass_tuft(rng, image, rng.uniform(0.85, 1.1) * height, grass, length_frac=0.2)
    if rng.uniform() < 0.12:
        _draw_tree_trunk(rng, image, 1.1 * height)
    unchanged = cv2.inRange(cv2.absdiff(image, before), (0, 0, 0), (0, 0, 0))
    return unchanged == 0


def simulate_camera(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Apply blur, exposure, color cast and noise."""
    if rng.uniform() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    gains = rng.uniform(0.85, 1.08) * rng.uniform(0.96, 1.04, 3)
    curves = np.clip(np.arange(256)[:, None, None] * gains, 0, 255).astype(np.uint8)
    grain = rng.standard_normal(image.shape[:2], np.float32) * rng.uniform(1, 5)
    return cv2.add(cv2.LUT(image, curves), cv2.merge([grain] * 3), dtype=cv2.CV_8U)
