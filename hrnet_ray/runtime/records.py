"""What the workers report, kept as one line an epoch in the run's `metrics.jsonl`."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.train import Checkpoint, UserCallback


class RecordEpochs(UserCallback):
    """Writes what the workers report into the run's `metrics.jsonl`. Lives on the controller."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        append_epoch(self.run_folder, metrics[0])  # rank 0 scored for all


def append_epoch(run_folder: Path, metrics: Mapping[str, Any]) -> None:
    """Add one line; a line is one write, so a reader never sees half of it for long."""
    line = json.dumps(dict(metrics) | {"at_ms": int(time.time() * 1000)})
    with (run_folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_epochs(run_folder: Path) -> list[dict[str, Any]]:
    """The recorded epochs in order; one that was done twice after a crash counts as done last."""
    path = run_folder / "metrics.jsonl"
    if not path.is_file():
        return []
    by_epoch: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line that a crash cut short; its epoch is done again
        by_epoch[entry["epoch"]] = entry
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]
