"""Poses on pictures, and many pictures on one sheet.

What is left is warm, what is right is cool, the middle is yellow: a mirror that forgot to exchange
the sides shows at a glance.
"""

from collections.abc import Sequence

import numpy as np

from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import cv2  # first imported there, where its limits are set
from hrnet_ray.skeletons import Skeleton, mirrored_name

LEFT, RIGHT, MIDDLE = (255, 96, 48), (48, 144, 255), (255, 214, 64)
PAPER, INK = (250, 250, 248), (40, 40, 40)
DIMMED = 0.4  # of a crop under its heatmaps


def side_colours(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """The colour of each keypoint, by its side."""
    sided = {k: RIGHT for k, other in enumerate(skeleton.flip_order) if k != other}
    sided |= dict.fromkeys(skeleton.lefts, LEFT)
    return [sided.get(k, MIDDLE) for k in range(len(skeleton))]


def bone_colours(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """The colour of each bone: that of its first end, unless only the other one has a side."""
    colour = dict(zip(skeleton.keypoints, side_colours(skeleton), strict=True))
    return [
        colour[one] if colour[one] != MIDDLE else colour[other] for one, other in skeleton.bones
    ]


def side_colour(name: str) -> tuple[int, int, int]:
    """The colour of a keypoint, told by the side in its name."""
    for own, mirrored in zip(name.lower(), mirrored_name(name).lower(), strict=False):
        if own != mirrored:  # the first letter of its left, right, l or r
            return LEFT if own == "l" else RIGHT
    return MIDDLE


def draw_pose(
    picture: np.ndarray,
    xy: np.ndarray,
    shown: np.ndarray,
    skeleton: Skeleton,
    *,
    thickness: int = 2,
    plain: tuple[int, int, int] | None = None,
) -> np.ndarray:
    """Draw bones and keypoints on a copy of an RGB picture.

    `xy` [K, 2] is in pixels of `picture`; of those, `shown` bool [K] are drawn, and bones that have
    both ends. `plain` is one colour for everything, for a truth drawn beneath a prediction.
    """
    picture = np.ascontiguousarray(picture).copy()
    place = {name: index for index, name in enumerate(skeleton.keypoints)}
    colours = side_colours(skeleton)
    points = [tuple(map(int, point)) for point in np.rint(np.nan_to_num(xy)).clip(-1e4, 1e4)]
    for (one, other), colour in zip(skeleton.bones, bone_colours(skeleton), strict=True):
        a, b = place[one], place[other]
        if shown[a] and shown[b]:
            cv2.line(picture, points[a], points[b], plain or colour, thickness, cv2.LINE_AA)
    for index in place.values():
        if shown[index]:
            colour = plain or colours[index]
            cv2.circle(picture, points[index], thickness + 1, colour, -1, cv2.LINE_AA)
            if plain is None:
                cv2.circle(picture, points[index], thickness + 1, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def over(picture: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Lay heatmaps [K, h, w] over a picture [H, W, 3], as one warm glow."""
    glow = np.clip(heatmaps.max(0), 0, 1)
    glow = cv2.resize(glow, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    return (picture * (1 - 0.75 * glow) + np.array([255, 60, 20]) * 0.75 * glow).astype(np.uint8)


def glow(crop: np.ndarray, heatmaps: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Lay heatmaps [K, h, w] over a dimmed crop [H, W, 3], each in the colour of its side.

    A cell is lit by the keypoint that is highest there; what is no number is dark.
    """
    height, width = crop.shape[:2]
    # A cell stands at a multiple of the stride, not in the middle of its pixels: no half here.
    zoom = np.diag([width / heatmaps.shape[2], height / heatmaps.shape[1]])
    into = np.concatenate([zoom, np.zeros((2, 1))], 1)
    colours = np.array(side_colours(skeleton), np.float32)
    highest = np.nan_to_num(heatmaps, posinf=1).max(0).clip(0, 1).astype(np.float32)
    light = colours[np.nan_to_num(heatmaps).argmax(0)] * highest[..., None]
    strength = cv2.warpAffine(highest, into, (width, height))[..., None]
    light = cv2.warpAffine(light, into, (width, height))
    return (crop * DIMMED * (1 - strength) + light).clip(0, 255).astype(np.uint8)


def sheet(
    tiles: Sequence[np.ndarray],
    *,
    columns: int = 4,
    captions: Sequence[str] | None = None,
    gap: int = 6,
) -> np.ndarray:
    """Lay equally sized pictures on a white page, each with its caption below."""
    height, width = tiles[0].shape[:2]
    band = 16 if captions else 0
    rows = -(-len(tiles) // columns)
    columns = min(columns, len(tiles))
    page = np.full(
        (rows * (height + band + gap) + gap, columns * (width + gap) + gap, 3), PAPER, np.uint8
    )
    for at, tile in enumerate(tiles):
        top = gap + (at // columns) * (height + band + gap)
        left = gap + (at % columns) * (width + gap)
        page[top : top + height, left : left + width] = tile
        if captions:
            spot = (left + 2, top + height + 12)
            text = captions[at][: max(4, width // 7)]
            cv2.putText(page, text, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.36, INK, 1, cv2.LINE_AA)
    return page


def fitted(picture: np.ndarray, *, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Scale a picture into a tile without bending it; returns it and the matrix [3, 3] into it."""
    scale = min(size_hw[0] / picture.shape[0], size_hw[1] / picture.shape[1])
    rows, columns = (max(1, round(length * scale)) for length in picture.shape[:2])
    scaled, into_tile = codec.resized(picture, size_hw=(rows, columns))
    top, left = (size_hw[0] - rows) // 2, (size_hw[1] - columns) // 2
    into_tile[:2, 2] += left, top
    tile = np.full((*size_hw, 3), PAPER, np.uint8)
    tile[top : top + rows, left : left + columns] = scaled
    return tile, into_tile


def moved(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Move points [K, 2] into the frame that `matrix` leads to."""
    return xy @ matrix[:2, :2].T + matrix[:2, 2]
