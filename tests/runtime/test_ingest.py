import numpy as np
import pytest
import torch

from hrnet_ray.data.manifest import read_table
from hrnet_ray.data.rows import decode_exact, decode_rows
from hrnet_ray.runtime.ingest import Shares, canvas_batches, crop_batches, datasets
from hrnet_ray.runtime.machines import configure_data

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cached(ray_session, tigers):
    from hrnet_ray.config import DataConfig

    configure_data()
    return datasets(tigers, DataConfig(root=str(tigers.root), input_hw=(32, 64)))


def _ids(rows, *, seed: int, epoch: int) -> list[int]:
    batches = canvas_batches(rows, size=4, seed=seed, epoch=epoch, canvas_px=96, device=CPU)
    return [row for batch in batches for row in batch.ids.tolist()]


def test_ray_data_gives_exactly_what_the_pure_functions_give(cached, tigers):
    table = read_table(tigers, "train")
    wanted = decode_rows(table, canvas_px=96)

    (batch,) = cached["train"].iterator().iter_batches(batch_size=None, batch_format="numpy")

    for name in ("id", "canvas", "image_xy", "visible", "canvas_from_image", "box_xywh"):
        np.testing.assert_array_equal(batch[name], wanted[name])


def test_validation_crops_are_the_exact_ones(cached, tigers):
    wanted = decode_exact(read_table(tigers, "val"), input_hw=(32, 64), padding=1.25)

    batches = list(crop_batches(cached["val"].iterator(), size=3, device=CPU))

    np.testing.assert_array_equal(torch.cat([b.crops for b in batches]), wanted["crop"])


def test_an_epoch_has_the_same_order_each_time_and_another_has_another(cached):
    rows = cached["train"].iterator()

    first = _ids(rows, seed=0, epoch=1)

    assert _ids(rows, seed=0, epoch=1) == first
    assert _ids(rows, seed=0, epoch=2) != first
    assert _ids(rows, seed=1, epoch=1) != first
    assert sorted(_ids(rows, seed=0, epoch=2)) == sorted(first)


@pytest.mark.parametrize("workers", [2, 3])
def test_no_validation_row_is_lost_and_every_worker_trains_as_many(cached, tigers, workers):
    from concurrent.futures import ThreadPoolExecutor

    shares = Shares().configure(cached, workers, None, None)

    def read(share):
        return [
            [row for b in share[name].iter_batches(batch_format="numpy") for row in b["id"]]
            for name in ("train", "val")
        ]

    with ThreadPoolExecutor(workers) as pool:  # workers read at the same time, as in a training
        read_by_all = list(pool.map(read, shares))

    train, val = zip(*read_by_all, strict=True)
    rows = read_table(tigers, "val", columns=["id"])["id"].to_pylist()
    assert sorted(row for part in val for row in part) == sorted(rows)
    each = tigers.splits["train"].rows // workers
    assert [len(part) for part in train] == [each] * workers
    assert len({row for part in train for row in part}) == each * workers  # no row twice
