"""Poses on images, and many images on one sheet.

What is left is warm, what is right is cool, the middle is yellow: a mirror that forgot to exchange
the sides shows at a glance.
"""

from collections.abc import Sequence

import numpy as np

from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import cv2  # first imported there, where its limits are set
from hrnet_ray.skeletons import Skeleton, swap_side_in_name

LEFT_COLOR, RIGHT_COLOR, MIDDLE_COLOR = (255, 96, 48), (48, 144, 255), (255, 214, 64)
BACKGROUND_COLOR, TEXT_COLOR = (250, 250, 248), (40, 40, 40)
CROP_BRIGHTNESS = 0.4  # of a crop under its heatmaps


def get_keypoint_colors(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """The colour of each keypoint, by its side."""
    sided = {k: RIGHT_COLOR for k, other in enumerate(skeleton.flip_order) if k != other}
    sided |= dict.fromkeys(skeleton.left_keypoints, LEFT_COLOR)
    return [sided.get(k, MIDDLE_COLOR) for k in range(len(skeleton))]


def get_bone_colors(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """The colour of each bone: that of its first end, unless only the other one has a side."""
    colour = dict(zip(skeleton.keypoints, get_keypoint_colors(skeleton), strict=True))
    return [colour[one] if colour[one] != MIDDLE_COLOR else colour[other] for one, other in skeleton.bones]


def infer_keypoint_color(name: str) -> tuple[int, int, int]:
    """The color of a keypoint, by the side in its name."""
    for own, mirrored in zip(name.lower(), swap_side_in_name(name).lower(), strict=False):
        if own != mirrored:  # the first letter of its left, right, l or r
            return LEFT_COLOR if own == "l" else RIGHT_COLOR
    return MIDDLE_COLOR


def draw_pose(
    image: np.ndarray,
    xy: np.ndarray,
    visible: np.ndarray,
    skeleton: Skeleton,
    *,
    thickness: int = 2,
    single_color: tuple[int, int, int] | None = None,
) -> np.ndarray:
    """Draw bones and keypoints on a copy of an RGB image.

    `xy` [K, 2] is in pixels of `picture`; of those, `shown` bool [K] are drawn, and bones that have
    both ends. `plain` is one colour for everything, for a truth drawn beneath a prediction.
    """
    image = np.ascontiguousarray(image).copy()
    place = {name: index for index, name in enumerate(skeleton.keypoints)}
    colours = get_keypoint_colors(skeleton)
    points = [tuple(map(int, point)) for point in np.rint(np.nan_to_num(xy)).clip(-1e4, 1e4)]
    for (one, other), colour in zip(skeleton.bones, get_bone_colors(skeleton), strict=True):
        a, b = place[one], place[other]
        if visible[a] and visible[b]:
            cv2.line(image, points[a], points[b], single_color or colour, thickness, cv2.LINE_AA)
    for index in place.values():
        if visible[index]:
            colour = single_color or colours[index]
            cv2.circle(image, points[index], thickness + 1, colour, -1, cv2.LINE_AA)
            if single_color is None:
                cv2.circle(image, points[index], thickness + 1, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def overlay_heatmaps(image: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Lay heatmaps [K, h, w] over an image [H, W, 3], as one warm glow."""
    glow = np.clip(heatmaps.max(0), 0, 1)
    glow = cv2.resize(glow, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    return (image * (1 - 0.75 * glow) + np.array([255, 60, 20]) * 0.75 * glow).astype(np.uint8)


def overlay_heatmaps_by_side(crop: np.ndarray, heatmaps: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Lay heatmaps [K, h, w] over a dimmed crop [H, W, 3], each in the colour of its side.

    A cell is lit by the keypoint that is highest there; what is no number is dark.
    """
    height, width = crop.shape[:2]
    # A cell stands at a multiple of the stride, not in the middle of its pixels: no half here.
    zoom = np.diag([width / heatmaps.shape[2], height / heatmaps.shape[1]])
    into = np.concatenate([zoom, np.zeros((2, 1))], 1)
    colours = np.array(get_keypoint_colors(skeleton), np.float32)
    highest = np.nan_to_num(heatmaps, posinf=1).max(0).clip(0, 1).astype(np.float32)
    light = colours[np.nan_to_num(heatmaps).argmax(0)] * highest[..., None]
    strength = cv2.warpAffine(highest, into, (width, height))[..., None]
    light = cv2.warpAffine(light, into, (width, height))
    return (crop * CROP_BRIGHTNESS * (1 - strength) + light).clip(0, 255).astype(np.uint8)


def render_image_grid(
    tiles: Sequence[np.ndarray],
    *,
    columns: int = 4,
    captions: Sequence[str] | None = None,
    gap_px: int = 6,
) -> np.ndarray:
    """Lay equally sized images on a white page, each with its caption below."""
    height, width = tiles[0].shape[:2]
    band = 16 if captions else 0
    rows = -(-len(tiles) // columns)
    columns = min(columns, len(tiles))
    page = np.full(
        (rows * (height + band + gap_px) + gap_px, columns * (width + gap_px) + gap_px, 3),
        BACKGROUND_COLOR,
        np.uint8,
    )
    for at, tile in enumerate(tiles):
        top = gap_px + (at // columns) * (height + band + gap_px)
        left = gap_px + (at % columns) * (width + gap_px)
        page[top : top + height, left : left + width] = tile
        if captions:
            spot = (left + 2, top + height + 12)
            text = captions[at][: max(4, width // 7)]
            cv2.putText(page, text, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.36, TEXT_COLOR, 1, cv2.LINE_AA)
    return page


def resize_to_fit(image: np.ndarray, *, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image into a tile without bending it; returns it and the matrix [3, 3] into it."""
    scale = min(size_hw[0] / image.shape[0], size_hw[1] / image.shape[1])
    rows, columns = (max(1, round(length * scale)) for length in image.shape[:2])
    scaled, into_tile = codec.resize_image(image, size_hw=(rows, columns))
    top, left = (size_hw[0] - rows) // 2, (size_hw[1] - columns) // 2
    into_tile[:2, 2] += left, top
    tile = np.full((*size_hw, 3), BACKGROUND_COLOR, np.uint8)
    tile[top : top + rows, left : left + columns] = scaled
    return tile, into_tile


def transform_points(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Move points [K, 2] into the frame that `matrix` leads to."""
    return xy @ matrix[:2, :2].T + matrix[:2, 2]
