"""Detect boxes on images with an ONNX file of one of the usual model families."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from hrnet_ray.data.annotations import format_value
from hrnet_ray.errors import UsageError
from hrnet_ray.inference.detectors.letterbox import PADDING_VALUE, letterbox_image
from hrnet_ray.inference.detectors.onnx_session import ModelOutputs, OnnxModel, format_shapes
from hrnet_ray.inference.detectors.output_formats import (
    OUTPUT_FORMATS,
    FormatName,
    RawDetections,
    infer_formats,
)

FormatChoice = Literal["auto", FormatName]

MAX_CANDIDATES = 3000
"""The surest ones of an image; comparing each with each costs the square."""
MIN_BOX_SIDE_PX = 1.0
"""Of a box, in pixels of the image."""
MAX_SCORE = 1.01
"""A score is at most 1, but for the rounding of half numbers."""
_FORMAT_HINT = "give another --detector-format, or auto; or a file of one of these families"


class ObjectDetector:
    """Boxes on an image, by an ONNX file of the user's.

    detector = Detector.from_file(Path("yolox_s.onnx"), classes=(16,))
    detector(image)      # RGB uint8 [H, W, 3] -> float64 [N, 5]
    """

    def __init__(
        self,
        onnx_model: OnnxModel,
        format_name: FormatName,
        *,
        class_ids: tuple[int, ...] = (),
        min_score: float = 0.3,
    ) -> None:
        self.onnx_model = onnx_model
        self.format_name = format_name
        self.class_ids = class_ids
        self.min_score = min_score
        self._output_format = OUTPUT_FORMATS[format_name]

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        format_name: FormatChoice = "auto",
        class_ids: tuple[int, ...] = (),
        min_score: float = 0.3,
        device: str | torch.device = "cpu",
    ) -> "ObjectDetector":
        """Open a file, run it on a uniform image, and infer its output format from the result.

        Args:
            path: the file.
            format_name: the output format, where it cannot be inferred.
            class_ids: the classes to detect, counted from 0; empty for all.
            min_score: the lowest score of a box.
            device: CUDA is used where it is requested and onnxruntime supports it.

        Raises:
            UsageError: onnxruntime is not installed, `least_score` is no score, or the file has
                not as many classes.
            DataError: the file is damaged, no detector, or of no family that is known here.
        """
        if not 0 <= min_score <= 1:
            raise UsageError(
                "a score that cannot be",
                f"--detector-min-score {min_score}",
                "give a number from 0 to 1",
            )
        net = OnnxModel(path, device=device)
        _check_task(net)
        answers = net(np.full((3, *net.input_hw), PADDING_VALUE / 255, np.float32))
        chosen = _infer_single_format(net, answers) if format_name == "auto" else format_name
        detector = cls(net, chosen, class_ids=class_ids, min_score=min_score)
        _check_classes(class_ids, detector._decode_outputs(answers).num_classes)
        return detector

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Find boxes on RGB uint8 [H, W, 3].

        Returns:
            Float64 [N, 5]: x, y, width and height in pixels of the image, none of it outside,
            and the score; the surest first.

        Raises:
            DataError: the file fails, or answers what no detector of its family does.
            ValueError: it is no such image.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            form = f"{image.dtype} {list(image.shape)}"
            raise ValueError(f"an image is RGB uint8 [H, W, 3], this is {form}")
        look = self._output_format.preprocessing
        canvas = letterbox_image(image, self.onnx_model.input_hw, centered=look.centered)
        found = self._decode_outputs(self.onnx_model(look.to_input_array(canvas.pixels)))
        boxes = _clip_to_image(canvas.to_image_boxes(found.letterbox_xyxy), image.shape[:2])
        wanted = (found.scores >= self.min_score) & (boxes[:, 2:] >= MIN_BOX_SIDE_PX).all(axis=1)
        if self.class_ids:
            wanted &= np.isin(found.class_ids, self.class_ids)
        order = np.argsort(-found.scores, kind="stable")
        order = order[wanted[order]][:MAX_CANDIDATES]
        scored = np.hstack([boxes, found.scores[:, None]])[order]
        return self._apply_nms(scored, found.class_ids[order])

    def _decode_outputs(self, outputs: ModelOutputs) -> RawDetections:
        """Candidates, unless they are none.

        Raises:
            DataError: the outputs have other shapes, or scores are above 1.
        """
        try:
            with np.errstate(all="ignore"):  # what is endless, or no number, is left out later
                found = self._output_format.decode_outputs(outputs, self.onnx_model.input_hw)
        except ValueError as error:
            raise self.onnx_model.make_file_error(
                f"no detector of the kind {self.format_name} ({error})",
                format_shapes(outputs),
                _FORMAT_HINT,
            ) from error
        if (found.scores > MAX_SCORE).any():
            raise self.onnx_model.make_file_error(
                f"no detector of the kind {self.format_name}: it answers scores above 1",
                f"{found.scores.max():.4g}; {format_shapes(outputs)}",
                _FORMAT_HINT,
            )
        return found

    def _apply_nms(self, scored_boxes: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
        """Leave out boxes that overlap a surer one of their class too much."""
        if self._output_format.nms_iou_threshold is None or not len(scored_boxes):
            return scored_boxes
        kept = cv2.dnn.NMSBoxesBatched(
            scored_boxes[:, :4].tolist(),
            scored_boxes[:, 4].tolist(),
            class_ids.astype(int).tolist(),
            score_threshold=-1.0,  # they are sure enough already
            nms_threshold=self._output_format.nms_iou_threshold,
        )
        return scored_boxes[np.sort(np.asarray(kept, int))]


def _infer_single_format(onnx_model: OnnxModel, outputs: ModelOutputs) -> FormatName:
    """The one family that answers like this.

    Raises:
        DataError: there is no metadata, there are several tasks, or the file is for another task.
    """
    kinds = infer_formats(outputs, onnx_model.input_hw)
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise onnx_model.make_file_error(
            "a detector of one of two families, which want their images otherwise",
            format_shapes(outputs),
            f"give --detector-format {' or '.join(kinds)}",
        )
    raise onnx_model.make_file_error(
        "no detector whose outputs are known here",
        format_shapes(outputs),
        f"give --detector-format ({', '.join(OUTPUT_FORMATS)}) if it is of one of these, or give --boxes",
    )


def _check_task(onnx_model: OnnxModel) -> None:
    """Check the task in Ultralytics' metadata: keypoints and masks would be taken for classes."""
    task = onnx_model.metadata.get("task", "detect")
    if task != "detect":
        raise onnx_model.make_file_error(
            "a net for something else than boxes",
            f"its task is {format_value(task)}",
            "give one that was trained to detect",
        )


def _check_classes(class_ids: tuple[int, ...], num_classes: int | None) -> None:
    wrong = [at for at in class_ids if at < 0 or (num_classes is not None and at >= num_classes)]
    if wrong:
        theirs = "" if num_classes is None else f": the file has {num_classes}, from 0 to {num_classes - 1}"
        raise UsageError(
            "a class that the detector does not have",
            f"--detector-classes {wrong[0]}{theirs}",
            "give numbers of its classes, or none for all",
        )


def _clip_to_image(image_xyxy: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """What of each box is in the image: x, y, w, h [N, 4]; of endless ones, nothing."""
    height, width = image_hw
    real = np.isfinite(image_xyxy).all(axis=1, keepdims=True)
    corners = np.where(real, np.clip(image_xyxy, 0, (width, height, width, height)), 0.0)
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
