"""Rows in the object store, by their numbers."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data.block import BlockAccessor
from ray.exceptions import GetTimeoutError, ObjectLostError

from hrnet_ray.data.records import Arrays
from hrnet_ray.data.sampler import BLOCK_ROWS, SHUFFLE_WINDOW_ROWS
from hrnet_ray.distributed.data.object_store import CachedSplit, LostBlocksError

FETCH_TIMEOUT_S = 60.0
"""A block from another node is here in a second, one that is made again in some."""


class ObjectStoreReader:
    """A stored split, by the numbers of its rows."""

    def __init__(
        self, cached_split: CachedSplit, decode: Callable[..., Arrays], pool: ThreadPoolExecutor
    ) -> None:
        self._cached_split, self._decode, self._pool = cached_split, decode, pool
        self._block_starts = np.cumsum([0, *cached_split.block_rows])
        # Two windows' worth of blocks, each run in its own; older ones may leave this node's store.
        a_run = -(-BLOCK_ROWS // max(1, max(cached_split.block_rows, default=1)))
        self._max_cached_blocks = 2 * SHUFFLE_WINDOW_ROWS // BLOCK_ROWS * a_run + 2
        self._cached_blocks: OrderedDict[int, Any] = OrderedDict()

    @property
    def num_rows(self) -> int:
        return int(self._block_starts[-1])

    def prefetch_rows(self, row_indices: np.ndarray) -> None:
        """Let Ray fetch what these rows lie in, if it lies on another node."""
        wanted = set(self._find_blocks(row_indices).tolist()) - self._cached_blocks.keys()
        refs = [self._cached_split.block_refs[at] for at in sorted(wanted)]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=True)

    def get_rows(self, row_indices: np.ndarray) -> Arrays:
        """These rows, in this order, as `decode_rows` or `decode_exact` gives them."""
        if self._cached_split.decoded:
            return self._gather_decoded(row_indices)
        return self._decode(self._take_encoded(row_indices), map_function=self._pool.map)

    def _gather_decoded(self, row_indices: np.ndarray) -> Arrays:
        of = self._find_blocks(row_indices)
        inside = row_indices - self._block_starts[of]
        pieces = [
            (np.flatnonzero((of == at) & (first <= inside) & (inside < last)), first, piece)
            for at in np.unique(of).tolist()
            for first, last, piece in self._load_block(at)
        ]
        rows = {
            k: np.empty((len(row_indices), *v.shape[1:]), v.dtype) for k, v in pieces[0][2].items()
        }
        picture = "canvas" if "canvas" in rows else "crop"
        copies = []
        for here, first, piece in pieces:
            for name in rows.keys() - {picture}:
                rows[name][here] = piece[name][inside[here] - first]
            copies += [(to, piece[picture], int(inside[to] - first)) for to in here.tolist()]

        def copy_image(
            copy_task: tuple[int, np.ndarray, int],
        ) -> None:  # half a megabyte, without the GIL
            to, source, at = copy_task
            rows[picture][to] = source[at]

        list(self._pool.map(copy_image, copies))
        return rows

    def _take_encoded(self, row_indices: np.ndarray) -> pa.Table:
        of = self._find_blocks(row_indices)
        order = np.argsort(of, kind="stable")
        parts = [
            self._load_block(at).take(row_indices[of == at] - self._block_starts[at])
            for at in np.unique(of).tolist()
        ]
        return pa.concat_tables(parts).take(np.argsort(order, kind="stable"))

    def _find_blocks(self, row_indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._block_starts, row_indices, side="right") - 1

    def _load_block(self, block_index: int) -> Any:
        """A block as it lies in the object store: its table, or `_pieces` of decoded rows."""
        if block_index not in self._cached_blocks:
            table = self._fetch_block(self._cached_split.block_refs[block_index])
            self._cached_blocks[block_index] = (
                _split_into_pieces(table) if self._cached_split.decoded else table
            )
            if len(self._cached_blocks) > self._max_cached_blocks:
                self._cached_blocks.popitem(last=False)
        self._cached_blocks.move_to_end(block_index)
        return self._cached_blocks[block_index]

    @staticmethod
    def _fetch_block(block_ref: Any) -> pa.Table:
        """What a ref stands for.

        Ray makes what a dead node held once more, if it has a CPU for that; it waits for ever for
        one that the workers, this one too, will not let go.

        Raises:
            LostRows: it is not there, and does not come back.
        """
        try:
            return ray.get(block_ref, timeout=FETCH_TIMEOUT_S)
        except (ObjectLostError, GetTimeoutError) as error:
            raise LostBlocksError(
                "rows in the object store are lost",
                f"{type(error).__name__}, waited for up to {FETCH_TIMEOUT_S:.0f} s",
                "the same command reads them again, and goes on from the last checkpoint",
            ) from error


def _split_into_pieces(table: pa.Table) -> list[tuple[int, int, Arrays]]:
    """First row, last row + 1, and arrays that look into the object store.

    A table's columns consist of chunks; only within one can they be looked at without a copy.
    """
    pieces, first = [], 0
    for batch in table.to_batches():
        arrays = BlockAccessor.for_block(pa.Table.from_batches([batch])).to_numpy()
        pieces.append((first, first + batch.num_rows, arrays))
        first += batch.num_rows
    return pieces
