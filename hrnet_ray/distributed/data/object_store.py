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
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.data.records import Arrays, add_intact_column, decode_eval_batch, decode_train_batch
from hrnet_ray.errors import ClusterError, DataError

DECODE_BATCH_ROWS = 32
"""Rows that one call decodes: about 16 MB of 416 px canvases."""
OBJECT_STORE_FRAC = 0.4
"""Of the object store; the rest is for what trials and Ray itself keep there."""
PROGRESS_INTERVAL_S = 5.0
"""Reading that takes longer than this is told of."""


class LostBlocksError(ClusterError):
    """Stored rows went with the node that held them; reading the shards again brings them back."""


@dataclass(frozen=True)
class CachedSplit:
    """The rows of a split in the object store, in the order of the shards."""

    block_refs: list[Any]
    """Refs of Arrow tables."""
    block_rows: list[int]
    """Rows of each."""
    decoded: bool
    """Canvases or crops; else the pictures' bytes, to be decoded by whoever takes them."""

    @property
    def num_rows(self) -> int:
        return sum(self.block_rows)


def load_into_object_store(
    manifest: DatasetManifest, data_config: DataConfig, *, decoded: bool | None = None
) -> dict[str, CachedSplit]:
    """Read both splits into the object store: decoded where that fits, unless told otherwise.

    Raises:
        DataError: a shard is damaged so badly that its rows cannot be told apart.
    """
    if decoded is None:
        decoded = _has_room_for_decoded(manifest, data_config)
    plans = {
        "train": partial(_decode_train_table, canvas_px=manifest.canvas_px),
        "val": partial(
            _decode_eval_table, input_hw=data_config.input_hw, padding=data_config.padding
        ),
    }
    return {
        split: _cache_split(
            manifest, split, as_decoded if decoded else _drop_checksum_columns, decoded=decoded
        )
        for split, as_decoded in plans.items()
    }


def _decode_train_table(table: pa.Table, *, canvas_px: int) -> Arrays:
    return decode_train_batch(add_intact_column(table), canvas_px=canvas_px)


def _decode_eval_table(table: pa.Table, *, input_hw: tuple[int, int], padding: float) -> Arrays:
    return decode_eval_batch(add_intact_column(table), input_hw=input_hw, padding=padding)


def _drop_checksum_columns(table: pa.Table) -> pa.Table:
    return add_intact_column(table).drop_columns(["sha256", "stored_sha256"])


def _has_room_for_decoded(manifest: DatasetManifest, data_config: DataConfig) -> bool:
    """Whether the decoded rows have room in the object store; says so where they have not."""
    height, width = data_config.input_hw
    wanted = manifest.splits["train"].rows * manifest.canvas_px**2 * 3
    wanted += manifest.splits["val"].rows * height * width * 3
    room = ray.cluster_resources().get("object_store_memory", 0) * OBJECT_STORE_FRAC
    if wanted <= room:
        return True
    print(
        f"data: decoded it would take {wanted / 1e9:.1f} GB of an object store with room for "
        f"{room / 1e9:.1f} GB; so each epoch decodes it anew",
        flush=True,
    )
    return False


def _cache_split(
    manifest: DatasetManifest, split: str, map_fn: Callable, *, decoded: bool
) -> CachedSplit:
    blocks, sizes = [], []
    count = _IngestProgress(split, manifest.splits[split].rows)
    try:
        for block, rows in _iter_blocks(_build_dataset(manifest, split, map_fn)):
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
    return CachedSplit(blocks, sizes, decoded)


def _build_dataset(manifest: DatasetManifest, split: str, map_fn: Callable) -> Dataset:
    files = manifest.get_shard_uris(split)
    read = ray.data.read_parquet(
        files, filesystem=manifest.folder.filesystem, override_num_blocks=len(files)
    )
    return read.map_batches(map_fn, batch_format="pyarrow", batch_size=DECODE_BATCH_ROWS)


def _iter_blocks(dataset: Dataset) -> Any:
    """Refs and row counts of a dataset's blocks, in order, as they are made."""
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            yield entry.ref, entry.metadata.num_rows


class _IngestProgress:
    """Tells how far the reading is, when it is long."""

    def __init__(self, split: str, total_rows: int) -> None:
        self.split, self.total_rows, self.rows_done = split, total_rows, 0
        self.start_s = self.last_print_s = time.monotonic()

    def __call__(self, new_rows: int) -> None:
        self.rows_done += new_rows
        now = time.monotonic()
        if now - self.last_print_s < PROGRESS_INTERVAL_S:
            return
        self.last_print_s = now
        rate = self.rows_done / (now - self.start_s)
        left = (self.total_rows - self.rows_done) / rate
        print(
            f"data: {self.split} {self.rows_done:,}/{self.total_rows:,} rows, {rate:.0f}/s, {left:.0f} s left",
            file=sys.stdout,
            flush=True,
        )
