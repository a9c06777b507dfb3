"""Boxes for the next frame of a video, out of the poses of the last one."""

import numpy as np
import torch

from hrnet_ray.metrics.predictions import CONFIDENT, Predictions, instance_scores

MARGIN = 0.15
"""Of the longer side, beyond the outermost keypoints: ears, hands and tails have none."""
AT_ONCE = 0.5
"""How much of the way to its new place a box goes in a frame: a keypoint may be missed in one."""
FEWEST = 0.25
"""Of the keypoints; a pose with fewer sure ones is lost."""
SAME = 0.8
"""Two boxes that share more than this of their area (IoU) follow the same animal."""
SMALLEST_PX = 8.0


class Following:
    """One box for each pose, which moves along with it.

    following = Following(boxes)             # float64 [N, 5]: x, y, w, h, score
    found = predictor(frame, following.boxes[:, :4])
    following.saw(found)                     # boxes are now those for the next frame

    A box whose pose is lost, or that came to follow another one's, starts over where it began.
    """

    def __init__(self, first: np.ndarray) -> None:
        self._first = first
        self.boxes = first.copy()

    def saw(self, found: Predictions) -> None:
        """Move each box towards the pose that was found in it."""
        for at, (xy, scores) in enumerate(zip(found.image_xy, found.scores, strict=True)):
            sure = scores > CONFIDENT
            if int(sure.sum()) < max(2, FEWEST * len(scores)):
                self.boxes[at] = self._first[at]
            else:
                self.boxes[at, :4] += AT_ONCE * (_around(xy[sure]) - self.boxes[at, :4])
        self._part_twins(instance_scores(found))

    def _part_twins(self, scores: torch.Tensor) -> None:
        """The surer one stays."""
        kept: list[int] = []
        for at in scores.argsort(descending=True).tolist():
            if any(_overlap(self.boxes[at], self.boxes[other]) > SAME for other in kept):
                self.boxes[at] = self._first[at]
            else:
                kept.append(at)


def _around(xy: torch.Tensor) -> np.ndarray:
    """The box around points [M, 2], with a margin: x, y, w, h."""
    low, high = xy.amin(0).double().numpy(), xy.amax(0).double().numpy()
    margin = max(MARGIN * float((high - low).max()), SMALLEST_PX / 2)
    return np.concatenate([low - margin, high - low + 2 * margin])


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:4], other[:2] + other[2:4])
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / (float(np.prod(one[2:4]) + np.prod(other[2:4])) - shared)
