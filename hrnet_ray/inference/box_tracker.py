"""Boxes for the next frame of a video, out of the poses of the last one."""

import numpy as np
import torch

from hrnet_ray.metrics.predictions import (
    KEYPOINT_SCORE_THRESHOLD,
    KeypointPredictions,
    compute_pose_scores,
)

BOX_MARGIN_FRAC = 0.15
"""Of the longer side, beyond the outermost keypoints: ears, hands and tails have none."""
BOX_UPDATE_FRAC = 0.5
"""How much of the way to its new place a box goes in a frame: a keypoint may be missed in one."""
MIN_CONFIDENT_FRAC = 0.25
"""Of the keypoints; a pose with fewer sure ones is lost."""
DUPLICATE_IOU = 0.8
"""Two boxes that share more than this of their area (IoU) follow the same animal."""
MIN_BOX_PX = 8.0


class BoxTracker:
    """One box for each pose, which moves along with it.

    following = Following(boxes)             # float64 [N, 5]: x, y, w, h, score
    found = predictor(frame, following.boxes[:, :4])
    following.saw(found)                     # boxes are now those for the next frame

    A box whose pose is lost, or that came to follow another one's, starts over where it began.
    """

    def __init__(self, initial_boxes: np.ndarray) -> None:
        self._initial_boxes = initial_boxes
        self.boxes = initial_boxes.copy()

    def update_boxes(self, predictions: KeypointPredictions) -> None:
        """Move each box towards the pose that was found in it."""
        for at, (xy, scores) in enumerate(zip(predictions.image_xy, predictions.scores, strict=True)):
            sure = scores > KEYPOINT_SCORE_THRESHOLD
            if int(sure.sum()) < max(2, MIN_CONFIDENT_FRAC * len(scores)):
                self.boxes[at] = self._initial_boxes[at]
            else:
                self.boxes[at, :4] += BOX_UPDATE_FRAC * (_compute_box_around(xy[sure]) - self.boxes[at, :4])
        self._reset_duplicates(compute_pose_scores(predictions))

    def _reset_duplicates(self, scores: torch.Tensor) -> None:
        """The surer one stays."""
        kept: list[int] = []
        for at in scores.argsort(descending=True).tolist():
            if any(_compute_iou(self.boxes[at], self.boxes[other]) > DUPLICATE_IOU for other in kept):
                self.boxes[at] = self._initial_boxes[at]
            else:
                kept.append(at)


def _compute_box_around(image_xy: torch.Tensor) -> np.ndarray:
    """The box around points [M, 2], with a margin: x, y, w, h."""
    low, high = image_xy.amin(0).double().numpy(), image_xy.amax(0).double().numpy()
    margin = max(BOX_MARGIN_FRAC * float((high - low).max()), MIN_BOX_PX / 2)
    return np.concatenate([low - margin, high - low + 2 * margin])


def _compute_iou(first_box: np.ndarray, second_box: np.ndarray) -> float:
    """Intersection over union."""
    low = np.maximum(first_box[:2], second_box[:2])
    high = np.minimum(first_box[:2] + first_box[2:4], second_box[:2] + second_box[2:4])
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / (float(np.prod(first_box[2:4]) + np.prod(second_box[2:4])) - shared)
