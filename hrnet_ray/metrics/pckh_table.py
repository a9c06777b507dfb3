"""Results table of MPII papers."""

from collections.abc import Mapping

from hrnet_ray.metrics.keypoint_metrics import PCKh
from hrnet_ray.skeletons import Skeleton

PCKH_TABLE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Head": ("head_top",),
    "Shoulder": ("left_shoulder", "right_shoulder"),
    "Elbow": ("left_elbow", "right_elbow"),
    "Wrist": ("left_wrist", "right_wrist"),
    "Hip": ("left_hip", "right_hip"),
    "Knee": ("left_knee", "right_knee"),
    "Ankle": ("left_ankle", "right_ankle"),
}
"""Keypoints of each column, averaged with equal weights. The upper neck is in the mean only."""


def compute_mpii_pckh_table(pckh_at_half: PCKh, pckh_at_legacy: PCKh, skeleton: Skeleton) -> dict[str, float] | None:
    """Build the PCKh table in percent; None if the skeleton lacks a keypoint of the table.

    `pckh_at_half` has threshold 0.5. `pckh_at_legacy` has threshold 0.11: published code computes
    the column "Mean@0.1" at 0.11.
    """
    index_of = {name: index for index, name in enumerate(skeleton.keypoints)}
    if not all(name in index_of for names in PCKH_TABLE_COLUMNS.values() for name in names):
        return None
    pckh = pckh_at_half.per_keypoint()
    parts = {
        column: 100 * pckh[[index_of[name] for name in names]].mean().item()
        for column, names in PCKH_TABLE_COLUMNS.items()
    }
    return {**parts, "Mean": 100 * pckh_at_half.mean(), "Mean@0.1": 100 * pckh_at_legacy.mean()}
