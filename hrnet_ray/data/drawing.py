"""Poses on pictures, and many pictures on one sheet.

What is left is warm, what is right is cool, the middle is yellow: a mirror that forgot to exchange
the sides shows at a glance.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from hrnet_ray.skeletons import Skeleton, mirrored_name

LEFT, RIGHT, MIDDLE = (255, 96, 48), (48, 144, 255), (255, 214, 64)
PAPER, INK = (250, 250, 248), (40, 40, 40)


def side_colour(name: str) -> tuple[int, int, int]:
    """The colour of a keypoint, told by the side in its name."""
    if mirrored_name(name) == name:
        return MIDDLE
    return LEFT if "l" in (name[0].lower(), name.split("_")[-1][0].lower()) else RIGHT


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

    Args:
        xy: [K, 2] in pixels of `picture`.
        shown: bool [K]; a bone needs both its ends.
        plain: one colour for everything, for a truth drawn beneath a prediction.
    """
    picture = np.ascontiguousarray(picture).copy()
    place = {name: index for index, name in enumerate(skeleton.keypoints)}
    points = [tuple(map(int, point)) for point in np.rint(np.nan_to_num(xy)).clip(-1e4, 1e4)]
    for one, other in skeleton.bones:
        a, b = place[one], place[other]
        if shown[a] and shown[b]:
            sided = one if side_colour(one) != MIDDLE else other
            colour = plain or side_colour(sided)
            cv2.line(picture, points[a], points[b], colour, thickness, cv2.LINE_AA)
    for name, index in place.items():
        if shown[index]:
            colour = plain or side_colour(name)
            cv2.circle(picture, points[index], thickness + 1, colour, -1, cv2.LINE_AA)
            if plain is None:
                cv2.circle(picture, points[index], thickness + 1, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def over(picture: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Lay heatmaps [K, h, w] over a picture [H, W, 3], as one warm glow."""
    glow = np.clip(heatmaps.max(0), 0, 1)
    glow = cv2.resize(glow, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    return (picture * (1 - 0.75 * glow) + np.array([255, 60, 20]) * 0.75 * glow).astype(np.uint8)


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
    height, width = size_hw
    scale = min(height / picture.shape[0], width / picture.shape[1])
    down = (height - picture.shape[0] * scale) / 2
    across = (width - picture.shape[1] * scale) / 2
    matrix = np.array([[scale, 0, across], [0, scale, down], [0, 0, 1]])
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    tile = np.full((height, width, 3), PAPER, np.uint8)
    rows, columns = max(1, int(picture.shape[0] * scale)), max(1, int(picture.shape[1] * scale))
    shrunk = cv2.resize(picture, (columns, rows), interpolation=flags)
    top, left = int(down), int(across)
    tile[top : top + rows, left : left + columns] = shrunk
    return tile, matrix


def moved(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Move points [K, 2] into the frame that `matrix` leads to."""
    return xy @ matrix[:2, :2].T + matrix[:2, 2]
