import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from hrnet_ray.data.sampler import (
    MIN_ROWS_PER_WORKER,
    batch_indices,
    get_rank_indices,
    get_rank_slice,
    shuffle_row_indices,
)


@given(rows=st.integers(0, 700), seed=st.integers(0, 2**32), epoch=st.integers(0, 300))
@settings(max_examples=50)
def test_an_epoch_meets_every_row_once(rows: int, seed: int, epoch: int):
    order = shuffle_row_indices(rows, seed=seed, epoch=epoch, window_rows=64, block_rows=16)

    assert sorted(order.tolist()) == list(range(rows))


def test_an_epoch_is_the_same_each_time_and_unlike_every_other():
    orders = {
        (seed, epoch): shuffle_row_indices(300, seed=seed, epoch=epoch).tolist()
        for seed in range(3)
        for epoch in range(20)
    }

    assert all(shuffle_row_indices(300, seed=s, epoch=e).tolist() == o for (s, e), o in orders.items())
    assert len({tuple(order) for order in orders.values()}) == len(orders)


def test_a_large_set_is_met_window_by_window_in_whole_runs():
    order = shuffle_row_indices(1024, seed=0, epoch=0, window_rows=128, block_rows=32)

    runs = [set((order[at : at + 128] // 32).tolist()) for at in range(0, 1024, 128)]
    assert [len(of) for of in runs] == [4] * 8
    assert sorted(run for of in runs for run in of) == list(range(32))
    # No row stays where it was more often than chance has it.
    assert (order == np.arange(1024)).mean() < 0.02


def test_a_small_set_is_mixed_as_a_whole():
    firsts = {int(shuffle_row_indices(1500, seed=1, epoch=epoch)[0]) // 64 for epoch in range(40)}

    assert len(firsts) > 12  # of 24 runs


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [0, 1, 16, 33, 41])
def test_the_workers_shares_are_the_batches(rows: int, workers: int):
    order = shuffle_row_indices(rows, seed=3, epoch=2)
    alone = batch_indices(order, batch_size=16, num_workers=1)

    steps = batch_indices(order, batch_size=16, num_workers=workers)

    for step, whole in zip(steps, alone, strict=False):
        shares = [get_rank_slice(step, rank=rank, num_workers=workers) for rank in range(workers)]
        np.testing.assert_array_equal(np.concatenate(shares), whole)
        assert min(map(len, shares)) >= MIN_ROWS_PER_WORKER
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    left_out = rows - sum(map(len, steps))
    assert left_out == (rows % 16 if rows % 16 < MIN_ROWS_PER_WORKER * workers else 0)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_every_validation_row_is_exactly_one_workers(workers: int):
    shares = [get_rank_indices(11, rank=rank, num_workers=workers) for rank in range(workers)]

    assert sorted(np.concatenate(shares).tolist()) == list(range(11))
