"""Log of a run's rows: their order in training, and the corrupt ones."""

import csv
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path

from hrnet_ray.data.manifest import SKIPPED_COLUMNS, DatasetManifest, read_split
from hrnet_ray.runs.event_log import ignore_write_errors
from hrnet_ray.text import escape_control_chars, escape_csv_cell

CHANGED_REASON = "changed since it was prepared"
"""Reason column of a row that training skipped."""
ROW_PREFIX = "row "
RowKey = tuple[str, int]
"""A split and a row id."""


class SampleLog:
    """Writes `dataset_report/skipped.csv` of a run, and `dataset_report/order/` if requested."""

    def __init__(self, manifest: DatasetManifest, run_folder: Path, *, log_sample_order: bool, active: bool) -> None:
        self._manifest, self._folder = manifest, run_folder / "dataset_report"
        self._log_sample_order, self._active = log_sample_order, active
        self._skipped_csv = self._folder / "skipped.csv"
        self._logged_rows = self._read_logged_rows()

    def log_order(self, seen_ids: Sequence[list[list[int]]], *, epoch: int) -> None:
        """Write the row ids of an epoch (from 1), one line per step over all ranks.

        `seen_ids` are the ids by rank, then by step.
        """
        if not (self._log_sample_order and self._active):
            return
        steps = (
            " ".join(str(id) for rank_ids in step_ids for id in rank_ids) for step_ids in zip(*seen_ids, strict=True)
        )
        path = self._folder / "order" / f"epoch_{epoch:04d}.txt"
        with ignore_write_errors(self._folder.parent, path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{step}\n" for step in steps), encoding="utf-8")

    def log_corrupt_rows(self, corrupt_rows: Set[RowKey]) -> tuple[int, list[str]]:
        """Count the corrupt rows of all ranks, and return the names of the new ones."""
        new = sorted(corrupt_rows - self._logged_rows) if self._active else []
        if not new:
            return len(corrupt_rows), []
        images = {split: self._read_image_names(split) for split in {split for split, _ in new}}
        with ignore_write_errors(self._folder.parent, self._skipped_csv.name):
            self._append_csv_rows(new, images)
            self._logged_rows |= set(new)  # after the write: unwritten rows stay new
        return len(corrupt_rows), [escape_control_chars(f"{split} {images[split][id]} #{id}") for split, id in new]

    def _append_csv_rows(self, new_rows: Sequence[RowKey], image_names: Mapping[str, Mapping[int, str]]) -> None:
        self._folder.mkdir(exist_ok=True)
        with self._skipped_csv.open("a", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            if not file.tell():
                table.writerow(SKIPPED_COLUMNS)
            for split, id in new_rows:
                table.writerow(
                    [
                        split,
                        escape_csv_cell(image_names[split][id]),
                        CHANGED_REASON,
                        f"{ROW_PREFIX}{id}",
                    ]
                )

    def _read_image_names(self, split: str) -> dict[int, str]:
        table = read_split(self._manifest, split, columns=["id", "image"])
        return dict(zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True))

    def _read_logged_rows(self) -> set[RowKey]:
        if not self._skipped_csv.is_file():
            return set()
        logged = set()
        with self._skipped_csv.open(newline="", encoding="utf-8", errors="replace") as file:
            for line in csv.DictReader(file):
                with suppress(KeyError, ValueError, AttributeError):  # a crash truncated it
                    if line["reason"] == CHANGED_REASON:
                        logged.add((line["split"], int(line["detail"].removeprefix(ROW_PREFIX))))
        return logged
