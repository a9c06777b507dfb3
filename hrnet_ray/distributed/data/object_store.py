"""Load Parquet shards into the object store once, with Ray Data.

Only deterministic outputs are cached: canvases for training and crops for validation, or the
encoded images if the decoded ones don't fit. Random augmentation runs later, on the device. Every
epoch, worker and trial reads this one copy (`data_loader`).
"""

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
"""Number of rows per decode call: about 16 MB of 416 px canvases."""
OBJECT_STORE_FRAC = 0.4
"""Fraction of the object store for decoded rows; trials and Ray itself use the rest."""
PROGRESS_INTERVAL_S = 5.0
"""Seconds between two lines of progress."""


class LostBlocksError(ClusterError):
    """Cached rows are lost with their node; loading the shards again restores them."""


@dataclass(frozen=True)
class CachedSplit:
    """The rows of a split in the object store, in the order of the shards."""

    block_refs: list[Any]
    """Object refs of Arrow tables."""
    block_rows: list[int]
    """Number of rows of each block."""
    decoded: bool
    """True for canvases or crops, False for encoded images, which the reader decodes."""

    @property
    def num_rows(self) -> int:
        return sum(self.block_rows)


def load_into_object_store(
    manifest: DatasetManifest, data_config: DataConfig, *, decoded: bool | None = None
) -> dict[str, CachedSplit]:
    """Load both splits into the object store, decoded if they fit or if `decoded` is True.

    Raises:
        DataError: a shard can't be read as a table, or rows are missing.
    """
    if decoded is None:
        decoded = _has_room_for_decoded(manifest, data_config)
    decode_fns = {
        "train": partial(_decode_train_table, canvas_px=manifest.canvas_px),
        "val": partial(_decode_eval_table, input_hw=data_config.input_hw, padding=data_config.padding),
    }
    return {
        split: _cache_split(manifest, split, decode_fn if decoded else _drop_checksum_columns, decoded=decoded)
        for split, decode_fn in decode_fns.items()
    }


def _decode_train_table(table: pa.Table, *, canvas_px: int) -> Arrays:
    return decode_train_batch(add_intact_column(table), canvas_px=canvas_px)


def _decode_eval_table(table: pa.Table, *, input_hw: tuple[int, int], padding: float) -> Arrays:
    return decode_eval_batch(add_intact_column(table), input_hw=input_hw, padding=padding)


def _drop_checksum_columns(table: pa.Table) -> pa.Table:
    return add_intact_column(table).drop_columns(["sha256", "stored_sha256"])


def _has_room_for_decoded(manifest: DatasetManifest, data_config: DataConfig) -> bool:
    """Return whether the decoded rows fit into the object store; print a line if not."""
    height, width = data_config.input_hw
    needed = manifest.splits["train"].rows * manifest.canvas_px**2 * 3
    needed += manifest.splits["val"].rows * height * width * 3
    available = ray.cluster_resources().get("object_store_memory", 0) * OBJECT_STORE_FRAC
    if needed <= available:
        return True
    print(
        f"data: decoded rows need {needed / 1e9:.1f} GB of object store, {available / 1e9:.1f} GB "
        "available; each epoch decodes them again",
        flush=True,
    )
    return False


def _cache_split(manifest: DatasetManifest, split: str, map_fn: Callable, *, decoded: bool) -> CachedSplit:
    blocks, block_rows = [], []
    progress = _IngestProgress(split, manifest.splits[split].rows)
    try:
        for block, rows in _iter_blocks(_build_dataset(manifest, split, map_fn)):
            blocks.append(block)
            block_rows.append(rows)
            progress.update(rows)
    except (RayError, pa.ArrowException, OSError) as error:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1:]
        raise DataError(
            f"the shards of {split} cannot be read",
            f"{manifest.root}: {' '.join(reason)[:200]}",
            f"`hrnet-ray check {manifest.root}` lists them; copy them or prepare the dataset again",
        ) from error
    if sum(block_rows) != manifest.splits[split].rows:
        raise DataError(
            f"{split} must have {manifest.splits[split].rows:,} rows, got {sum(block_rows):,}",
            f"{manifest.root}: manifest.json and the shards in {split}/ do not belong together",
            f"`hrnet-ray check {manifest.root}` lists them; copy them or prepare the dataset again",
        )
    return CachedSplit(blocks, block_rows, decoded)


def _build_dataset(manifest: DatasetManifest, split: str, map_fn: Callable) -> Dataset:
    files = manifest.get_shard_uris(split)
    read = ray.data.read_parquet(files, filesystem=manifest.folder.filesystem, override_num_blocks=len(files))
    return read.map_batches(map_fn, batch_format="pyarrow", batch_size=DECODE_BATCH_ROWS)


def _iter_blocks(dataset: Dataset) -> Any:
    """Yield the ref and the number of rows of each block, in order, as soon as it is ready."""
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            yield entry.ref, entry.metadata.num_rows


class _IngestProgress:
    """Print the progress of a long load."""

    def __init__(self, split: str, total_rows: int) -> None:
        self.split, self.total_rows, self.rows_done = split, total_rows, 0
        self.start_s = self.last_print_s = time.monotonic()

    def update(self, new_rows: int) -> None:
        self.rows_done += new_rows
        now = time.monotonic()
        if now - self.last_print_s < PROGRESS_INTERVAL_S:
            return
        self.last_print_s = now
        rate = self.rows_done / (now - self.start_s)
        left_s = (self.total_rows - self.rows_done) / rate
        print(
            f"data: {self.split} {self.rows_done:,}/{self.total_rows:,} rows, {rate:.0f}/s, {left_s:.0f} s left",
            flush=True,
        )
