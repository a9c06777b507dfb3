"""The tables beside the data report, fit for a spreadsheet."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from hrnet_ray.data.manifest import SKIPPED_COLUMNS
from hrnet_ray.reports.dataset.statistics import DatasetStatistics, SplitStatistics
from hrnet_ray.text import escape_csv_cell


def write_statistics_csv(statistics: DatasetStatistics, path: Path) -> None:
    """All figures, one a line: split, what, which, count."""
    lines = [
        (name, what, which, number)
        for name, split in statistics.splits.items()
        for what, which, number in _iter_statistics_rows(split)
    ]
    for pair in statistics.left_right_pairs:
        lines.append(("all", "pairs shown whole", pair.name, pair.num_complete))
        if pair.num_decided is not None:
            lines.append(("all", "pairs told left from right", pair.name, pair.num_decided))
        lines.append(("all", "pairs that look exchanged", pair.name, pair.num_swapped))
    _write_csv_file(path, ("split", "what", "which", "count"), lines)


def _iter_statistics_rows(split: SplitStatistics) -> Iterator[tuple[str, str, int]]:
    yield "instances", "read", split.rows_read
    yield "instances", "used", split.rows_used
    for reason, number in split.skip_reason_counts.items():
        yield "skipped", reason, number
    yield "pictures", "used", split.num_images
    yield "points", "visible", split.num_visible_keypoints
    for kind, spots in split.issues.items():
        yield "worth a look", kind, len(spots)
    tables = {
        "visible": split.visible_per_keypoint,
        "visible keypoints a pose": split.poses_per_visible_count,
        "box px": split.box_size_px_histogram,
        "box width / height": split.aspect_ratio_histogram,
    }
    for what, table in tables.items():
        for which, number in table.items():
            yield what, which, number


def write_issues_csv(statistics: DatasetStatistics, path: Path) -> None:
    """Everything that deserves a look, one thing a line."""
    lines = [
        (name, kind, spot.name, spot.detail)
        for name, split in statistics.splits.items()
        for kind, spots in split.issues.items()
        for spot in spots
    ]
    _write_csv_file(path, ("split", "what", "item", "detail"), lines)


def write_skipped_csv(statistics: DatasetStatistics, path: Path) -> None:
    """Everything that was left out when the data was prepared, one thing a line."""
    lines = [
        (name, *thing) for name, split in statistics.splits.items() for thing in split.skipped_rows
    ]
    _write_csv_file(path, SKIPPED_COLUMNS, lines)


def _write_csv_file(
    path: Path, column_names: tuple[str, ...], csv_rows: Iterable[tuple[str | int, ...]]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(column_names)
        table.writerows(
            [escape_csv_cell(x) if isinstance(x, str) else x for x in line] for line in csv_rows
        )
