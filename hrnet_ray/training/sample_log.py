"""What a run says of its rows: which it met in which order, and which it had to skip."""

import csv
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path

from hrnet_ray.data.manifest import SKIPPED, Manifest, read_table
from hrnet_ray.runs.event_log import tolerated
from hrnet_ray.text import cell, printable

CHANGED = "changed since it was prepared"
ROW = "row "
Row = tuple[str, int]
"""A split, and the id of one of its rows."""


class Ledger:
    """Adds to `data/skipped.csv` of a run folder; keeps `data/order/` where that is asked for."""

    def __init__(
        self, manifest: Manifest, run_folder: Path, *, write_order: bool, active: bool
    ) -> None:
        self._manifest, self._folder = manifest, run_folder / "data"
        self._write_order, self._active = write_order, active
        self._skipped = self._folder / "skipped.csv"
        self._named = self._already_named()

    def order(self, met: Sequence[list[list[int]]], *, epoch: int) -> None:
        """Note what every worker met (by rank, then by step): a line for each step of all."""
        if not (self._write_order and self._active):
            return
        steps = (
            " ".join(str(id) for part in parts for id in part) for parts in zip(*met, strict=True)
        )
        path = self._folder / "order" / f"epoch_{epoch:04d}.txt"
        with tolerated(self._folder.parent, path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{step}\n" for step in steps), encoding="utf-8")

    def skipped(self, rotten: Set[Row]) -> tuple[int, list[str]]:
        """Count the rows that all workers together could not read; name those that are new."""
        new = sorted(rotten - self._named) if self._active else []
        if not new:
            return len(rotten), []
        images = {split: self._images(split) for split in {split for split, _ in new}}
        with tolerated(self._folder.parent, self._skipped.name):
            self._write(new, images)
            self._named |= set(new)  # otherwise they are new again in the next epoch
        return len(rotten), [printable(f"{split} {images[split][id]} #{id}") for split, id in new]

    def _write(self, new: Sequence[Row], images: Mapping[str, Mapping[int, str]]) -> None:
        self._folder.mkdir(exist_ok=True)
        with self._skipped.open("a", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            if not file.tell():
                table.writerow(SKIPPED)
            for split, id in new:
                table.writerow([split, cell(images[split][id]), CHANGED, f"{ROW}{id}"])

    def _images(self, split: str) -> dict[int, str]:
        table = read_table(self._manifest, split, columns=["id", "image"])
        return dict(zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True))

    def _already_named(self) -> set[Row]:
        if not self._skipped.is_file():
            return set()
        named = set()
        with self._skipped.open(newline="", encoding="utf-8", errors="replace") as file:
            for line in csv.DictReader(file):
                with suppress(KeyError, ValueError, AttributeError):  # a crash cut it short
                    if line["reason"] == CHANGED:
                        named.add((line["split"], int(line["detail"].removeprefix(ROW))))
        return named
