"""In which order an epoch meets its rows, and who gets which.

Everything follows from (rows, seed, epoch): neither the number of workers nor a resume can change
what is learnt from, and when.
"""

import numpy as np
from jaxtyping import Int

RUN = 64
"""Rows that lie side by side in the store, and are met in the same window."""
WINDOW = 32 * RUN
"""Rows that are mixed with each other. A smaller set is mixed as a whole; of a larger one no node
has to hold more than two windows at a time."""

LEAST_ROWS = 2
"""A worker's share of a batch must have so many: BatchNorm learns nothing from one."""


def epoch_order(
    rows: int, *, seed: int, epoch: int, window: int = WINDOW, run: int = RUN
) -> Int[np.ndarray, " N"]:
    """Each of `rows` once: the runs in random order, their rows mixed within each window."""
    chance = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    runs = chance.permutation(-(-rows // run))
    each = window // run
    windows = [
        chance.permutation(
            np.concatenate([_run(at, run, rows) for at in runs[first : first + each].tolist()])
        )
        for first in range(0, len(runs), each)
    ]
    return np.concatenate(windows) if windows else np.zeros(0, np.int64)


def _run(at: int, run: int, rows: int) -> Int[np.ndarray, " R"]:
    return np.arange(at * run, min((at + 1) * run, rows))


def training_steps(
    order: Int[np.ndarray, " N"], *, size: int, workers: int
) -> list[Int[np.ndarray, " B"]]:
    """The batches of an epoch, all workers together.

    Each has `size` rows; the last one has what is left, unless that is less than `LEAST_ROWS` a
    worker: then these rows wait for another epoch.
    """
    steps = [order[first : first + size] for first in range(0, len(order), size)]
    if steps and len(steps[-1]) < LEAST_ROWS * workers:
        steps.pop()
    return steps


def share_of_step(step: Int[np.ndarray, " B"], *, rank: int, workers: int) -> Int[np.ndarray, " b"]:
    """A worker's rows of a batch: joined by rank, the shares are the batch."""
    return np.array_split(step, workers)[rank]


def validation_share(rows: int, *, rank: int, workers: int) -> Int[np.ndarray, " n"]:
    """A worker's rows of a split: every row is somebody's, and nobody else's."""
    return np.arange(rank, rows, workers)
