"""What the outputs of a detector mean, for the families whose files people have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hrnet_ray.inference.detectors.letterbox import Look
from hrnet_ray.inference.detectors.onnx_session import Answers

Kind = Literal["yolox", "yolox-decoded", "yolox-mmdet", "rtmdet", "yolo", "yolo-end2end", "yolov5"]
Hw = tuple[int, int]

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
"""Canvas pixels per cell of each level: the usual ones, those of P6 nets, and those of P2 nets."""


@dataclass(frozen=True)
class Candidates:
    """All that a net answers to one canvas; nothing is left out yet."""

    canvas_xyxy: np.ndarray
    """Float64 [N, 4]: two corners each."""
    scores: np.ndarray
    """Float64 [N]; below 0 where the net says NaN."""
    classes: np.ndarray
    """Float64 [N]: the surest class of each."""
    class_count: int | None = None
    """None where the outputs do not tell it."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One family."""

    look: Look
    read: Callable[[Answers, Hw], Candidates]
    """Outputs and the canvas' size to candidates; ValueError where they have other shapes."""
    most_overlap: float | None
    """Of two boxes (their IoU) before the less sure one goes; None where the net sees to it."""


@np.errstate(all="ignore")  # who answers no numbers is of no family
def possible_kinds(answers: Answers, input_hw: Hw) -> tuple[Kind, ...]:
    """The families that answer a flat picture like this; several where nothing tells."""
    if _mmdet_arrays(answers):
        return "rtmdet", "yolox-mmdet"
    try:
        rows = _rows(answers)
    except ValueError:
        return ()
    cells = {len(_cells(input_hw, strides)) for strides in STRIDES}
    if rows.shape[1] in cells and len(rows) > 4:
        return ("yolo",)
    if rows.shape[1] < 6:
        return ()
    if len(rows) in {3 * count for count in cells}:
        return ("yolov5",)
    if len(rows) in cells:
        return ("yolox",) if _looks_raw(rows, input_hw) else ("yolox-decoded", "yolov5")
    if rows.shape[1] == 6 and (rows[:, 5] == rows[:, 5].round()).all():
        return ("yolo-end2end",)
    return ()


def _yolox(answers: Answers, input_hw: Hw) -> Candidates:
    """Megvii's own export: places within a cell, and logarithms of sizes, in cells."""
    rows = _rows(answers, least=6)
    cells = _cells_of(rows, input_hw)
    column_row, stride = cells[:, :2], cells[:, 2:]
    xywh = np.hstack([(rows[:, :2] + column_row) * stride, np.exp(rows[:, 2:4]) * stride])
    return _surest(_corners(xywh), rows[:, 4:5] * rows[:, 5:])


def _with_objectness(answers: Answers, _: Hw) -> Candidates:
    """[1, N, 5 + C]: x, y, w, h in pixels of the canvas, how sure it is a thing, and what thing."""
    rows = _rows(answers, least=6)
    return _surest(_corners(rows[:, :4]), rows[:, 4:5] * rows[:, 5:])


def _yolo(answers: Answers, _: Hw) -> Candidates:
    """[1, 4 + C, N]: x, y, w, h in pixels of the canvas, and how sure each class is."""
    rows = _rows(answers).T
    if rows.shape[1] < 5:
        raise ValueError("no class")
    return _surest(_corners(rows[:, :4]), rows[:, 4:])


def _end2end(answers: Answers, _: Hw) -> Candidates:
    """[1, N, 6]: two corners, score, class."""
    rows = _rows(answers)
    if rows.shape[1] != 6:
        raise ValueError("not six numbers a box")
    return Candidates(rows[:, :4], _without_nan(rows[:, 4]), rows[:, 5])


def _mmdet(answers: Answers, _: Hw) -> Candidates:
    """[1, N, 5] of two corners and a score, and [1, N] of classes."""
    arrays = _mmdet_arrays(answers)
    if arrays is None:
        raise ValueError("no boxes with labels")
    boxes, labels = arrays
    return Candidates(boxes[:, :4], _without_nan(boxes[:, 4]), labels)


