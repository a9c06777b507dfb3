"""Data loader of a training worker: its slice of each batch, loaded one step ahead."""

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
"""Maximum number of threads per worker; 8 load several thousand rows per second."""

T = TypeVar("T")


class WorkerDataLoader:
    """Load the batches of one worker.

    Rows and order depend on (number of rows, seed, epoch, batch size) only. More workers share the
    same batches.
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
        # An elastic run omits the same rows with all of its workers or with fewer.
        self.max_workers = max(num_workers, max_workers)
        pool = ThreadPoolExecutor(min(threads, MAX_DECODE_THREADS))
        decode_canvases = partial(decode_train_batch, canvas_px=canvas_px)
        decode_crops = partial(decode_eval_batch, input_hw=data_config.input_hw, padding=data_config.padding)
        self.train_reader = ObjectStoreReader(cached_splits["train"], decode_canvases, pool)
        self.val_reader = ObjectStoreReader(cached_splits["val"], decode_crops, pool)
        self.data_wait_s = 0.0
        """Seconds in this epoch that the training loop waited for data."""
        self.seen_ids: list[list[int]] = []
        """Ids of this worker's training rows in this epoch, one list per step."""
        self.corrupt_rows: set[tuple[str, int]] = set()
        """Split and id of rows whose image changed since `prepare`; they are not scored."""

    def count_steps(self, *, batch_size: int) -> int:
        """Count the batches of an epoch, of `batch_size` rows over all workers."""
        rows = np.arange(self.train_reader.num_rows)
        return len(batch_indices(rows, batch_size=batch_size, num_workers=self.max_workers))

    def iter_train_batches(
        self, *, batch_size: int, seed: int, epoch: int, first_step: int = 0
    ) -> Iterator[RawTrainBatch]:
        """Yield this worker's slice of each batch of the epoch, from `first_step` on."""
        order = shuffle_row_indices(self.train_reader.num_rows, seed=seed, epoch=epoch)
        steps = batch_indices(order, batch_size=batch_size, num_workers=self.max_workers)
        self.train_reader.prefetch_rows(order[first_step * batch_size : first_step * batch_size + SHUFFLE_WINDOW_ROWS])

        def load_rank_slices() -> Iterator[tuple[Arrays, RawTrainBatch]]:
            for number, step in enumerate(steps[first_step:], start=first_step):
                start = number * batch_size
                if start % SHUFFLE_WINDOW_ROWS < batch_size:  # at a window's start, fetch the next
                    self.train_reader.prefetch_rows(order[start : start + 2 * SHUFFLE_WINDOW_ROWS])
                rank_slice = get_rank_slice(step, rank=self.rank, num_workers=self.num_workers)
                rows = self.train_reader.get_rows(rank_slice)
                yield (
                    rows,
                    to_raw_train_batch(
                        _replace_corrupt_images(rows),
                        self.device,
                        loss_weight=len(rank_slice) * self.num_workers / len(step),
                        min_crops_per_rank=len(step) // self.num_workers,
                    ),
                )

        for rows, batch in self._measure_data_wait(prefetch_items(load_rank_slices())):
            self.seen_ids.append(rows["id"][rows["readable"]].tolist())
            self._record_corrupt_rows("train", rows)
            yield batch

    def iter_val_batches(self, *, batch_size: int) -> Iterator[EvalBatch]:
        """Yield this worker's validation rows, without the corrupt ones."""
        indices = get_rank_indices(self.val_reader.num_rows, rank=self.rank, num_workers=self.num_workers)

        def load_rank_batches() -> Iterator[tuple[Arrays, EvalBatch]]:
            for start in range(0, len(indices), batch_size):
                rows = self.val_reader.get_rows(indices[start : start + batch_size])
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
            start_s = time.perf_counter()
            item = next(prefetched, None)
            self.data_wait_s += time.perf_counter() - start_s
            if item is None:
                return
            yield item


def _filter_readable(rows: Arrays) -> Arrays:
    readable = rows["readable"]
    return rows if readable.all() else {name: column[readable] for name, column in rows.items()}


def _replace_corrupt_images(rows: Arrays) -> Arrays:
    """Replace the black canvas of a corrupt row by that of a readable one; keypoints stay hidden.

    This keeps the shapes and the BatchNorm statistics, and the row adds nothing to the loss.
    """
    readable = rows["readable"]
    if readable.all() or not readable.any():
        return rows
    canvas = rows["canvas"].copy()
    canvas[~readable] = canvas[readable.argmax()]
    return rows | {"canvas": canvas}
