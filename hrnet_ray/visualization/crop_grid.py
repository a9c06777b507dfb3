"""Poses on validation crops, many on one sheet.

Without matplotlib: a trial's process needs this before its first step, and no plot.
"""

from collections.abc import Sequence

import numpy as np

from hrnet_ray.data.images import codec
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.visualization.drawing import (
    draw_pose,
    overlay_heatmaps_by_side,
    render_image_grid,
    transform_points,
)

TILE_HEIGHT_PX, HEATMAP_TILE_HEIGHT_PX = 224, 160
"""Rows of a tile by itself, and beside its heatmaps: a sheet is about as large."""
TRUTH_COLOR = (255, 255, 255)


def draw_crop_grid(
    crops: Sequence[np.ndarray],
    crop_from_image: np.ndarray,
    predicted_image_xy: np.ndarray,
    true_image_xy: np.ndarray,
    visible: np.ndarray,
    skeleton: Skeleton,
    *,
    heatmaps: np.ndarray | None = None,
    captions: Sequence[str] | None = None,
) -> np.ndarray:
    """A sheet of crops, truth thin and white, prediction thick and coloured by side.

    Only keypoints that the truth knows are drawn of both, so that each pair can be compared.
    `heatmaps` [N, K, h, w] stand beside their crops, those of all keypoints.
    """
    tiles = []
    height = TILE_HEIGHT_PX if heatmaps is None else HEATMAP_TILE_HEIGHT_PX
    for at, crop in enumerate(crops):
        tile_hw = (height, round(crop.shape[1] * height / crop.shape[0]))
        tile, tile_from_crop = codec.resize_image(crop, size_hw=tile_hw)
        into = tile_from_crop @ crop_from_image[at]
        tile = draw_pose(tile, transform_points(into, predicted_image_xy[at]), visible[at], skeleton, thickness=3)
        tile = draw_pose(
            tile,
            transform_points(into, true_image_xy[at]),
            visible[at],
            skeleton,
            thickness=1,
            single_color=TRUTH_COLOR,
        )
        if heatmaps is not None:
            lit, _ = codec.resize_image(overlay_heatmaps_by_side(crop, heatmaps[at], skeleton), size_hw=tile_hw)
            tile = np.concatenate([tile, lit], 1)
        tiles.append(tile)
    return render_image_grid(tiles, columns=4 if heatmaps is None else 3, captions=captions)
