"""Items made in advance: in order, with their faults, and no longer than somebody wants them."""

import pytest

from hrnet_ray.utils.prefetch import PREFETCH_DEPTH, prefetch_items


def test_items_come_in_order():
    assert list(prefetch_items(iter(range(10)))) == list(range(10))


def test_a_fault_in_the_thread_that_makes_batches_is_raised_where_they_are_used():
    def broken():
        yield 1
        raise RuntimeError("no more")

    items = prefetch_items(broken())

    assert next(items) == 1
    with pytest.raises(RuntimeError, match="no more"):
        next(items)


def test_a_reader_that_stops_early_stops_the_thread():
    made = []

    def numbers():
        for number in range(1000):
            made.append(number)
            yield number

    items = prefetch_items(numbers())
    next(items)
    items.close()

    assert len(made) < 10


@pytest.mark.timeout(20)
@pytest.mark.parametrize("count", range(1, PREFETCH_DEPTH + 4))
def test_a_reader_may_stop_near_the_end_too(count: int):
    items = prefetch_items(iter(range(count)))
    next(items)

    items.close()