_BGR = Look(bgr=True, centred=False)
_RGB = Look(bgr=False, spread=(255.0, 255.0, 255.0), centred=True)
_IMAGENET = Look(
    bgr=True, mean=(103.53, 116.28, 123.675), spread=(57.375, 57.12, 58.395), centred=False
)

# 0.45: YOLOX's demo/ONNXRuntime, and YOLOv5's detect.py. 0.5: ultralytics' example for onnxruntime.
LAYOUTS: dict[Kind, Layout] = {
    "yolox": Layout(look=_BGR, read=_yolox, most_overlap=0.45),
    "yolox-decoded": Layout(look=_BGR, read=_with_objectness, most_overlap=0.45),
    "yolox-mmdet": Layout(look=_BGR, read=_mmdet, most_overlap=None),
    "rtmdet": Layout(look=_IMAGENET, read=_mmdet, most_overlap=None),
    "yolo": Layout(look=_RGB, read=_yolo, most_overlap=0.5),
    "yolo-end2end": Layout(look=_RGB, read=_end2end, most_overlap=None),
    "yolov5": Layout(look=_RGB, read=_with_objectness, most_overlap=0.45),
}


def _rows(answers: Answers, *, least: int = 0) -> np.ndarray:
    """The only output [1, A, B] as float64 [A, B]; YOLOv5's raw maps [1, 3, H, W, B] may be by it.

    Raises:
        ValueError: there is no such output, there are others, or B is under `least`.
    """
    flat = [array for array in answers.values() if array.ndim == 3]
    maps = [array for array in answers.values() if array.ndim == 5]
    if len(flat) != 1 or len(flat) + len(maps) != len(answers) or len(flat[0]) != 1:
        raise ValueError("not one output [1, A, B]")
    if flat[0].shape[2] < least:
        raise ValueError(f"fewer than {least} numbers a box")
    return flat[0][0].astype(np.float64)


def _mmdet_arrays(answers: Answers) -> tuple[np.ndarray, np.ndarray] | None:
    """Mmdeploy's `dets` [N, 5] and `labels` [N], whatever stands beside them."""
    boxes, labels = answers.get("dets"), answers.get("labels")
    if boxes is None or labels is None or labels.ndim != 2 or len(labels) != 1:
        return None
    if boxes.shape != (*labels.shape, 5):
        return None
    return boxes[0].astype(np.float64), labels[0].astype(np.float64)


def _cells_of(rows: np.ndarray, input_hw: Hw) -> np.ndarray:
    """The cells of a net that answers one row for each.

    Raises:
        ValueError: no usual net has as many.
    """
    for strides in STRIDES:
        cells = _cells(input_hw, strides)
        if len(cells) == len(rows):
            return cells
    raise ValueError("not one row for each cell")


def _cells(input_hw: Hw, strides: tuple[int, ...]) -> np.ndarray:
    """Column, row and stride of each cell, in the order of the outputs: float64 [N, 3]."""
    height, width = input_hw
    levels = []
    for stride in strides:
        row, column = np.indices((height // stride, width // stride)).reshape(2, -1)
        levels.append(np.stack([column, row, np.full_like(row, stride)], axis=1))
    return np.concatenate(levels).astype(np.float64)


def _looks_raw(rows: np.ndarray, input_hw: Hw) -> bool:
    """Whether x and y stay near 0.5, rather than near the centres of the cells on the canvas."""
    cells = _cells_of(rows, input_hw)
    from_cell = np.abs(rows[:, :2] - 0.5)
    from_canvas = np.abs(rows[:, :2] / cells[:, 2:] - cells[:, :2] - 0.5)
    return bool(np.median(from_cell) < np.median(from_canvas))


def _corners(xywh: np.ndarray) -> np.ndarray:
    """Two corners of boxes that are given by their centres."""
    centre, half = xywh[:, :2], xywh[:, 2:] / 2
    return np.hstack([centre - half, centre + half])


def _surest(canvas_xyxy: np.ndarray, scores: np.ndarray) -> Candidates:
    """Each box with its surest class only, of scores [N, C]."""
    known = _without_nan(scores)
    best = known.argmax(axis=1)
    return Candidates(
        canvas_xyxy, known.max(axis=1), best.astype(np.float64), class_count=scores.shape[1]
    )


def _without_nan(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(scores), -1.0, scores)
