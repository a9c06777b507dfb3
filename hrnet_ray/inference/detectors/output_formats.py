"""What the outputs of a detector mean, for the families whose files people have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hrnet_ray.inference.detectors.letterbox import DetectorPreprocessing
from hrnet_ray.inference.detectors.onnx_session import ModelOutputs

FormatName = Literal["yolox", "yolox-decoded", "yolox-mmdet", "rtmdet", "yolo", "yolo-end2end", "yolov5"]
SizeHw = tuple[int, int]

STRIDE_SETS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
"""Canvas pixels per cell of each level: the usual ones, those of P6 nets, and those of P2 nets."""


@dataclass(frozen=True)
class RawDetections:
    """All that a net answers to one canvas; nothing is left out yet."""

    letterbox_xyxy: np.ndarray
    """Float64 [N, 4]: two corners each."""
    scores: np.ndarray
    """Float64 [N]; below 0 where the model returns NaN."""
    class_ids: np.ndarray
    """Float64 [N]: the surest class of each."""
    num_classes: int | None = None
    """Number of classes; None where the outputs do not show it."""


@dataclass(frozen=True, kw_only=True)
class OutputFormat:
    """One family."""

    preprocessing: DetectorPreprocessing
    decode_outputs: Callable[[ModelOutputs, SizeHw], RawDetections]
    """Outputs and the canvas' size to candidates; ValueError where they have other shapes."""
    nms_iou_threshold: float | None
    """Of two boxes (their IoU) before the less sure one goes; None where the net sees to it."""


@np.errstate(all="ignore")  # who answers no numbers is of no family
def infer_formats(outputs: ModelOutputs, input_hw: SizeHw) -> tuple[FormatName, ...]:
    """Find the formats that match the outputs for a uniform image; several where it is ambiguous."""
    if _find_mmdet_arrays(outputs):
        return "rtmdet", "yolox-mmdet"
    try:
        rows = _get_output_rows(outputs)
    except ValueError:
        return ()
    cells = {len(_make_grid_cells(input_hw, strides)) for strides in STRIDE_SETS}
    if rows.shape[1] in cells and len(rows) > 4:
        return ("yolo",)
    if rows.shape[1] < 6:
        return ()
    if len(rows) in {3 * count for count in cells}:
        return ("yolov5",)
    if len(rows) in cells:
        return ("yolox",) if _has_cell_offsets(rows, input_hw) else ("yolox-decoded", "yolov5")
    if rows.shape[1] == 6 and (rows[:, 5] == rows[:, 5].round()).all():
        return ("yolo-end2end",)
    return ()


def _decode_yolox(outputs: ModelOutputs, input_hw: SizeHw) -> RawDetections:
    """Megvii's own export: places within a cell, and logarithms of sizes, in cells."""
    rows = _get_output_rows(outputs, min_columns=6)
    cells = _match_grid_cells(rows, input_hw)
    column_row, stride = cells[:, :2], cells[:, 2:]
    xywh = np.hstack([(rows[:, :2] + column_row) * stride, np.exp(rows[:, 2:4]) * stride])
    return _select_best_class(_convert_to_corners(xywh), rows[:, 4:5] * rows[:, 5:])


def _decode_objectness_rows(outputs: ModelOutputs, _: SizeHw) -> RawDetections:
    """[1, N, 5 + C]: x, y, w, h in pixels of the canvas, how sure it is a thing, and what thing."""
    rows = _get_output_rows(outputs, min_columns=6)
    return _select_best_class(_convert_to_corners(rows[:, :4]), rows[:, 4:5] * rows[:, 5:])


def _decode_yolo(outputs: ModelOutputs, _: SizeHw) -> RawDetections:
    """[1, 4 + C, N]: x, y, w, h in pixels of the canvas, and how sure each class is."""
    rows = _get_output_rows(outputs).T
    if rows.shape[1] < 5:
        raise ValueError("no class")
    return _select_best_class(_convert_to_corners(rows[:, :4]), rows[:, 4:])


def _decode_end2end(outputs: ModelOutputs, _: SizeHw) -> RawDetections:
    """[1, N, 6]: two corners, score, class."""
    rows = _get_output_rows(outputs)
    if rows.shape[1] != 6:
        raise ValueError("not six numbers a box")
    return RawDetections(rows[:, :4], _replace_nan_scores(rows[:, 4]), rows[:, 5])


def _decode_mmdet(outputs: ModelOutputs, _: SizeHw) -> RawDetections:
    """[1, N, 5] of two corners and a score, and [1, N] of classes."""
    arrays = _find_mmdet_arrays(outputs)
    if arrays is None:
        raise ValueError("no boxes with labels")
    boxes, labels = arrays
    return RawDetections(boxes[:, :4], _replace_nan_scores(boxes[:, 4]), labels)


