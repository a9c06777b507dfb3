"""The dataset report as one HTML page (templates/dataset.html)."""

from collections.abc import Mapping, Sequence

from hrnet_ray.data.batch import AugmentationPipelineConfig
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.reports.dataset.issues import IssueType
from hrnet_ray.reports.dataset.left_right_swaps import MIN_POSES
from hrnet_ray.reports.dataset.sample_grids import ReportTile
from hrnet_ray.reports.dataset.statistics import DatasetStatistics
from hrnet_ray.reports.page_renderer import render_template

MAX_EXAMPLES = 12
"""Items of one kind that the page lists; the CSV files beside it list all."""
TILE_JPEG_QUALITY = 88

ISSUE_EXPLANATIONS = {
    IssueType.UNREADABLE_IMAGE: "Training skips them. Prepare the dataset again from intact files.",
    IssueType.IMAGE_IN_OTHER_SPLIT: "Identical bytes. They inflate scores: keep them in one split.",
    IssueType.DUPLICATE_INSTANCE: "Two poses of an image nearly coincide. Delete one.",
    IssueType.LEFT_RIGHT_SWAP: "Compared with all other poses. Legs may cross.",
    IssueType.DUPLICATE_IMAGE: "Identical bytes. They count twice.",
    IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT: "The next video frame, or a resized copy.",
    IssueType.NEAR_DUPLICATE_IMAGE: "Harmless, but the split has fewer distinct images.",
    IssueType.KEYPOINT_NEVER_VISIBLE: "They are neither trained nor scored.",
    IssueType.KEYPOINT_OUTSIDE_IMAGE: "A labelling mistake, or a pose that is cut off.",
    IssueType.KEYPOINT_OUTSIDE_BOX: "A few are usual. Many or distant ones cut off limbs.",
    IssueType.FEW_VISIBLE_KEYPOINTS: "They add little to training, and their scores are noisy.",
}

BAR_CHARTS = (
    "visible_per_keypoint",
    "poses_per_visible_count",
    "box_size_px_histogram",
    "aspect_ratio_histogram",
)
"""Fields of SplitStatistics that the page shows as a bar table."""


def render_page(
    manifest: DatasetManifest,
    statistics: DatasetStatistics,
    tiles_by_grid: Mapping[str, Sequence[ReportTile]],
    pipeline_config: AugmentationPipelineConfig,
    sigma: float,
) -> str:
    """Return the whole page.

    `tiles_by_grid` holds the tiles of `samples`, `samples_augmented` and `issues`; `sigma` is the
    heatmap sigma in cells.
    """
    splits, found_issues = statistics.splits, list(statistics.count_issues())
    return render_template(
        "dataset.html",
        title=f"{manifest.name} - dataset report",
        manifest=manifest,
        splits=splits,
        split_totals={name: split.rows_used for name, split in splits.items()},
        skip_reasons=list(dict.fromkeys(reason for split in splits.values() for reason in split.skip_reason_counts)),
        found_issues=found_issues,
        clear_issues=[issue for issue in IssueType if issue not in found_issues],
        explanations=ISSUE_EXPLANATIONS,
        max_examples=MAX_EXAMPLES,
        tiles={
            grid: [(codec.encode_jpeg(tile.image, quality=TILE_JPEG_QUALITY), tile.caption) for tile in tiles]
            for grid, tiles in tiles_by_grid.items()
        },
        charts={chart: {name: getattr(split, chart) for name, split in splits.items()} for chart in BAR_CHARTS},
        left_right_pairs=statistics.left_right_pairs,
        skeleton_warnings=statistics.skeleton_warnings,
        min_poses=MIN_POSES,
        pipeline_config=pipeline_config,
        sigma=sigma,
    )
