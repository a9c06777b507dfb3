"""How a family of detectors wants to see an image."""

from dataclasses import dataclass

import cv2
import numpy as np

PADDING_VALUE = 114
"""What all of them pad with."""

ColorTriple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class DetectorPreprocessing:
    """Where the image lies on its canvas, and what becomes of its colours."""

    bgr: bool
    mean: ColorTriple = (0.0, 0.0, 0.0)
    """Taken from the colours, in the order of `bgr`; after that they are divided by `spread`."""
    std: ColorTriple = (1.0, 1.0, 1.0)
    centered: bool
    """In the middle; otherwise in the upper left corner."""

    def to_input_array(self, letterboxed: np.ndarray) -> np.ndarray:
        """RGB uint8 [H, W, 3] as the net takes it: float32 [3, H, W]."""
        colours = letterboxed[..., ::-1] if self.bgr else letterboxed
        mean, spread = np.array([self.mean, self.std], np.float32)
        values = (colours - mean) / spread
        return np.ascontiguousarray(values.transpose(2, 0, 1))


@dataclass(frozen=True)
class LetterboxedImage:
    """An image that was fitted into another size: canvas_xy = picture_xy * zoom_xy + corner_xy."""

    pixels: np.ndarray
    """Uint8 [H, W, 3]."""
    scale_xy: np.ndarray
    offset_xy: np.ndarray

    def to_image_boxes(self, letterbox_xyxy: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] of two corners each, led back into the image."""
        return (letterbox_xyxy - np.tile(self.offset_xy, 2)) / np.tile(self.scale_xy, 2)


def letterbox_image(image: np.ndarray, size_hw: tuple[int, int], *, centered: bool) -> LetterboxedImage:
    """Scale an image, down or up, until it just fits into `size_hw`, and pad the rest."""
    wanted_wh, wh = np.array(size_hw[::-1]), np.array(image.shape[1::-1])
    width, height = np.maximum(1, np.rint(wh * (wanted_wh / wh).min())).astype(int).tolist()
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)  # as they do
    left, top = (wanted_wh - (width, height)) // 2 if centered else (0, 0)
    pixels = np.full((*size_hw, 3), PADDING_VALUE, np.uint8)
    pixels[top : top + height, left : left + width] = scaled
    return LetterboxedImage(pixels, np.array([width, height]) / wh, np.array([left, top]))
