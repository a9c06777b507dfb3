"""Parquet shards into the object store, once, by Ray Data. Each stage names a pure function.

What is stored is what no chance has touched: canvases for training, crops for validation, or the
pictures' bytes where the canvases would not fit. Every epoch, every worker and every trial of a
sweep reads this one copy (runtime/feed.py).
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset
from ray.exceptions import RayError

from hrnet_ray.config import DataConfig
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.data.records import Arrays, checked, decode_exact, decode_rows
from hrnet_ray.errors import ClusterError, DataError

DECODE_ROWS = 32
"""Rows that one call decodes: about 16 MB of 416 px canvases."""
CACHE_SHARE = 0.4
"""Of the object store; the rest is for what trials and Ray itself keep there."""
SPEAK_S = 5.0
"""Reading that takes longer than this is told of."""


class LostRows(ClusterError):
    """Stored rows went with the node that held them; reading the shards again brings them back."""


@dataclass(frozen=True)
class Stored:
    """The rows of a split in the object store, in the order of the shards."""

    blocks: list[Any]
    """Refs of Arrow tables."""
    sizes: list[int]
    """Rows of each."""
    decoded: bool
    """Canvases or crops; else the pictures' bytes, to be decoded by whoever takes them."""

    @property
    def rows(self) -> int:
        return sum(self.sizes)


def load(manifest: Manifest, data: DataConfig, *, decoded: bool | None = None) -> dict[str, Stored]:
    """Read both splits into the object store: decoded where that fits, unless told otherwise.

    Raises:
        DataError: a shard is damaged so badly that its rows cannot be told apart.
    """
    if decoded is None:
        decoded = _fits(manifest, data)
    plans = {
        "train": partial(_canvases, canvas_px=manifest.canvas_px),
        "val": partial(_crops, input_hw=data.input_hw, padding=data.padding),
    }
    return {
        split: _stored(manifest, split, as_decoded if decoded else _as_they_are, decoded=decoded)
        for split, as_decoded in plans.items()
    }


def _canvases(table: pa.Table, *, canvas_px: int) -> Arrays:
    return decode_rows(checked(table), canvas_px=canvas_px)


def _crops(table: pa.Table, *, input_hw: tuple[int, int], padding: float) -> Arrays:
    return decode_exact(checked(table), input_hw=input_hw, padding=padding)


def _as_they_are(table: pa.Table) -> pa.Table:
    return checked(table).drop_columns(["sha256", "stored_sha256"])


def _fits(manifest: Manifest, data: DataConfig) -> bool:
    """Whether the decoded rows have room in the object store; says so where they have not."""
    height, width = data.input_hw
    wanted = manifest.splits["train"].rows * manifest.canvas_px**2 * 3
    wanted += manifest.splits["val"].rows * height * width * 3
    room = ray.cluster_resources().get("object_store_memory", 0) * CACHE_SHARE
    if wanted <= room:
        return True
    print(
        f"data: decoded it would take {wanted / 1e9:.1f} GB of an object store with room for "
        f"{room / 1e9:.1f} GB; so each epoch decodes it anew",
        flush=True,
    )
    return False


def _stored(manifest: Manifest, split: str, make: Callable, *, decoded: bool) -> Stored:
    blocks, sizes = [], []
    count = _Counter(split, manifest.splits[split].rows)
    try:
        for block, rows in _blocks(_planned(manifest, split, make)):
            blocks.append(block)
            sizes.append(rows)
            count(rows)
    except (RayError, pa.ArrowException, OSError) as error:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1:]
        raise DataError(
            f"shards of {split} that cannot be read",
            f"{manifest.root}: {' '.join(reason)[:200]}",
            f"`hrnet-ray check {manifest.root}` names them; copy them again, or prepare them again",
        ) from error
    assert sum(sizes) == manifest.splits[split].rows, f"rows of {split} were lost on the way"
    return Stored(blocks, sizes, decoded)


def _planned(manifest: Manifest, split: str, make: Callable) -> Dataset:
    files = manifest.files(split)
    read = ray.data.read_parquet(
        files, filesystem=manifest.folder.files, override_num_blocks=len(files)
    )
    return read.map_batches(make, batch_format="pyarrow", batch_size=DECODE_ROWS)


def _blocks(plan: Dataset) -> Any:
    """Refs and row counts of a dataset's blocks, in order, as they are made."""
    for bundle in plan.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            yield entry.ref, entry.metadata.num_rows


class _Counter:
    """Tells how far the reading is, when it is long."""

    def __init__(self, split: str, rows: int) -> None:
        self.split, self.rows, self.done = split, rows, 0
        self.started = self.spoke = time.monotonic()

    def __call__(self, rows: int) -> None:
        self.done += rows
        now = time.monotonic()
        if now - self.spoke < SPEAK_S:
            return
        self.spoke = now
        rate = self.done / (now - self.started)
        left = (self.rows - self.done) / rate
        print(
            f"data: {self.split} {self.done:,}/{self.rows:,} rows, {rate:.0f}/s, {left:.0f} s left",
            file=sys.stdout,
            flush=True,
        )
