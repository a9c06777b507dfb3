"""What a run left of its course: numbers by epoch, numbers of the machine, images by epoch."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SYSTEM_METRICS_FILE = "system_metrics.jsonl"
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
    """An image of an epoch, such as `val/sample_predictions`."""

    path: Path
    name: str
    epoch: int


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
