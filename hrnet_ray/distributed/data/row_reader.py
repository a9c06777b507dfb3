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
from hrnet_ray.data.sampler import RUN, WINDOW
from hrnet_ray.distributed.data.object_store import LostRows, Stored

FETCH_S = 60.0
"""A block from another node is here in a second, one that is made again in some."""


class Rows:
    """A stored split, by the numbers of its rows."""

    def __init__(
        self, stored: Stored, decode: Callable[..., Arrays], pool: ThreadPoolExecutor
    ) -> None:
        self._stored, self._decode, self._pool = stored, decode, pool
        self._starts = np.cumsum([0, *stored.sizes])
        # Two windows' worth of blocks, each run in its own; older ones may leave this node's store.
        a_run = -(-RUN // max(1, max(stored.sizes, default=1)))
        self._most = 2 * WINDOW // RUN * a_run + 2
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
