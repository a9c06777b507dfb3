"""Random access to the rows of a split in the object store."""

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
"""Seconds until a block counts as lost; a transfer takes about one, a reconstruction several."""


class ObjectStoreReader:
    """Read rows of a cached split by their indices."""

    def __init__(self, cached_split: CachedSplit, decode: Callable[..., Arrays], pool: ThreadPoolExecutor) -> None:
        self._cached_split, self._decode, self._pool = cached_split, decode, pool
        self._block_starts = np.cumsum([0, *cached_split.block_rows])
        # Blocks of two shuffle windows; older ones may leave the object store of this node.
        blocks_per_run = -(-BLOCK_ROWS // max(1, max(cached_split.block_rows, default=1)))
        self._max_cached_blocks = 2 * SHUFFLE_WINDOW_ROWS // BLOCK_ROWS * blocks_per_run + 2
        self._cached_blocks: OrderedDict[int, Any] = OrderedDict()

    @property
    def num_rows(self) -> int:
        return int(self._block_starts[-1])

    def prefetch_rows(self, row_indices: np.ndarray) -> None:
        """Start to fetch the blocks of these rows from other nodes, without waiting."""
        missing = set(self._find_blocks(row_indices).tolist()) - self._cached_blocks.keys()
        refs = [self._cached_split.block_refs[block] for block in sorted(missing)]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=True)

    def get_rows(self, row_indices: np.ndarray) -> Arrays:
        """Read these rows, in this order, as the decode function returns them."""
        if self._cached_split.decoded:
            return self._gather_decoded(row_indices)
        return self._decode(self._take_encoded(row_indices), map_function=self._pool.map)

    def _gather_decoded(self, row_indices: np.ndarray) -> Arrays:
        blocks = self._find_blocks(row_indices)
        offsets = row_indices - self._block_starts[blocks]
        sources = [
            self._load_block(block)[offset] for block, offset in zip(blocks.tolist(), offsets.tolist(), strict=True)
        ]
        first, _ = sources[0]
        rows = {name: np.empty((len(sources), *column.shape[1:]), column.dtype) for name, column in first.items()}

        def copy_row(index: int) -> None:  # half a megabyte, copied without the GIL
            arrays, offset = sources[index]
            for name, column in arrays.items():
                rows[name][index] = column[offset]

        list(self._pool.map(copy_row, range(len(sources))))
        return rows

    def _take_encoded(self, row_indices: np.ndarray) -> pa.Table:
        blocks = self._find_blocks(row_indices)
        order = np.argsort(blocks, kind="stable")
        parts = [
            self._load_block(b).take(row_indices[blocks == b] - self._block_starts[b])
            for b in np.unique(blocks).tolist()
        ]
        return pa.concat_tables(parts).take(np.argsort(order, kind="stable"))

    def _find_blocks(self, row_indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._block_starts, row_indices, side="right") - 1

    def _load_block(self, block_index: int) -> Any:
        """Load a block: its encoded table, or the locations of its decoded rows."""
        if block_index not in self._cached_blocks:
            table = self._fetch_block(self._cached_split.block_refs[block_index])
            self._cached_blocks[block_index] = _get_row_locations(table) if self._cached_split.decoded else table
            if len(self._cached_blocks) > self._max_cached_blocks:
                self._cached_blocks.popitem(last=False)
        self._cached_blocks.move_to_end(block_index)
        return self._cached_blocks[block_index]

    @staticmethod
    def _fetch_block(block_ref: Any) -> pa.Table:
        """Get the table of a block.

        Ray reconstructs the blocks of a dead node if a CPU is free. With all CPUs held by training
        workers, it would wait forever.

        Raises:
            LostBlocksError: the block is lost, or not reconstructed in time.
        """
        try:
            return ray.get(block_ref, timeout=FETCH_TIMEOUT_S)
        except (ObjectLostError, GetTimeoutError) as error:
            raise LostBlocksError(
                "rows in the object store are lost",
                f"{type(error).__name__}, waited for up to {FETCH_TIMEOUT_S:.0f} s",
                "run the same command again to resume from the last checkpoint",
            ) from error


def _get_row_locations(table: pa.Table) -> list[tuple[Arrays, int]]:
    """For each row, the arrays that hold it without a copy, and its offset in them.

    A column consists of chunks, and only within one chunk is there a view without a copy.
    """
    rows: list[tuple[Arrays, int]] = []
    for batch in table.to_batches():
        arrays: Any = BlockAccessor.for_block(pa.Table.from_batches([batch])).to_numpy()
        rows += [(arrays, offset) for offset in range(batch.num_rows)]
    return rows
