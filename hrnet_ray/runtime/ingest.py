"""Parquet shards to batches on a device, as Ray Data pipelines. Each stage names a pure function.

What is cached is what no chance has touched: canvases for training, crops for validation. The
object store then holds one copy for every epoch and for every trial of a sweep.
"""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from ray.data import DataIterator, Dataset
from ray.train import DataConfig as TrainDataConfig

from hrnet_ray.config import DataConfig
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.data.rows import decode_exact, decode_rows
from hrnet_ray.learning.batch import CanvasBatch, CropBatch, to_canvases, to_crops

DECODE_ROWS = 32  # rows per decode task: about 16 MB of 416 px canvases
BLOCK_ROWS = 64  # rows per cached block; small enough to share out evenly
CACHE_SHARE = 0.4  # of the object store; the rest is for batches on their way
SHUFFLE_BYTES = 2**29  # of canvases that a worker holds to draw from

log = logging.getLogger("hrnet_ray.ingest")


def training_canvases(manifest: Manifest) -> Dataset:
    """Plan the decoding of the training rows. Nothing is read until somebody asks for batches."""
    return ray.data.read_parquet(manifest.files("train")).map_batches(
        partial(decode_rows, canvas_px=manifest.canvas_px),
        batch_format="pyarrow",
        batch_size=DECODE_ROWS,
    )


def validation_crops(manifest: Manifest, data: DataConfig) -> Dataset:
    """Plan the exact crops of the validation rows."""
    return ray.data.read_parquet(manifest.files("val")).map_batches(
        partial(decode_exact, input_hw=data.input_hw, padding=data.padding),
        batch_format="pyarrow",
        batch_size=DECODE_ROWS,
    )


def datasets(manifest: Manifest, data: DataConfig) -> dict[str, Dataset]:
    """Both splits, decoded once into the object store where they fit."""
    height, width = data.input_hw
    canvas_bytes = manifest.splits["train"].rows * manifest.canvas_px**2 * 3
    crop_bytes = manifest.splits["val"].rows * height * width * 3
    room = ray.cluster_resources().get("object_store_memory", 0) * CACHE_SHARE
    planned = {"train": training_canvases(manifest), "val": validation_crops(manifest, data)}
    if canvas_bytes + crop_bytes > room:
        log.warning(
            "decoded data (%.1f GB) is larger than %.1f GB of object store: it is decoded anew in "
            "each epoch; a larger object store would keep it",
            (canvas_bytes + crop_bytes) / 1e9,
            room / 1e9,
        )
        return planned
    return {
        name: plan.repartition(target_num_rows_per_block=BLOCK_ROWS).materialize()
        for name, plan in planned.items()
    }


class Shares(TrainDataConfig):
    """Every worker as many training rows (DDP needs equal steps); no validation row lost.

    Ray Train itself splits evenly everywhere, and drops the rows that do not divide.
    """

    def configure(
        self,
        datasets: dict[str, Dataset],
        world_size: int,
        worker_handles: list | None,
        worker_node_ids: list[str] | None,
        **_: object,
    ) -> list[dict[str, DataIterator]]:
        shares: list[dict[str, DataIterator]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            splits = dataset.streaming_split(
                world_size, equal=name == "train", locality_hints=worker_node_ids
            )
            for share, split in zip(shares, splits, strict=True):
                share[name] = split
        return shares


def canvas_batches(
    rows: DataIterator,
    *,
    size: int,
    seed: int,
    epoch: int,
    canvas_px: int,
    device: torch.device,
) -> Iterator[CanvasBatch]:
    """A worker's training rows, shuffled anew for each (seed, epoch)."""
    held = max(2 * size, SHUFFLE_BYTES // (canvas_px**2 * 3))
    batch: Any  # a dictionary of arrays, which Ray's types do not say
    for batch in rows.iter_batches(
        batch_size=size,
        batch_format="numpy",
        local_shuffle_buffer_size=held,
        local_shuffle_seed=int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]),
    ):
        yield to_canvases(batch, device)


def crop_batches(rows: DataIterator, *, size: int, device: torch.device) -> Iterator[CropBatch]:
    """A worker's validation rows."""
    batch: Any
    for batch in rows.iter_batches(batch_size=size, batch_format="numpy"):
        yield to_crops(batch, device)
