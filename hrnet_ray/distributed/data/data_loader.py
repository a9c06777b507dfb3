"""What a worker is fed: its rows of each batch, out of the object store, one step ahead of it."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from hrnet_ray.config import DataConfig
from hrnet_ray.data.batch import EvalBatch, RawTrainBatch, to_eval_batch, to_raw_train_batch
from hrnet_ray.data.records import Arrays, decode_eval_batch, decode_train_batch
from hrnet_ray.data.sampler import (
    SHUFFLE_WINDOW_ROWS,
    batch_indices,
    get_rank_indices,
    get_rank_slice,
    shuffle_row_indices,
)
from hrnet_ray.distributed.data.object_store import CachedSplit
from hrnet_ray.distributed.data.row_reader import ObjectStoreReader
from hrnet_ray.utils.prefetch import prefetch_items

MAX_DECODE_THREADS = 8
"""Of a worker, for copying and decoding; these feed several thousand rows a second."""

T = TypeVar("T")


class WorkerDataLoader:
    """One worker's rows, epoch by epoch.

    Which rows, in which order, follows from (rows, seed, epoch, size) alone: with more workers each
    gets a part of the same batches.
    """

    def __init__(
        self,
        cached_splits: Mapping[str, CachedSplit],
        data_config: DataConfig,
        *,
        canvas_px: int,
        device: torch.device,
        rank: int = 0,
        num_workers: int = 1,
        max_workers: int = 1,
        threads: int = 1,
    ) -> None:
        self.device, self.rank, self.num_workers = device, rank, num_workers
        # An elastic run leaves out the same rows whether all of its workers are there or not.
        self.max_workers = max(num_workers, max_workers)
        pool = ThreadPoolExecutor(min(threads, MAX_DECODE_THREADS))
        canvases = partial(decode_train_batch, canvas_px=canvas_px)
        crops = partial(
            decode_eval_batch, input_hw=data_config.input_hw, padding=data_config.padding
        )
        self.train_reader = ObjectStoreReader(cached_splits["train"], canvases, pool)
        self.val_reader = ObjectStoreReader(cached_splits["val"], crops, pool)
        self.data_wait_s = 0.0
        """Seconds for which the model had to wait in this epoch."""
        self.seen_ids: list[list[int]] = []
        """Ids of this worker's training rows in this epoch, step by step."""
        self.corrupt_rows: set[tuple[str, int]] = set()
        """Split and id of rows whose picture changed since it was prepared: they teach and score
        nothing."""

    def count_steps(self, *, batch_size: int) -> int:
        """How many batches of `size` rows, all workers together, an epoch has."""
        rows = np.arange(self.train_reader.num_rows)
        return len(batch_indices(rows, batch_size=batch_size, num_workers=self.max_workers))

    def iter_train_batches(
        self, *, batch_size: int, seed: int, epoch: int, first_step: int = 0
    ) -> Iterator[RawTrainBatch]:
        """This worker's shares of the epoch's batches of `size` rows, from the step `begin` on."""
        order = shuffle_row_indices(self.train_reader.num_rows, seed=seed, epoch=epoch)
        steps = batch_indices(order, batch_size=batch_size, num_workers=self.max_workers)
        self.train_reader.prefetch_rows(
            order[first_step * batch_size : first_step * batch_size + SHUFFLE_WINDOW_ROWS]
        )

        def load_rank_slices() -> Iterator[tuple[Arrays, RawTrainBatch]]:
            for number, step in enumerate(steps[first_step:], start=first_step):
                if (
                    number * batch_size % SHUFFLE_WINDOW_ROWS < batch_size
                ):  # a window begins: fetch the one after it
                    self.train_reader.prefetch_rows(
                        order[number * batch_size : number * batch_size + 2 * SHUFFLE_WINDOW_ROWS]
                    )
                share = get_rank_slice(step, rank=self.rank, num_workers=self.num_workers)
                rows = self.train_reader.get_rows(share)
                yield (
                    rows,
                    to_raw_train_batch(
                        _replace_corrupt_images(rows),
                        self.device,
                        loss_weight=len(share) * self.num_workers / len(step),
                        min_crops_per_rank=len(step) // self.num_workers,
                    ),
                )

        for rows, batch in self._measure_data_wait(prefetch_items(load_rank_slices())):
            self.seen_ids.append(rows["id"][rows["readable"]].tolist())
            self._record_corrupt_rows("train", rows)
            yield batch

    def iter_val_batches(self, *, batch_size: int) -> Iterator[EvalBatch]:
        """This worker's share of the validation rows, without the rotten ones."""
        share = get_rank_indices(
            self.val_reader.num_rows, rank=self.rank, num_workers=self.num_workers
        )

        def load_rank_batches() -> Iterator[tuple[Arrays, EvalBatch]]:
            for at in range(0, len(share), batch_size):
                rows = self.val_reader.get_rows(share[at : at + batch_size])
                yield (
                    rows,
                    to_eval_batch(_filter_readable(rows), self.device, with_ground_truth=True),
                )

        for rows, batch in prefetch_items(load_rank_batches()):
            self._record_corrupt_rows("val", rows)
            if len(batch.ids):
                yield batch

    def _record_corrupt_rows(self, split: str, rows: Arrays) -> None:
        self.corrupt_rows |= {(split, id) for id in rows["id"][~rows["readable"]].tolist()}

    def _measure_data_wait(self, prefetched: Iterator[T]) -> Iterator[T]:
        self.data_wait_s = 0.0
        while True:
            began = time.perf_counter()
            item = next(prefetched, None)
            self.data_wait_s += time.perf_counter() - began
            if item is None:
                return
            yield item


def _filter_readable(rows: Arrays) -> Arrays:
    kept = rows["readable"]
    return rows if kept.all() else {name: column[kept] for name, column in rows.items()}


def _replace_corrupt_images(rows: Arrays) -> Arrays:
    """Put the pixels of a readable row where a rotten one is black; its keypoints stay hidden.

    So shapes stay, BatchNorm sees pictures only, and the row adds nothing to the loss.
    """
    readable = rows["readable"]
    if readable.all() or not readable.any():
        return rows
    canvas = rows["canvas"].copy()
    canvas[~readable] = canvas[readable.argmax()]
    return rows | {"canvas": canvas}
