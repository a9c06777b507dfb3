"""The Arrow schema of one instance, and rows to arrays. Ray Data runs it without being known.

Keypoints stay in ORIGINAL IMAGE pixels for ever. A row's image is either the region around the
instance, reduced to fit a canvas (for training), or the untouched file (for exact evaluation);
`stored_from_image` leads from the one frame to the other.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from hrnet_ray.data.annotations import PoseInstance
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import cv2  # first imported there, where its limits are set

Arrays = dict[str, np.ndarray]

MapFunction = Callable[[Callable[[int], bool], Iterable[int]], Iterable[bool]]
"""`map`, or the `map` of a thread pool: OpenCV lets go of the GIL."""

# Measured by benchmarks/fidelity.py on real people and tigers against an ideal warp: median 38.0
# dB (the published direct warp: 36.2). Covering 1.3 at quality 95 gave 38.8, but the worst tenth
# of the people's crops 21 dB, not 27: turned crops saw the black beyond the region. Covering 1.5
# gives that tenth 33, but leaves fewer pixels to people who are small in a large image. Quality
# 95 adds 0.6 dB for a tenth more decoding, chroma at full resolution 1.1 dB for a fifth more.
CANVAS_PX = 416
"""Side of a canvas. With `COVERS` it gives 256 px crops a sixth more pixels than they show."""
CANVAS_COVERAGE = 1.4
"""How much more than the padded box a canvas covers, for turns, zooms and crops of 4:3."""
STORED_JPEG_QUALITY = 92
"""JPEG quality of a stored region."""
BOX_PADDING_FACTOR = 1.25
"""How much larger than its box an instance is cut out."""

LABEL_COLUMNS = (
    "id",
    "image_id",
    "category_id",
    "box_xywh",
    "area",
    "head_size",
    "image_xy",
    "visible",
)
"""Columns that describe an instance, without its image."""


def build_arrow_schema(num_keypoints: int) -> pa.Schema:
    """One row is one instance. Points, boxes and areas are in pixels of the original image."""
    return pa.schema(
        {
            "id": pa.int64(),
            "image_id": pa.int64(),
            "category_id": pa.int64(),
            "image": pa.string(),
            "box_xywh": pa.list_(pa.float64(), 4),
            "area": pa.float64(),
            "head_size": pa.float64(),  # NaN where unknown
            "image_xy": pa.list_(pa.float64(), 2 * num_keypoints),
            "visible": pa.list_(pa.bool_(), num_keypoints),
            "stored_from_image": pa.list_(pa.float64(), 9),
            "picture": pa.binary(),
            "sha256": pa.string(),  # of the original file
            "stored_sha256": pa.string(),  # of `picture`
        }
    )


def build_cropped_record(instance: PoseInstance, file_bytes: bytes, image: np.ndarray, *, canvas_px: int) -> dict:
    """A training row: the square around the instance, as a JPEG no larger than the canvas."""
    stored, matrix = crop_region(image, instance.box_xywh, canvas_px=canvas_px)
    untouched = stored is image
    kept = file_bytes if untouched else codec.encode_jpeg(stored, quality=STORED_JPEG_QUALITY)
    return _build_record(instance, file_bytes, kept, matrix)


def build_full_image_record(instance: PoseInstance, file_bytes: bytes) -> dict:
    """An evaluation row: the file as it is."""
    return _build_record(instance, file_bytes, file_bytes, np.eye(3))


def crop_region(
    image: np.ndarray,
    box_xywh: tuple[float, float, float, float],
    *,
    canvas_px: int,
    coverage: float = CANVAS_COVERAGE,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut out what training crops may show, reduced (never enlarged) to fit the canvas.

    Returns:
        The region, and the matrix [3, 3] that leads into it from the image.
    """
    height, width = image.shape[:2]
    x, y, w, h = box_xywh
    side = max(w, h) * BOX_PADDING_FACTOR * coverage
    left, top = (int(max(0, np.floor(c - side / 2))) for c in (x + w / 2, y + h / 2))
    right = int(min(width, np.ceil(x + w / 2 + side / 2)))
    bottom = int(min(height, np.ceil(y + h / 2 + side / 2)))
    if right <= left or bottom <= top:  # a box outside its image
        left, top, right, bottom = 0, 0, 1, 1
    region = image[top:bottom, left:right]
    if region.shape == image.shape and max(region.shape[:2]) <= canvas_px:
        return image, np.eye(3)
    region_from_image = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    stored, stored_from_region = _resize_to_canvas(region, canvas_px)
    return stored, stored_from_region @ region_from_image


