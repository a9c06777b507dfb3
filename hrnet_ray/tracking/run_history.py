"""What a run left of its course: numbers by epoch, numbers of the machine, pictures by epoch."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS, SYSTEM = "metrics.jsonl", "system.jsonl"
_EPOCH = re.compile(r"^epoch_(\d+)\.(jpg|png)$")


@dataclass(frozen=True)
class Point:
    """One number at one step."""

    name: str
    value: float
    step: int
    at_ms: int


@dataclass(frozen=True)
class Picture:
    """A picture of an epoch, such as `val/fixed16`."""

    path: Path
    name: str
    epoch: int


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """The recorded epochs in order; one that was done twice after a crash counts as done last."""
    by_epoch: dict[int, dict[str, Any]] = {}
    for entry in read_lines(folder / METRICS):
        if isinstance(entry.get("epoch"), int):
            by_epoch[entry["epoch"]] = entry
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that grows line by line; a line that a crash cut short is none."""
    if not path.is_file():
        return []
    return list(_objects(path.read_text(encoding="utf-8", errors="replace")))


def points_of(entry: dict[str, Any], *, step: int) -> list[Point]:
    """The numbers of a line: what has a group, such as `val/OKS_AP`."""
    return [
        Point(name, float(value), step, entry.get("at_ms", 0))
        for name, value in entry.items()
        if "/" in name and isinstance(value, int | float)
    ]


def finite(point: Point) -> Point:
    """MLflow keeps NaN, but makes an infinite number the largest one that it has."""
    if math.isinf(point.value):
        return Point(point.name, math.nan, point.step, point.at_ms)
    return point


def pictures_of(folder: Path) -> list[Picture]:
    """What was drawn after each epoch: `plots/NAME/epoch_0007.jpg`."""
    return [
        Picture(path, f"val/{path.parent.name}", int(found[1]))
        for path in sorted((folder / "plots").glob("*/epoch_*"))
        if (found := _EPOCH.match(path.name))
    ]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry
