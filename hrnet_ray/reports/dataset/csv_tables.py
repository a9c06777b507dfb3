"""The tables beside the data report, fit for a spreadsheet."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from hrnet_ray.data.manifest import SKIPPED
from hrnet_ray.reports.dataset.statistics import Counts, SplitCounts
from hrnet_ray.text import cell


def write_counts(counts: Counts, path: Path) -> None:
    """All figures, one a line: split, what, which, count."""
    lines = [
        (name, what, which, number)
        for name, split in counts.splits.items()
        for what, which, number in _figures(split)
    ]
    for pair in counts.pairs:
        lines.append(("all", "pairs shown whole", pair.name, pair.whole))
        if pair.told is not None:
            lines.append(("all", "pairs told left from right", pair.name, pair.told))
        lines.append(("all", "pairs that look exchanged", pair.name, pair.exchanged))
    _write(path, ("split", "what", "which", "count"), lines)


def _figures(split: SplitCounts) -> Iterator[tuple[str, str, int]]:
    yield "instances", "read", split.read
    yield "instances", "used", split.used
    for reason, number in split.reasons.items():
        yield "skipped", reason, number
    yield "pictures", "used", split.pictures
    yield "points", "visible", split.points
    for kind, spots in split.findings.items():
        yield "worth a look", kind, len(spots)
    tables = {
        "visible": split.shown,
        "visible keypoints a pose": split.per_pose,
        "box px": split.box_px,
        "box width / height": split.aspect,
    }
    for what, table in tables.items():
        for which, number in table.items():
            yield what, which, number


def write_suspects(counts: Counts, path: Path) -> None:
    """Everything that deserves a look, one thing a line."""
    lines = [
        (name, kind, spot.name, spot.detail)
        for name, split in counts.splits.items()
        for kind, spots in split.findings.items()
        for spot in spots
    ]
    _write(path, ("split", "what", "item", "detail"), lines)


def write_skipped(counts: Counts, path: Path) -> None:
    """Everything that was left out when the data was prepared, one thing a line."""
    lines = [(name, *thing) for name, split in counts.splits.items() for thing in split.skipped]
    _write(path, SKIPPED, lines)


def _write(path: Path, heads: tuple[str, ...], lines: Iterable[tuple[str | int, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(heads)
        table.writerows([cell(x) if isinstance(x, str) else x for x in line] for line in lines)
