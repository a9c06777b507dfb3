"""Defects of labelling tools that a reader can correct: counted, and reported in notes."""

from collections import Counter
from enum import StrEnum

import numpy as np

TIGHT_BOX_TOLERANCE_PX = 1.5
"""A box as near to its points as this was computed from them (some tools round to whole pixels)."""


class LabelDefect(StrEnum):
    """Ends of the sentence "3 of 40 annotations had ..."."""

    MISSING_BOX = "no box, or one of zeros: it was taken around the points"
    TINY_AREA = "an area below 1 square pixel: their box's was taken"
    IMPLAUSIBLE_AREA = "an area larger than their box, or below a twentieth of it: OKS divides errors by its root"
    TIGHT_BOX = (
        "a box that ends at its outermost points, as CVAT and Label Studio write where nobody drew "
        "one: it cuts off paws and ears that a detector's box would hold"
    )
    WRONG_NUM_KEYPOINTS = "a num_keypoints that is not the number of labelled keypoints: it was not used"
    VISIBLE_AT_ORIGIN = "keypoints marked visible at (0, 0): they were taken as not labelled"
    HIDDEN_WITH_COORDINATES = "coordinates of keypoints whose visibility is 0: they were not used"
    INVALID_VISIBILITY = "a visibility other than 0, 1 or 2: above 0 was taken as labelled"
    OUTSIDE_IMAGE = "labelled keypoints outside the image: they were kept"


class DefectCounter:
    """Counts annotations by what was wrong with them."""

    def __init__(self) -> None:
        self.counts: Counter[LabelDefect] = Counter()
        self.num_boxes = 0

    def count_defect(self, defect: LabelDefect, is_present: object = True) -> None:
        self.counts[defect] += bool(is_present)

    def count_keypoint_defects(self, xyv: np.ndarray, num_keypoints: object) -> None:
        """Check keypoints [K, 3] as written against the annotation's own `num_keypoints`."""
        placed, flags = xyv[:, :2].any(1), xyv[:, 2]
        self.count_defect(LabelDefect.VISIBLE_AT_ORIGIN, (~placed & (flags > 0)).any())
        self.count_defect(LabelDefect.HIDDEN_WITH_COORDINATES, (placed & (flags <= 0)).any())
        self.count_defect(LabelDefect.INVALID_VISIBILITY, (flags * (flags - 1) * (flags - 2)).any())
        self.count_defect(
            LabelDefect.WRONG_NUM_KEYPOINTS,
            num_keypoints is not None and num_keypoints != int((flags > 0).sum()),
        )

    def count_box_defects(self, image_xy: np.ndarray, box_xywh: np.ndarray, image_wh: tuple[float, float]) -> None:
        """Look at the labelled points [L, 2] of an annotation, and at its box as written."""
        self.num_boxes += 1
        (left, top), (right, bottom) = image_xy.min(0).tolist(), image_xy.max(0).tolist()
        x, y, w, h = box_xywh.tolist()
        apart = (left - x, top - y, right - x - w, bottom - y - h)
        self.count_defect(LabelDefect.TIGHT_BOX, max(map(abs, apart)) <= TIGHT_BOX_TOLERANCE_PX)
        width, height = image_wh
        inside = left >= 0 and top >= 0 and right <= width and bottom <= height
        self.count_defect(LabelDefect.OUTSIDE_IMAGE, not inside)

    def build_notes(self, source: str, total: int) -> list[str]:
        """Notes in a fixed order. A few tight boxes are chance, and not reported."""
        return [
            f"{source}: {self.counts[defect]:,} of {total:,} annotations had {defect}"
            for defect in LabelDefect
            if self.counts[defect] and (defect != LabelDefect.TIGHT_BOX or self._has_mostly_tight_boxes())
        ]

    def _has_mostly_tight_boxes(self) -> bool:
        return 2 * self.counts[LabelDefect.TIGHT_BOX] > self.num_boxes
