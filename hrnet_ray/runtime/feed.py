"""What a worker is fed: its rows of each batch, out of the object store, one step ahead of it."""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data.block import BlockAccessor
from ray.exceptions import GetTimeoutError, ObjectLostError

from hrnet_ray.config import DataConfig
from hrnet_ray.data.order import (
    WINDOW,
    epoch_order,
    share_of_step,
    training_steps,
    validation_share,
)
from hrnet_ray.data.rows import Arrays, decode_exact, decode_rows
from hrnet_ray.learning.batch import CanvasBatch, CropBatch, to_canvases, to_crops
from hrnet_ray.runtime.ingest import LostRows, Stored

AHEAD = 2
"""Batches that wait ready while the model works on one."""
FETCH_S = 60.0
"""A block from another node is here in a second, one that is made again in some."""
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

        def shares() -> Iterator[tuple[Arrays, float]]:
            for number, step in enumerate(steps[begin:], start=begin):
                if number * size % WINDOW < size:  # a window begins: fetch the one after it
                    self.train.soon(order[number * size : number * size + 2 * WINDOW])
                share = share_of_step(step, rank=self.rank, workers=self.workers)
                yield self.train.take(share), len(share) * self.workers / len(step)

        for rows, weight in self._waited_for(shares()):
            self.met.append(rows["id"][rows["readable"]].tolist())
            self._note_rotten("train", rows)
            yield to_canvases(_with_stand_ins(rows), self.device, weight=weight)

    def validation(self, *, size: int) -> Iterator[CropBatch]:
        """This worker's share of the validation rows, without the rotten ones."""
        share = validation_share(self.val.rows, rank=self.rank, workers=self.workers)
        parts = (self.val.take(share[at : at + size]) for at in range(0, len(share), size))
        for rows in ahead(parts):
            readable = rows["readable"]
            self._note_rotten("val", rows)
            if readable.any():
                kept = rows if readable.all() else {k: v[readable] for k, v in rows.items()}
                yield to_crops(kept, self.device, with_truth=True)

    def _note_rotten(self, split: str, rows: Arrays) -> None:
        self.rotten |= {(split, id) for id in rows["id"][~rows["readable"]].tolist()}

    def _waited_for(self, made: Iterator[T]) -> Iterator[T]:
        self.waited = 0.0
        ready = ahead(made)
        while True:
            began = time.perf_counter()
            item = next(ready, None)
            self.waited += time.perf_counter() - began
            if item is None:
                return
            yield item


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


class Rows:
    """A stored split, by the numbers of its rows."""

    def __init__(
        self, stored: Stored, decode: Callable[..., Arrays], pool: ThreadPoolExecutor
    ) -> None:
        self._stored, self._decode, self._pool = stored, decode, pool
        self._starts = np.cumsum([0, *stored.sizes])
        # Two windows' worth of blocks; older ones may leave this node's store.
        self._most = 2 * WINDOW // max(1, min(stored.sizes, default=1)) + 2
        self._held: OrderedDict[int, Any] = OrderedDict()

    @property
    def rows(self) -> int:
        return int(self._starts[-1])

    def soon(self, numbers: np.ndarray) -> None:
        """Let Ray fetch what these rows lie in, if it lies on another node."""
        wanted = set(self._blocks_of(numbers).tolist()) - self._held.keys()
        refs = [self._stored.blocks[at] for at in sorted(wanted)]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=True)

    def take(self, numbers: np.ndarray) -> Arrays:
        """These rows, in this order, as `decode_rows` or `decode_exact` gives them."""
        if self._stored.decoded:
            return self._gathered(numbers)
        return self._decode(self._taken(numbers), each=self._pool.map)

    def _gathered(self, numbers: np.ndarray) -> Arrays:
        of = self._blocks_of(numbers)
        inside = numbers - self._starts[of]
        pieces = [
            (np.flatnonzero((of == at) & (first <= inside) & (inside < last)), first, piece)
            for at in np.unique(of).tolist()
            for first, last, piece in self._block(at)
        ]
        rows = {k: np.empty((len(numbers), *v.shape[1:]), v.dtype) for k, v in pieces[0][2].items()}
        picture = "canvas" if "canvas" in rows else "crop"
        copies = []
        for here, first, piece in pieces:
            for name in rows.keys() - {picture}:
                rows[name][here] = piece[name][inside[here] - first]
            copies += [(to, piece[picture], int(inside[to] - first)) for to in here.tolist()]

        def copy(one: tuple[int, np.ndarray, int]) -> None:  # half a megabyte, without the GIL
            to, source, at = one
            rows[picture][to] = source[at]

        list(self._pool.map(copy, copies))
        return rows

    def _taken(self, numbers: np.ndarray) -> pa.Table:
        of = self._blocks_of(numbers)
        order = np.argsort(of, kind="stable")
        parts = [
            self._block(at).take(numbers[of == at] - self._starts[at])
            for at in np.unique(of).tolist()
        ]
        return pa.concat_tables(parts).take(np.argsort(order, kind="stable"))

    def _blocks_of(self, numbers: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, numbers, side="right") - 1

    def _block(self, at: int) -> Any:
        """A block as it lies in the object store: its table, or `_pieces` of decoded rows."""
        if at not in self._held:
            table = self._fetched(self._stored.blocks[at])
            self._held[at] = _pieces(table) if self._stored.decoded else table
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        self._held.move_to_end(at)
        return self._held[at]

    @staticmethod
    def _fetched(block: Any) -> pa.Table:
        """What a ref stands for.

        Ray makes what a dead node held once more, if it has a CPU for that; it waits for ever for
        one that the workers, this one too, will not let go.

        Raises:
            LostRows: it is not there, and does not come back.
        """
        try:
            return ray.get(block, timeout=FETCH_S)
        except (ObjectLostError, GetTimeoutError) as error:
            raise LostRows(
                "rows in the object store are lost",
                f"{type(error).__name__}, waited for up to {FETCH_S:.0f} s",
                "the same command reads them again, and goes on from the last checkpoint",
            ) from error


def _pieces(table: pa.Table) -> list[tuple[int, int, Arrays]]:
    """First row, last row + 1, and arrays that look into the object store.

    A table's columns consist of chunks; only within one can they be looked at without a copy.
    """
    pieces, first = [], 0
    for batch in table.to_batches():
        arrays = BlockAccessor.for_block(pa.Table.from_batches([batch])).to_numpy()
        pieces.append((first, first + batch.num_rows, arrays))
        first += batch.num_rows
    return pieces


def ahead(made: Iterator[T], *, depth: int = AHEAD) -> Iterator[T]:
    """The same items, made in a thread of their own, up to `depth` of them in advance."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def make() -> None:
        try:
            for item in made:
                while not stop.is_set():
                    try:
                        ready.put((item, None), timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if stop.is_set():
                    return
            ready.put((None, StopIteration()))
        except BaseException as error:  # raised where the items are used
            ready.put((None, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        thread.join()
