"""What in the labels deserves a look, by the names under which a person finds it again."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from hrnet_ray.data.records import Arrays

FEW_KEYPOINTS = 3
"""A pose with so many visible keypoints, or fewer, teaches little and scores by luck."""
SLACK_PX = 1.0
"""Published boxes end one pixel early; a point must be further out than this to count."""
TWIN = 0.03
"""Of the box's longer side: two poses that differ by less, on average, are one labelled twice."""


class Kind(StrEnum):
    """Kinds of things to look at, the gravest first, as they are said everywhere."""

    UNREADABLE = "stored pictures that cannot be read"
    IN_BOTH = "pictures that are in another split, too"
    TWINS = "instances that are labelled twice"
    EXCHANGED = "poses in which left and right look exchanged"
    COPIES = "pictures that are there under two names"
    LIKE_OTHER = "pictures that look like one of another split"
    ALIKE = "pictures that look like another one"
    NEVER = "keypoints that are never visible"
    OUTSIDE_PICTURE = "points outside the picture, or too far from the box to be stored"
    OUTSIDE_BOX = "points outside their box"
    FEW = f"poses with {FEW_KEYPOINTS} visible keypoints or fewer"


class Spot(NamedTuple):
    """One thing that deserves a look."""

    row: int
    """Of its split; -1 where it is no row."""
    name: str
    """The file and the id by which a person finds an instance again."""
    detail: str = ""
    keypoints: tuple[int, ...] = ()
    other: tuple[str, int] | None = None
    """Split and row of the instance that this one is like."""


Findings = dict[Kind, list[Spot]]


def pose_name(labels: Arrays, row: int) -> str:
    """`000012.jpg #34`."""
    return f"{labels['image'][row]} #{labels['id'][row]}"


def of_labels(
    split: str, labels: Arrays, stored_xywh: np.ndarray, keypoints: Sequence[str]
) -> Findings:
    """What the labels of one split tell on their own.

    `stored_xywh` float64 [N, 4] is what of its picture each row keeps; NaN where it is unreadable.
    """
    xy, visible, box_xywh = labels["image_xy"], labels["visible"], labels["box_xywh"]
    never = np.flatnonzero(~visible.any(0)).tolist()
    return {
        Kind.UNREADABLE: _poses(labels, np.isnan(stored_xywh[:, 0])),
        Kind.TWINS: list(_twins(split, labels)),
        Kind.NEVER: [Spot(-1, keypoints[k]) for k in never],
        Kind.OUTSIDE_PICTURE: _points(labels, _beyond(xy, stored_xywh), keypoints),
        Kind.OUTSIDE_BOX: _points(labels, _beyond(xy, box_xywh), keypoints),
        Kind.FEW: _poses(labels, visible.sum(1) <= FEW_KEYPOINTS),
    }


def _beyond(xy: np.ndarray, xywh: np.ndarray) -> np.ndarray:
    """How many pixels points [N, K, 2] lie outside their rectangle [N, 4]; NaN where it is NaN."""
    low, high = xywh[:, None, :2], xywh[:, None, :2] + xywh[:, None, 2:]
    return np.maximum(low - xy, xy - high).clip(min=0).max(-1)


def _poses(labels: Arrays, suspect: np.ndarray) -> list[Spot]:
    return [Spot(row, pose_name(labels, row)) for row in np.flatnonzero(suspect).tolist()]


def _points(labels: Arrays, beyond: np.ndarray, keypoints: Sequence[str]) -> list[Spot]:
    """Visible points that lie outside by more than the slack, the farthest first."""
    far = np.where(labels["visible"], np.nan_to_num(beyond), 0)
    where = np.argwhere(far > SLACK_PX)
    where = where[np.argsort(-far[far > SLACK_PX], kind="stable")]
    return [
        Spot(row, pose_name(labels, row), f"{keypoints[k]} by {far[row, k]:.0f} px", (k,))
        for row, k in where.tolist()
    ]


def _twins(split: str, labels: Arrays) -> Iterator[Spot]:
    """Instances of one picture that lie where an earlier one lies, point for point."""
    _, picture = np.unique(labels["sha256"], return_inverse=True)
    order = np.argsort(picture, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(picture[order])) + 1):
        for at, row in enumerate(rows.tolist()):
            same = rows[:at][_near(labels, row, rows[:at])]
            if len(same):
                said = f"as #{labels['id'][same[0]]}"
                yield Spot(row, pose_name(labels, row), said, other=(split, int(same[0])))


def _near(labels: Arrays, row: int, others: np.ndarray) -> np.ndarray:
    """Which `others` have nearly the same points; where too few are common, nearly the same box."""
    box_xywh, visible = labels["box_xywh"], labels["visible"]
    common = visible[others] & visible[row]
    apart = np.linalg.norm(labels["image_xy"][others] - labels["image_xy"][row], axis=-1)
    points = np.where(common, apart, 0).sum(1) / np.maximum(common.sum(1), 1)
    boxes = np.abs(box_xywh[others] - box_xywh[row]).max(1)
    far = np.where(common.sum(1) > FEW_KEYPOINTS, points, boxes)
    return far <= TWIN * box_xywh[row, 2:].max()
