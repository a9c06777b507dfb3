"""In which order an epoch meets its rows, and who gets which.

Everything follows from (rows, seed, epoch): neither the number of workers nor a resume can change
what is learnt from, and when.
"""

import numpy as np
from jaxtyping import Int

BLOCK_ROWS = 64
"""Rows that lie side by side in the store, and are met in the same window."""
SHUFFLE_WINDOW_ROWS = 32 * BLOCK_ROWS
"""Rows that are mixed with each other. A smaller set is mixed as a whole; of a larger one no node
has to hold more than two windows at a time."""

MIN_ROWS_PER_WORKER = 2
"""A worker's share of a batch must have so many: BatchNorm learns nothing from one."""


def shuffle_row_indices(
    num_rows: int,
    *,
    seed: int,
    epoch: int,
    window_rows: int = SHUFFLE_WINDOW_ROWS,
    block_rows: int = BLOCK_ROWS,
) -> Int[np.ndarray, " N"]:
    """Each of `rows` once: the runs in random order, their rows mixed within each window."""
    chance = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    runs = chance.permutation(-(-num_rows // block_rows))
    each = window_rows // block_rows
    windows = [
        chance.permutation(
            np.concatenate([_get_block_indices(at, block_rows, num_rows) for at in runs[first : first + each].tolist()])
        )
        for first in range(0, len(runs), each)
    ]
    return np.concatenate(windows) if windows else np.zeros(0, np.int64)


def _get_block_indices(block: int, block_rows: int, num_rows: int) -> Int[np.ndarray, " R"]:
    return np.arange(block * block_rows, min((block + 1) * block_rows, num_rows))


def batch_indices(
    row_indices: Int[np.ndarray, " N"], *, batch_size: int, num_workers: int
) -> list[Int[np.ndarray, " B"]]:
    """The batches of an epoch, all workers together.

    Each has `size` rows; the last one has what is left, unless that is less than `LEAST_ROWS` a
    worker: then these rows wait for another epoch.
    """
    steps = [row_indices[first : first + batch_size] for first in range(0, len(row_indices), batch_size)]
    if steps and len(steps[-1]) < MIN_ROWS_PER_WORKER * num_workers:
        steps.pop()
    return steps


def get_rank_slice(row_indices: Int[np.ndarray, " B"], *, rank: int, num_workers: int) -> Int[np.ndarray, " b"]:
    """A worker's rows of a batch: joined by rank, the shares are the batch."""
    return np.array_split(row_indices, num_workers)[rank]


def get_rank_indices(num_rows: int, *, rank: int, num_workers: int) -> Int[np.ndarray, " n"]:
    """A worker's rows of a split: every row belongs to exactly one worker."""
    return np.arange(rank, num_rows, num_workers)
