"""What a worker is fed: its rows of each batch, out of the object store, one step ahead of it."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from hrnet_ray.config import DataConfig
from hrnet_ray.data.batch import CanvasBatch, CropBatch, to_canvases, to_crops
from hrnet_ray.data.records import Arrays, decode_exact, decode_rows
from hrnet_ray.data.sampler import (
    WINDOW,
    epoch_order,
    share_of_step,
    training_steps,
    validation_share,
)
from hrnet_ray.distributed.data.object_store import Stored
from hrnet_ray.distributed.data.row_reader import Rows
from hrnet_ray.utils.prefetch import ahead

MOST_THREADS = 8
"""Of a worker, for copying and decoding; these feed several thousand rows a second."""

T = TypeVar("T")


class Feed:
    """One worker's rows, epoch by epoch.

    Which rows, in which order, follows from (rows, seed, epoch, size) alone: with more workers each
    gets a part of the same batches.
    """

    def __init__(
        self,
        stored: Mapping[str, Stored],
        data: DataConfig,
        *,
        canvas_px: int,
        device: torch.device,
        rank: int = 0,
        workers: int = 1,
        most_workers: int = 1,
        threads: int = 1,
    ) -> None:
        self.device, self.rank, self.workers = device, rank, workers
        # An elastic run leaves out the same rows whether all of its workers are there or not.
        self.most_workers = max(workers, most_workers)
        pool = ThreadPoolExecutor(min(threads, MOST_THREADS))
        canvases = partial(decode_rows, canvas_px=canvas_px)
        crops = partial(decode_exact, input_hw=data.input_hw, padding=data.padding)
        self.train = Rows(stored["train"], canvases, pool)
        self.val = Rows(stored["val"], crops, pool)
        self.waited = 0.0
        """Seconds for which the model had to wait in this epoch."""
        self.met: list[list[int]] = []
        """Ids of this worker's training rows in this epoch, step by step."""
        self.rotten: set[tuple[str, int]] = set()
        """Split and id of rows whose picture changed since it was prepared: they teach and score
        nothing."""

    def steps(self, *, size: int) -> int:
        """How many batches of `size` rows, all workers together, an epoch has."""
        rows = np.arange(self.train.rows)
        return len(training_steps(rows, size=size, workers=self.most_workers))

    def training(
        self, *, size: int, seed: int, epoch: int, begin: int = 0
    ) -> Iterator[CanvasBatch]:
        """This worker's shares of the epoch's batches of `size` rows, from the step `begin` on."""
        order = epoch_order(self.train.rows, seed=seed, epoch=epoch)
        steps = training_steps(order, size=size, workers=self.most_workers)
        self.train.soon(order[begin * size : begin * size + WINDOW])

        def shares() -> Iterator[tuple[Arrays, CanvasBatch]]:
            for number, step in enumerate(steps[begin:], start=begin):
                if number * size % WINDOW < size:  # a window begins: fetch the one after it
                    self.train.soon(order[number * size : number * size + 2 * WINDOW])
                share = share_of_step(step, rank=self.rank, workers=self.workers)
                rows = self.train.take(share)
                yield (
                    rows,
                    to_canvases(
                        _with_stand_ins(rows),
                        self.device,
                        weight=len(share) * self.workers / len(step),
                        fewest=len(step) // self.workers,
                    ),
                )

        for rows, batch in self._waited_for(ahead(shares())):
            self.met.append(rows["id"][rows["readable"]].tolist())
            self._note_rotten("train", rows)
            yield batch

    def validation(self, *, size: int) -> Iterator[CropBatch]:
        """This worker's share of the validation rows, without the rotten ones."""
        share = validation_share(self.val.rows, rank=self.rank, workers=self.workers)

        def parts() -> Iterator[tuple[Arrays, CropBatch]]:
            for at in range(0, len(share), size):
                rows = self.val.take(share[at : at + size])
                yield rows, to_crops(_readable(rows), self.device, with_truth=True)

        for rows, batch in ahead(parts()):
            self._note_rotten("val", rows)
            if len(batch.ids):
                yield batch

    def _note_rotten(self, split: str, rows: Arrays) -> None:
        self.rotten |= {(split, id) for id in rows["id"][~rows["readable"]].tolist()}

    def _waited_for(self, ready: Iterator[T]) -> Iterator[T]:
        self.waited = 0.0
        while True:
            began = time.perf_counter()
            item = next(ready, None)
            self.waited += time.perf_counter() - began
            if item is None:
                return
            yield item


def _readable(rows: Arrays) -> Arrays:
    kept = rows["readable"]
    return rows if kept.all() else {name: column[kept] for name, column in rows.items()}


def _with_stand_ins(rows: Arrays) -> Arrays:
    """Put the pixels of a readable row where a rotten one is black; its keypoints stay hidden.

    So shapes stay, BatchNorm sees pictures only, and the row adds nothing to the loss.
    """
    readable = rows["readable"]
    if readable.all() or not readable.any():
        return rows
    canvas = rows["canvas"].copy()
    canvas[~readable] = canvas[readable.argmax()]
    return rows | {"canvas": canvas}
