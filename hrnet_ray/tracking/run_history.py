"""What a run left of its course: numbers by epoch, numbers of the machine, pictures by epoch."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS_FILE, SYSTEM_METRICS_FILE = "metrics.jsonl", "system_metrics.jsonl"
_EPOCH_IMAGE_PATTERN = re.compile(r"^epoch_(\d+)\.(jpg|png)$")


@dataclass(frozen=True)
class MetricPoint:
    """One number at one step."""

    name: str
    value: float
    step: int
    at_ms: int


@dataclass(frozen=True)
class EpochImage:
    """A picture of an epoch, such as `val/sample_predictions`."""

    path: Path
    name: str
    epoch: int


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The recorded epochs in order; one that was done twice after a crash counts as done last."""
    by_epoch: dict[int, dict[str, Any]] = {}
    for entry in read_jsonl(folder / METRICS_FILE):
        if isinstance(entry.get("epoch"), int):
            by_epoch[entry["epoch"]] = entry
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that grows line by line; a line that a crash cut short is none."""
    if not path.is_file():
        return []
    return list(_iter_json_objects(path.read_text(encoding="utf-8", errors="replace")))


def extract_metric_points(entry: dict[str, Any], *, step: int) -> list[MetricPoint]:
    """The numbers of a line: what has a group, such as `val/OKS_AP`."""
    return [
        MetricPoint(name, float(value), step, entry.get("at_ms", 0))
        for name, value in entry.items()
        if "/" in name and isinstance(value, int | float)
    ]


def replace_inf_with_nan(point: MetricPoint) -> MetricPoint:
    """MLflow keeps NaN, but makes an infinite number the largest one that it has."""
    if math.isinf(point.value):
        return MetricPoint(point.name, math.nan, point.step, point.at_ms)
    return point


def find_epoch_images(folder: Path) -> list[EpochImage]:
    """What was drawn after each epoch: `plots/NAME/epoch_0007.jpg`."""
    return [
        EpochImage(path, f"val/{path.parent.name}", int(found[1]))
        for path in sorted((folder / "plots").glob("*/epoch_*"))
        if (found := _EPOCH_IMAGE_PATTERN.match(path.name))
    ]


def _iter_json_objects(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry
