"""What labelling tools get wrong and a reader can put right: counted, and told in notes."""

from collections import Counter
from enum import StrEnum

import numpy as np

TIGHT_PX = 1.5
"""A box as near to its points as this was computed from them (some tools round to whole pixels)."""


class Defect(StrEnum):
    """Ends of the sentence "3 of 40 annotations had ..."."""

    BOX_OF_ZEROS = "no box, or one of zeros: it was taken around the points"
    NO_AREA = "an area below 1 square pixel: their box's was taken"
    ODD_AREA = (
        "an area larger than their box, or below a twentieth of it: OKS divides errors by its root"
    )
    TIGHT_BOX = (
        "a box that ends at its outermost points, as CVAT and Label Studio write where nobody drew "
        "one: it cuts off paws and ears that a detector's box would hold"
    )
    WRONG_COUNT = "a num_keypoints that is not the number of labelled keypoints: it was not used"
    VISIBLE_AT_ZERO = "keypoints marked visible at (0, 0): they were taken as not labelled"
    HIDDEN_WITH_PLACE = "coordinates of keypoints whose visibility is 0: they were not used"
    OTHER_VISIBILITY = "a visibility other than 0, 1 or 2: above 0 was taken as labelled"
    OUTSIDE_PICTURE = "labelled keypoints outside the picture: they were kept"


class Defects:
    """Counts annotations by what was wrong with them."""

    def __init__(self) -> None:
        self.counts: Counter[Defect] = Counter()
        self.used = 0

    def count(self, defect: Defect, found: object = True) -> None:
        self.counts[defect] += bool(found)

    def count_points(self, xyv: np.ndarray, told: object) -> None:
        """Look at keypoints [K, 3] as written; `told` is the annotation's `num_keypoints`."""
        placed, flags = xyv[:, :2].any(1), xyv[:, 2]
        self.count(Defect.VISIBLE_AT_ZERO, (~placed & (flags > 0)).any())
        self.count(Defect.HIDDEN_WITH_PLACE, (placed & (flags <= 0)).any())
        self.count(Defect.OTHER_VISIBILITY, (flags * (flags - 1) * (flags - 2)).any())
        self.count(Defect.WRONG_COUNT, told is not None and told != int((flags > 0).sum()))

    def count_outside(
        self, points: np.ndarray, box_xywh: np.ndarray, picture_wh: tuple[float, float]
    ) -> None:
        """Look at the labelled points [L, 2] of an annotation, and at its box as written."""
        self.used += 1
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        x, y, w, h = box_xywh.tolist()
        apart = (left - x, top - y, right - x - w, bottom - y - h)
        self.count(Defect.TIGHT_BOX, max(map(abs, apart)) <= TIGHT_PX)
        width, height = picture_wh
        inside = left >= 0 and top >= 0 and right <= width and bottom <= height
        self.count(Defect.OUTSIDE_PICTURE, not inside)

    def notes(self, source: str, total: int) -> list[str]:
        """Sentences, in a fixed order. A few tight boxes are chance, and not told."""
        return [
            f"{source}: {self.counts[defect]:,} of {total:,} annotations had {defect}"
            for defect in Defect
            if self.counts[defect] and (defect != Defect.TIGHT_BOX or self._mostly_tight())
        ]

    def _mostly_tight(self) -> bool:
        return 2 * self.counts[Defect.TIGHT_BOX] > self.used