def _resize_to_canvas(image: np.ndarray, canvas_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Reduce what is larger than the canvas; returns it and the matrix [3, 3] into it."""
    height, width = image.shape[:2]
    shrink = canvas_px / max(height, width)
    if shrink >= 1:
        return image, np.eye(3)
    size_hw = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    return codec.resize_image(image, size_hw=size_hw)


def _build_record(
    instance: PoseInstance, file_bytes: bytes, stored_bytes: bytes, stored_from_image: np.ndarray
) -> dict[str, Any]:
    return {
        **{name: getattr(instance, name) for name in ("id", "image_id", "category_id", "image")},
        "box_xywh": list(instance.box_xywh),
        "area": instance.area,
        "head_size": instance.head_size,
        "image_xy": instance.image_xy.ravel().tolist(),
        "visible": instance.visible.tolist(),
        "stored_from_image": stored_from_image.ravel().tolist(),
        "picture": stored_bytes,
        "sha256": codec.hash_bytes(file_bytes),
        "stored_sha256": codec.hash_bytes(stored_bytes),
    }


def get_label_columns(table: pa.Table) -> Arrays:
    """The label columns of B rows, dense: `image_xy` float64 [B, K, 2], `visible` bool [B, K]..."""
    return {name: _convert_to_dense(table, name) for name in LABEL_COLUMNS}


_CELL_SHAPES = {"box_xywh": (), "image_xy": (2,), "visible": (), "stored_from_image": (3,)}
"""What the list of a cell is folded to: [2K] to [K, 2], [9] to [3, 3]."""


def _convert_to_dense(table: pa.Table, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    if name not in _CELL_SHAPES:
        return column.to_numpy()
    flat = column.flatten().to_numpy(zero_copy_only=False).copy()
    # The length comes from the type: a block may have no rows.
    length = column.type.list_size // math.prod(_CELL_SHAPES[name])
    return flat.reshape(table.num_rows, length, *_CELL_SHAPES[name])


def add_intact_column(table: pa.Table) -> pa.Table:
    """Add the column `intact`: whether each picture's bytes are those that were prepared."""
    wanted = table["stored_sha256"].cast(pa.binary()).to_pylist()  # damage need not be text
    intact = [
        hashlib.sha256(picture.as_buffer()).hexdigest().encode() == digest
        for picture, digest in zip(table["picture"], wanted, strict=True)
    ]
    return table.append_column("intact", pa.array(intact, pa.bool_()))


def decode_train_batch(table: pa.Table, *, canvas_px: int, map_function: MapFunction = map) -> Arrays:
    """Turn B training rows into what the device warps; deterministic, so it can be cached.

    `each` maps over the rows: a thread pool's `map` decodes them in parallel.

    Returns:
        The label columns, `canvas_from_image` float64 [B, 3, 3], `canvas` uint8 [B, S, S, 3] RGB
        (black where the image ends), and `readable` bool [B]: False for bytes that rotted since
        they were prepared; such a canvas is black and its keypoints are hidden.
    """
    arrays = get_label_columns(table)
    canvas_from_image = _convert_to_dense(table, "stored_from_image")
    canvas = np.zeros((table.num_rows, canvas_px, canvas_px, 3), np.uint8)
    stored = _get_intact_image_bytes(table)

    def decode_row(row_index: int) -> bool:
        picture = codec.decode_image(stored[row_index])
        if picture is None:
            return False
        # Prepared for a larger canvas, or an untouched file: then it is reduced here.
        fitting, canvas_from_stored = _resize_to_canvas(picture, canvas_px)
        height, width = fitting.shape[:2]
        canvas[row_index, :height, :width] = fitting
        canvas_from_image[row_index] = canvas_from_stored @ canvas_from_image[row_index]
        return True

    readable = np.fromiter(map_function(decode_row, range(table.num_rows)), bool, table.num_rows)
    visible = arrays["visible"] & readable[:, None]
    return arrays | {
        "canvas_from_image": canvas_from_image,
        "canvas": canvas,
        "readable": readable,
        "visible": visible,
    }


def _get_intact_image_bytes(table: pa.Table) -> list[bytes]:
    """The stored bytes; none where `checked` found others than were prepared."""
    stored = table["picture"].to_pylist()
    if "intact" not in table.column_names:
        return stored
    return [data if ok else b"" for data, ok in zip(stored, table["intact"].to_pylist(), strict=True)]


def decode_eval_batch(
    table: pa.Table, *, input_hw: tuple[int, int], padding: float, map_function: MapFunction = map
) -> Arrays:
    """Turn B evaluation rows into crops, each by one `cv2.warpAffine` as the published code.

    Returns:
        The label columns, `crop` uint8 [B, H, W, 3] RGB, `crop_from_image` float64 [B, 3, 3], and
        `readable` bool [B].
    """
    arrays = get_label_columns(table)
    stored_from_image = _convert_to_dense(table, "stored_from_image")
    matrices = compute_crop_matrices(arrays["box_xywh"], input_hw=input_hw, padding=padding)
    crops = np.zeros((table.num_rows, *input_hw, 3), np.uint8)
    stored = _get_intact_image_bytes(table)

    def decode_row(row_index: int) -> bool:
        picture = codec.decode_image(stored[row_index])
        if picture is None:
            return False
        crop_from_stored = matrices[row_index] @ np.linalg.inv(stored_from_image[row_index])
        crops[row_index] = warp_crop(picture, crop_from_stored, input_hw=input_hw)
        return True

    readable = np.fromiter(map_function(decode_row, range(table.num_rows)), bool, table.num_rows)
    return arrays | {"crop": crops, "crop_from_image": matrices, "readable": readable}


def compute_crop_matrices(box_xywh: np.ndarray, *, input_hw: tuple[int, int], padding: float) -> np.ndarray:
    """The published crop of each box: float64 [B, 3, 3], from image to crop pixels."""
    import torch

    from hrnet_ray.pose.geometry import box_to_center_scale, crop_from_image

    boxes = torch.tensor(box_xywh, dtype=torch.float64)
    center_xy, scale_wh = box_to_center_scale(boxes, input_hw=input_hw, padding=padding)
    upright = torch.zeros(len(boxes), dtype=boxes.dtype)
    return crop_from_image(center_xy, scale_wh, upright, crop_hw=input_hw).numpy()


def warp_crop(image: np.ndarray, crop_from_image: np.ndarray, *, input_hw: tuple[int, int]) -> np.ndarray:
    """One bilinear warp, black outside: the published way to a crop."""
    height, width = input_hw
    return cv2.warpAffine(image, crop_from_image[:2], (width, height), flags=cv2.INTER_LINEAR)
