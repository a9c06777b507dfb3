"""The table that every MPII paper prints."""

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
"""Left and right count alike, however often each is seen. The upper neck is in the mean only."""


def compute_mpii_pckh_table(
    pckh_at_half: PCKh, pckh_at_legacy: PCKh, skeleton: Skeleton
) -> dict[str, float] | None:
    """PCKh in percent, in the paper's columns; None for a skeleton that is no person's.

    `half` is taken at 0.5 and `legacy` at 0.11: the column "Mean@0.1" has always been that.
    """
    place = {name: at for at, name in enumerate(skeleton.keypoints)}
    if not all(name in place for names in PCKH_TABLE_COLUMNS.values() for name in names):
        return None
    share = pckh_at_half.per_keypoint()
    parts = {
        column: 100 * share[[place[name] for name in names]].mean().item()
        for column, names in PCKH_TABLE_COLUMNS.items()
    }
    return {**parts, "Mean": 100 * pckh_at_half.mean(), "Mean@0.1": 100 * pckh_at_legacy.mean()}
