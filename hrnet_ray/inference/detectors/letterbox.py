"""How a family of detectors wants to see a picture."""

from dataclasses import dataclass

import cv2
import numpy as np

GREY = 114
"""What all of them pad with."""

Three = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Look:
    """Where the picture lies on its canvas, and what becomes of its colours."""

    bgr: bool
    mean: Three = (0.0, 0.0, 0.0)
    """Taken from the colours, in the order of `bgr`; after that they are divided by `spread`."""
    spread: Three = (1.0, 1.0, 1.0)
    centred: bool
    """In the middle; otherwise in the upper left corner."""

    def planes(self, canvas: np.ndarray) -> np.ndarray:
        """RGB uint8 [H, W, 3] as the net takes it: float32 [3, H, W]."""
        colours = canvas[..., ::-1] if self.bgr else canvas
        mean, spread = np.array([self.mean, self.spread], np.float32)
        values = (colours - mean) / spread
        return np.ascontiguousarray(values.transpose(2, 0, 1))


@dataclass(frozen=True)
class Canvas:
    """A picture that was fitted into another size: canvas_xy = picture_xy * zoom_xy + corner_xy."""

    pixels: np.ndarray
    """Uint8 [H, W, 3]."""
    zoom_xy: np.ndarray
    corner_xy: np.ndarray

    def to_picture(self, canvas_xyxy: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] of two corners each, led back into the picture."""
        return (canvas_xyxy - np.tile(self.corner_xy, 2)) / np.tile(self.zoom_xy, 2)


def fit(picture: np.ndarray, size_hw: tuple[int, int], *, centred: bool) -> Canvas:
    """Scale a picture, down or up, until it just fits into `size_hw`, and pad the rest."""
    wanted_wh, wh = np.array(size_hw[::-1]), np.array(picture.shape[1::-1])
    width, height = np.maximum(1, np.rint(wh * (wanted_wh / wh).min())).astype(int).tolist()
    scaled = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)  # as they do
    left, top = (wanted_wh - (width, height)) // 2 if centred else (0, 0)
    pixels = np.full((*size_hw, 3), GREY, np.uint8)
    pixels[top : top + height, left : left + width] = scaled
    return Canvas(pixels, np.array([width, height]) / wh, np.array([left, top]))
