"""CSV tables beside the dataset report, safe to open in a spreadsheet."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from hrnet_ray.data.manifest import SKIPPED_COLUMNS
from hrnet_ray.reports.dataset.statistics import DatasetStatistics, SplitStatistics
from hrnet_ray.text import escape_csv_cell


def write_statistics_csv(statistics: DatasetStatistics, path: Path) -> None:
    """Write all counts, one per line: split, what, which, count."""
    lines = [
        (name, what, which, number)
        for name, split in statistics.splits.items()
        for what, which, number in _iter_statistics_rows(split)
    ]
    for pair in statistics.left_right_pairs:
        lines.append(("all", "pairs both visible", pair.name, pair.num_complete))
        if pair.num_decided is not None:
            lines.append(("all", "pairs decided", pair.name, pair.num_decided))
        lines.append(("all", "pairs that look swapped", pair.name, pair.num_swapped))
    _write_csv_file(path, ("split", "what", "which", "count"), lines)


def _iter_statistics_rows(split: SplitStatistics) -> Iterator[tuple[str, str, int]]:
    yield "instances", "read", split.rows_read
    yield "instances", "used", split.rows_used
    for reason, number in split.skip_reason_counts.items():
        yield "skipped", reason, number
    yield "images", "used", split.num_images
    yield "keypoints", "visible", split.num_visible_keypoints
    for kind, issues in split.issues.items():
        yield "issues", kind, len(issues)
    tables = {
        "visible": split.visible_per_keypoint,
        "visible keypoints per pose": split.poses_per_visible_count,
        "box px": split.box_size_px_histogram,
        "box width / height": split.aspect_ratio_histogram,
    }
    for what, table in tables.items():
        for which, number in table.items():
            yield what, which, number


def write_issues_csv(statistics: DatasetStatistics, path: Path) -> None:
    """Write all possible issues, one per line."""
    lines = [
        (name, kind, issue.name, issue.detail)
        for name, split in statistics.splits.items()
        for kind, issues in split.issues.items()
        for issue in issues
    ]
    _write_csv_file(path, ("split", "what", "item", "detail"), lines)


def write_skipped_csv(statistics: DatasetStatistics, path: Path) -> None:
    """Write all rows that `prepare` skipped, one per line."""
    lines = [(name, *row) for name, split in statistics.splits.items() for row in split.skipped_rows]
    _write_csv_file(path, SKIPPED_COLUMNS, lines)


def _write_csv_file(path: Path, column_names: tuple[str, ...], csv_rows: Iterable[tuple[str | int, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(column_names)
        table.writerows([escape_csv_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in csv_rows)
