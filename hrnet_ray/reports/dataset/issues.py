"""What in the labels deserves a look, by the names under which a person finds it again."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from hrnet_ray.data.records import Arrays

FEW_KEYPOINTS_LIMIT = 3
"""A pose with so many visible keypoints, or fewer, teaches little and scores by luck."""
OUTSIDE_TOLERANCE_PX = 1.0
"""Published boxes end one pixel early; a point must be further out than this to count."""
DUPLICATE_DISTANCE_FRAC = 0.03
"""Of the box's longer side: two poses that differ by less, on average, are one labelled twice."""


class IssueType(StrEnum):
    """Kinds of things to look at, the gravest first, as they are said everywhere."""

    UNREADABLE_IMAGE = "stored pictures that cannot be read"
    IMAGE_IN_OTHER_SPLIT = "pictures that are in another split, too"
    DUPLICATE_INSTANCE = "instances that are labelled twice"
    LEFT_RIGHT_SWAP = "poses in which left and right look exchanged"
    DUPLICATE_IMAGE = "pictures that are there under two names"
    NEAR_DUPLICATE_IN_OTHER_SPLIT = "pictures that look like one of another split"
    NEAR_DUPLICATE_IMAGE = "pictures that look like another one"
    KEYPOINT_NEVER_VISIBLE = "keypoints that are never visible"
    KEYPOINT_OUTSIDE_IMAGE = "points outside the picture, or too far from the box to be stored"
    KEYPOINT_OUTSIDE_BOX = "points outside their box"
    FEW_VISIBLE_KEYPOINTS = f"poses with {FEW_KEYPOINTS_LIMIT} visible keypoints or fewer"


class DatasetIssue(NamedTuple):
    """One thing that deserves a look."""

    row: int
    """Of its split; -1 where it is no row."""
    name: str
    """The file and the id by which a person finds an instance again."""
    detail: str = ""
    keypoints: tuple[int, ...] = ()
    similar_to: tuple[str, int] | None = None
    """Split and row of the instance that this one is like."""


IssuesByType = dict[IssueType, list[DatasetIssue]]


def format_instance_label(labels: Arrays, row: int) -> str:
    """`000012.jpg #34`."""
    return f"{labels['image'][row]} #{labels['id'][row]}"


def find_label_issues(
    split: str, labels: Arrays, stored_xywh: np.ndarray, keypoints: Sequence[str]
) -> IssuesByType:
    """What the labels of one split tell on their own.

    `stored_xywh` float64 [N, 4] is what of its picture each row keeps; NaN where it is unreadable.
    """
    xy, visible, box_xywh = labels["image_xy"], labels["visible"], labels["box_xywh"]
    never = np.flatnonzero(~visible.any(0)).tolist()
    return {
        IssueType.UNREADABLE_IMAGE: _build_pose_issues(labels, np.isnan(stored_xywh[:, 0])),
        IssueType.DUPLICATE_INSTANCE: list(_find_duplicate_instances(split, labels)),
        IssueType.KEYPOINT_NEVER_VISIBLE: [DatasetIssue(-1, keypoints[k]) for k in never],
        IssueType.KEYPOINT_OUTSIDE_IMAGE: _build_outside_keypoint_issues(
            labels, _compute_outside_px(xy, stored_xywh), keypoints
        ),
        IssueType.KEYPOINT_OUTSIDE_BOX: _build_outside_keypoint_issues(
            labels, _compute_outside_px(xy, box_xywh), keypoints
        ),
        IssueType.FEW_VISIBLE_KEYPOINTS: _build_pose_issues(
            labels, visible.sum(1) <= FEW_KEYPOINTS_LIMIT
        ),
    }


def _compute_outside_px(image_xy: np.ndarray, rect_xywh: np.ndarray) -> np.ndarray:
    """How many pixels points [N, K, 2] lie outside their rectangle [N, 4]; NaN where it is NaN."""
    low, high = rect_xywh[:, None, :2], rect_xywh[:, None, :2] + rect_xywh[:, None, 2:]
    return np.maximum(low - image_xy, image_xy - high).clip(min=0).max(-1)


def _build_pose_issues(labels: Arrays, is_suspect: np.ndarray) -> list[DatasetIssue]:
    return [
        DatasetIssue(row, format_instance_label(labels, row))
        for row in np.flatnonzero(is_suspect).tolist()
    ]


def _build_outside_keypoint_issues(
    labels: Arrays, outside_px: np.ndarray, keypoints: Sequence[str]
) -> list[DatasetIssue]:
    """Visible points that lie outside by more than the slack, the farthest first."""
    far = np.where(labels["visible"], np.nan_to_num(outside_px), 0)
    where = np.argwhere(far > OUTSIDE_TOLERANCE_PX)
    where = where[np.argsort(-far[far > OUTSIDE_TOLERANCE_PX], kind="stable")]
    return [
        DatasetIssue(
            row, format_instance_label(labels, row), f"{keypoints[k]} by {far[row, k]:.0f} px", (k,)
        )
        for row, k in where.tolist()
    ]


def _find_duplicate_instances(split: str, labels: Arrays) -> Iterator[DatasetIssue]:
    """Instances of one picture that lie where an earlier one lies, point for point."""
    _, picture = np.unique(labels["sha256"], return_inverse=True)
    order = np.argsort(picture, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(picture[order])) + 1):
        for at, row in enumerate(rows.tolist()):
            same = rows[:at][_find_near_instances(labels, row, rows[:at])]
            if len(same):
                said = f"as #{labels['id'][same[0]]}"
                yield DatasetIssue(
                    row, format_instance_label(labels, row), said, similar_to=(split, int(same[0]))
                )


def _find_near_instances(labels: Arrays, row: int, others: np.ndarray) -> np.ndarray:
    """Which `others` have nearly the same points; where too few are common, nearly the same box."""
    box_xywh, visible = labels["box_xywh"], labels["visible"]
    common = visible[others] & visible[row]
    apart = np.linalg.norm(labels["image_xy"][others] - labels["image_xy"][row], axis=-1)
    points = np.where(common, apart, 0).sum(1) / np.maximum(common.sum(1), 1)
    boxes = np.abs(box_xywh[others] - box_xywh[row]).max(1)
    far = np.where(common.sum(1) > FEW_KEYPOINTS_LIMIT, points, boxes)
    return far <= DUPLICATE_DISTANCE_FRAC * box_xywh[row, 2:].max()