_BGR = DetectorPreprocessing(bgr=True, centered=False)
_RGB = DetectorPreprocessing(bgr=False, std=(255.0, 255.0, 255.0), centered=True)
_IMAGENET = DetectorPreprocessing(bgr=True, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), centered=False)

# 0.45: YOLOX's demo/ONNXRuntime, and YOLOv5's detect.py. 0.5: ultralytics' example for onnxruntime.
OUTPUT_FORMATS: dict[FormatName, OutputFormat] = {
    "yolox": OutputFormat(preprocessing=_BGR, decode_outputs=_decode_yolox, nms_iou_threshold=0.45),
    "yolox-decoded": OutputFormat(preprocessing=_BGR, decode_outputs=_decode_objectness_rows, nms_iou_threshold=0.45),
    "yolox-mmdet": OutputFormat(preprocessing=_BGR, decode_outputs=_decode_mmdet, nms_iou_threshold=None),
    "rtmdet": OutputFormat(preprocessing=_IMAGENET, decode_outputs=_decode_mmdet, nms_iou_threshold=None),
    "yolo": OutputFormat(preprocessing=_RGB, decode_outputs=_decode_yolo, nms_iou_threshold=0.5),
    "yolo-end2end": OutputFormat(preprocessing=_RGB, decode_outputs=_decode_end2end, nms_iou_threshold=None),
    "yolov5": OutputFormat(preprocessing=_RGB, decode_outputs=_decode_objectness_rows, nms_iou_threshold=0.45),
}


def _get_output_rows(outputs: ModelOutputs, *, min_columns: int = 0) -> np.ndarray:
    """The only output [1, A, B] as float64 [A, B]; YOLOv5's raw maps [1, 3, H, W, B] may be by it.

    Raises:
        ValueError: there is no such output, there are others, or B is under `least`.
    """
    flat = [array for array in outputs.values() if array.ndim == 3]
    maps = [array for array in outputs.values() if array.ndim == 5]
    if len(flat) != 1 or len(flat) + len(maps) != len(outputs) or len(flat[0]) != 1:
        raise ValueError("not one output [1, A, B]")
    if flat[0].shape[2] < min_columns:
        raise ValueError(f"fewer than {min_columns} numbers a box")
    return flat[0][0].astype(np.float64)


def _find_mmdet_arrays(outputs: ModelOutputs) -> tuple[np.ndarray, np.ndarray] | None:
    """Mmdeploy's `dets` [N, 5] and `labels` [N]; other outputs are ignored."""
    boxes, labels = outputs.get("dets"), outputs.get("labels")
    if boxes is None or labels is None or labels.ndim != 2 or len(labels) != 1:
        return None
    if boxes.shape != (*labels.shape, 5):
        return None
    return boxes[0].astype(np.float64), labels[0].astype(np.float64)


def _match_grid_cells(rows: np.ndarray, input_hw: SizeHw) -> np.ndarray:
    """The cells of a net that answers one row for each.

    Raises:
        ValueError: no usual net has as many.
    """
    for strides in STRIDE_SETS:
        cells = _make_grid_cells(input_hw, strides)
        if len(cells) == len(rows):
            return cells
    raise ValueError("not one row for each cell")


def _make_grid_cells(input_hw: SizeHw, strides: tuple[int, ...]) -> np.ndarray:
    """Column, row and stride of each cell, in the order of the outputs: float64 [N, 3]."""
    height, width = input_hw
    levels = []
    for stride in strides:
        row, column = np.indices((height // stride, width // stride)).reshape(2, -1)
        levels.append(np.stack([column, row, np.full_like(row, stride)], axis=1))
    return np.concatenate(levels).astype(np.float64)


def _has_cell_offsets(rows: np.ndarray, input_hw: SizeHw) -> bool:
    """Whether x and y stay near 0.5, rather than near the centres of the cells on the canvas."""
    cells = _match_grid_cells(rows, input_hw)
    from_cell = np.abs(rows[:, :2] - 0.5)
    from_canvas = np.abs(rows[:, :2] / cells[:, 2:] - cells[:, :2] - 0.5)
    return bool(np.median(from_cell) < np.median(from_canvas))


def _convert_to_corners(center_xywh: np.ndarray) -> np.ndarray:
    """Two corners of boxes that are given by their centres."""
    centre, half = center_xywh[:, :2], center_xywh[:, 2:] / 2
    return np.hstack([centre - half, centre + half])


def _select_best_class(letterbox_xyxy: np.ndarray, scores: np.ndarray) -> RawDetections:
    """Each box with its surest class only, of scores [N, C]."""
    known = _replace_nan_scores(scores)
    best = known.argmax(axis=1)
    return RawDetections(letterbox_xyxy, known.max(axis=1), best.astype(np.float64), num_classes=scores.shape[1])


def _replace_nan_scores(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(scores), -1.0, scores)
