"""Poses on validation crops, many on one sheet.

Without matplotlib: a trial's process needs this before its first step, and no plot.
"""

from collections.abc import Sequence

import numpy as np

from hrnet_ray.data.images import codec
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.visualization.drawing import draw_pose, glow, moved, sheet

TILE_PX, PAIRED_PX = 224, 160
"""Rows of a tile by itself, and beside its heatmaps: a sheet is about as large."""
TRUTH = (255, 255, 255)


def poses_on_crops(
    crops: Sequence[np.ndarray],
    crop_from_image: np.ndarray,
    predicted_xy: np.ndarray,
    true_xy: np.ndarray,
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
    height = TILE_PX if heatmaps is None else PAIRED_PX
    for at, crop in enumerate(crops):
        tile_hw = (height, round(crop.shape[1] * height / crop.shape[0]))
        tile, tile_from_crop = codec.resized(crop, size_hw=tile_hw)
        into = tile_from_crop @ crop_from_image[at]
        tile = draw_pose(tile, moved(into, predicted_xy[at]), visible[at], skeleton, thickness=3)
        tile = draw_pose(
            tile, moved(into, true_xy[at]), visible[at], skeleton, thickness=1, plain=TRUTH
        )
        if heatmaps is not None:
            lit, _ = codec.resized(glow(crop, heatmaps[at], skeleton), size_hw=tile_hw)
            tile = np.concatenate([tile, lit], 1)
        tiles.append(tile)
    return sheet(tiles, columns=4 if heatmaps is None else 3, captions=captions)
