"""Possible issues of a dataset, and those that the labels alone show."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from hrnet_ray.data.records import Arrays

FEW_KEYPOINTS_LIMIT = 3
"""Largest number of visible keypoints of a reported pose: it adds little to training."""
OUTSIDE_TOLERANCE_PX = 1.0
"""Largest distance in pixels that is ignored, because published boxes end one pixel early."""
DUPLICATE_DISTANCE_FRAC = 0.03
"""Largest mean keypoint distance of duplicate poses, as a fraction of the longer box side."""


class IssueType(StrEnum):
    """Kinds of issues, the most severe first; the value is the text of every report."""

    UNREADABLE_IMAGE = "stored images that cannot be read"
    IMAGE_IN_OTHER_SPLIT = "images that are also in another split"
    DUPLICATE_INSTANCE = "instances that are labelled twice"
    LEFT_RIGHT_SWAP = "poses whose left and right look swapped"
    DUPLICATE_IMAGE = "images stored under two names"
    NEAR_DUPLICATE_IN_OTHER_SPLIT = "images that look like one of another split"
    NEAR_DUPLICATE_IMAGE = "images that look like another one"
    KEYPOINT_NEVER_VISIBLE = "keypoints that are never visible"
    KEYPOINT_OUTSIDE_IMAGE = "keypoints outside the image, or too far from the box to be stored"
    KEYPOINT_OUTSIDE_BOX = "keypoints outside their box"
    FEW_VISIBLE_KEYPOINTS = f"poses with {FEW_KEYPOINTS_LIMIT} visible keypoints or fewer"


class DatasetIssue(NamedTuple):
    """One possible issue of one row."""

    row: int
    """Row of the split; -1 if the issue concerns no single row."""
    name: str
    """File name, and id of the instance."""
    detail: str = ""
    keypoints: tuple[int, ...] = ()
    similar_to: tuple[str, int] | None = None
    """Split and row of the similar instance."""

    @property
    def label(self) -> str:
        """Name and detail: `000012.jpg #34: left_paw by 4 px`."""
        return f"{self.name}: {self.detail}" if self.detail else self.name


IssuesByType = dict[IssueType, list[DatasetIssue]]


def format_instance_label(labels: Arrays, row: int) -> str:
    """Format image name and id: `000012.jpg #34`."""
    return f"{labels['image'][row]} #{labels['id'][row]}"


def find_label_issues(split: str, labels: Arrays, stored_xywh: np.ndarray, keypoints: Sequence[str]) -> IssuesByType:
    """Find the issues that the labels of one split show without any other split.

    `stored_xywh` float64 [N, 4] is the stored region of each row; NaN if the image is unreadable.
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
        IssueType.FEW_VISIBLE_KEYPOINTS: _build_pose_issues(labels, visible.sum(1) <= FEW_KEYPOINTS_LIMIT),
    }


def _compute_outside_px(image_xy: np.ndarray, rect_xywh: np.ndarray) -> np.ndarray:
    """Compute the pixels by which points [N, K, 2] lie outside rectangles [N, 4]; NaN stays NaN."""
    low, high = rect_xywh[:, None, :2], rect_xywh[:, None, :2] + rect_xywh[:, None, 2:]
    return np.maximum(low - image_xy, image_xy - high).clip(min=0).max(-1)


def _build_pose_issues(labels: Arrays, is_suspect: np.ndarray) -> list[DatasetIssue]:
    return [DatasetIssue(row, format_instance_label(labels, row)) for row in np.flatnonzero(is_suspect).tolist()]


def _build_outside_keypoint_issues(
    labels: Arrays, outside_px: np.ndarray, keypoints: Sequence[str]
) -> list[DatasetIssue]:
    """Build issues for visible keypoints beyond the tolerance, the farthest first."""
    distance = np.where(labels["visible"], np.nan_to_num(outside_px), 0)
    is_outside = distance > OUTSIDE_TOLERANCE_PX
    outside = np.argwhere(is_outside)[np.argsort(-distance[is_outside], kind="stable")]
    return [
        DatasetIssue(
            row,
            format_instance_label(labels, row),
            f"{keypoints[k]} by {distance[row, k]:.0f} px",
            (k,),
        )
        for row, k in outside.tolist()
    ]


def _find_duplicate_instances(split: str, labels: Arrays) -> Iterator[DatasetIssue]:
    """Find instances whose keypoints match those of an earlier instance of the same image."""
    _, image = np.unique(labels["sha256"], return_inverse=True)
    order = np.argsort(image, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(image[order])) + 1):
        for index, row in enumerate(rows.tolist()):
            same = rows[:index][_find_near_instances(labels, row, rows[:index])]
            if len(same):
                yield DatasetIssue(
                    row,
                    format_instance_label(labels, row),
                    f"as #{labels['id'][same[0]]}",
                    similar_to=(split, int(same[0])),
                )


def _find_near_instances(labels: Arrays, row: int, others: np.ndarray) -> np.ndarray:
    """Compare keypoints with `others`, or boxes if few keypoints are common; returns bool [M]."""
    box_xywh, visible = labels["box_xywh"], labels["visible"]
    common = visible[others] & visible[row]
    distance = np.linalg.norm(labels["image_xy"][others] - labels["image_xy"][row], axis=-1)
    keypoint_distance = np.where(common, distance, 0).sum(1) / np.maximum(common.sum(1), 1)
    box_distance = np.abs(box_xywh[others] - box_xywh[row]).max(1)
    is_enough = common.sum(1) > FEW_KEYPOINTS_LIMIT
    return np.where(is_enough, keypoint_distance, box_distance) <= DUPLICATE_DISTANCE_FRAC * box_xywh[row, 2:].max()
