import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from hrnet_ray.config import DataConfig
from hrnet_ray.data.manifest import read_manifest, read_split
from hrnet_ray.data.records import decode_eval_batch, decode_train_batch
from hrnet_ray.data.storage import open_storage_dir
from hrnet_ray.distributed.cluster.resources import configure_ray_data
from hrnet_ray.distributed.data import object_store
from hrnet_ray.distributed.data.data_loader import WorkerDataLoader
from hrnet_ray.distributed.data.object_store import load_into_object_store
from hrnet_ray.errors import DataError
from tests.s3 import new_bucket, served, uri

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["decoded", "encoded"])
def stored(request, ray_session, tigers):
    configure_ray_data()
    data = DataConfig(root=str(tigers.root), input_hw=(32, 64))
    return data, load_into_object_store(tigers, data, decoded=request.param == "decoded")


def feed(stored, *, rank: int = 0, workers: int = 1) -> WorkerDataLoader:
    data, splits = stored
    return WorkerDataLoader(
        splits, data, canvas_px=96, device=CPU, rank=rank, num_workers=workers, threads=2
    )


def orders(stored, *, workers: int, epoch: int, size: int = 4) -> list[list[int]]:
    """The ids of each batch of an epoch, all workers together."""
    met = []
    for rank in range(workers):
        worker = feed(stored, rank=rank, workers=workers)
        list(worker.iter_train_batches(batch_size=size, seed=0, epoch=epoch))
        met.append(worker.seen_ids)
    return [list(chain(*parts)) for parts in zip(*met, strict=True)]


def test_a_feed_gives_what_the_pure_functions_give(stored, tigers):
    table = read_split(tigers, "train")
    wanted = decode_train_batch(table, canvas_px=96)
    place = {row: at for at, row in enumerate(wanted["id"].tolist())}

    batches = list(feed(stored).iter_train_batches(batch_size=4, seed=0, epoch=0))

    for batch in batches:
        of = [place[row] for row in batch.ids.tolist()]
        np.testing.assert_array_equal(batch.canvases, wanted["canvas"][of])
        np.testing.assert_array_equal(batch.visible, wanted["visible"][of])
        for mine, name in ((batch.image_xy, "image_xy"), (batch.box_xywh, "box_xywh")):
            np.testing.assert_array_equal(mine, wanted[name][of].astype(np.float32))
    assert sum(len(batch.ids) for batch in batches) == table.num_rows


def test_validation_crops_are_the_exact_ones(stored, tigers):
    wanted = decode_eval_batch(read_split(tigers, "val"), input_hw=(32, 64), padding=1.25)

    batches = list(feed(stored).iter_val_batches(batch_size=3))

    np.testing.assert_array_equal(torch.cat([b.ids for b in batches]), wanted["id"])
    np.testing.assert_array_equal(torch.cat([b.crops for b in batches]), wanted["crop"])


def test_an_epoch_has_the_same_order_each_time_and_another_has_another(stored):
    first = orders(stored, workers=1, epoch=1)

    assert orders(stored, workers=1, epoch=1) == first
    assert orders(stored, workers=1, epoch=2) != first
    assert sorted(chain(*orders(stored, workers=1, epoch=2))) == sorted(chain(*first))


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_more_workers_learn_from_the_same_batches(stored, tigers, workers):
    alone = orders(stored, workers=1, epoch=1, size=8)

    together = orders(stored, workers=workers, epoch=1, size=8)

    assert together == alone[: len(together)]
    left_out = sum(map(len, alone)) - sum(map(len, together))
    assert left_out in (0, tigers.splits["train"].rows % 8)


def test_uneven_shares_weigh_as_one_batch(stored):
    workers = [feed(stored, rank=rank, workers=2) for rank in range(2)]
    batches = [list(worker.iter_train_batches(batch_size=5, seed=0, epoch=0)) for worker in workers]

    for one, other in zip(*batches, strict=True):
        rows = len(one.ids) + len(other.ids)
        assert one.loss_weight / 2 == pytest.approx(len(one.ids) / rows)
        assert other.loss_weight / 2 == pytest.approx(len(other.ids) / rows)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_validation_row_is_seen_exactly_once(stored, tigers, workers):
    seen = [
        row
        for rank in range(workers)
        for batch in feed(stored, rank=rank, workers=workers).iter_val_batches(batch_size=2)
        for row in batch.ids.tolist()
    ]

    assert sorted(seen) == sorted(read_split(tigers, "val", columns=["id"])["id"].to_pylist())


def test_the_object_store_holds_pictures_and_never_heatmaps_or_floats_of_them(stored):
    _, splits = stored
    for split in splits.values():
        for block in ray.get(split.block_refs):
            fields = {field.name: field.type for field in block.schema}
            large = {name for name in fields if block[name].nbytes > 1000 * block.num_rows}
            assert large <= {"canvas", "crop", "picture"}
            assert not any(name.startswith("heat") for name in fields)


@pytest.mark.parametrize("decoded", [True, False])
def test_rows_that_rot_after_prepare_are_skipped_and_told(tigers, tmp_path, decoded):
    rotten = spoil(tigers, tmp_path, rows={"train": [0, 3, 4], "val": [1]})
    data = DataConfig(root=str(tmp_path), input_hw=(32, 64))
    worker = feed((data, load_into_object_store(rotten, data, decoded=decoded)))

    batches = list(worker.iter_train_batches(batch_size=4, seed=0, epoch=0))
    crops = list(worker.iter_val_batches(batch_size=2))

    ids = {
        name: read_split(tigers, name, columns=["id"])["id"].to_pylist() for name in rotten.splits
    }
    lost = {("train", ids["train"][at]) for at in (0, 3, 4)} | {("val", ids["val"][1])}
    assert worker.corrupt_rows == lost
    met = [row for step in worker.seen_ids for row in step]
    assert sorted(met) == sorted(row for row in ids["train"] if ("train", row) not in lost)
    assert sum(len(batch.ids) for batch in crops) == len(ids["val"]) - 1
    for batch in batches:  # a rotten row shows another one's pixels, and teaches nothing
        hidden = [("train", row) in lost for row in batch.ids.tolist()]
        assert not batch.visible[hidden].any()
        assert all(canvas.any() for canvas in batch.canvases) or all(hidden)


def test_a_shard_without_rows_that_can_be_told_apart_is_an_error_of_the_data(tigers, tmp_path):
    shutil.copytree(tigers.root, tmp_path / "torn")
    torn = replace(tigers, root=tmp_path / "torn")
    path = Path(torn.get_shard_uris("train")[0])
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)  # the first column's pages; the footer stays
    path.write_bytes(data)

    with pytest.raises(DataError, match="shards of train that cannot be read"):
        load_into_object_store(torn, DataConfig(root=str(torn.root), input_hw=(32, 64)))


def spoil(manifest, root, *, rows):
    """A copy of a data set whose `rows` hold other pictures than were prepared."""
    for name, split in manifest.splits.items():
        (root / name).mkdir()
        start = 0
        for shard in split.shards:
            table = pq.read_table(manifest.root / shard.file)
            pictures = table["picture"].to_pylist()
            here = [at - start for at in rows[name] if start <= at < start + shard.rows]
            for nth, at in enumerate(here):
                # A cut picture, another row's whole one, none: all of them are noticed.
                pictures[at] = (pictures[at][:-20], pictures[at - 1], b"")[nth % 3]
            place = table.schema.get_field_index("picture")
            table = table.set_column(place, "picture", pa.array(pictures, pa.binary()))
            pq.write_table(table, root / shard.file)
            start += shard.rows
    return replace(manifest, root=root)


def test_a_bucket_serves_as_well_as_a_folder(tigers):
    data = DataConfig(root=str(tigers.root), input_hw=(32, 64))
    with served() as address:
        there = uri(new_bucket(address), "tigers", address)
        bucket = open_storage_dir(there, "--out")
        for path in tigers.root.rglob("*.*"):
            if path.suffix in (".parquet", ".json"):
                bucket.write_bytes(str(path.relative_to(tigers.root)), path.read_bytes())

        stored = load_into_object_store(read_manifest(there), data)

        batches = list(feed((data, stored)).iter_train_batches(batch_size=4, seed=0, epoch=0))
    ids = read_split(tigers, "train", columns=["id"])["id"].to_pylist()
    assert sorted(row for batch in batches for row in batch.ids.tolist()) == sorted(ids)


def test_what_does_not_fit_is_not_decoded_in_advance_and_that_is_said(tigers, capsys, monkeypatch):
    monkeypatch.setattr(object_store, "OBJECT_STORE_FRAC", 1e-6)
    data = DataConfig(root=str(tigers.root), input_hw=(32, 64))

    assert not load_into_object_store(tigers, data)["train"].decoded

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("data: decoded it would take 0.0 GB")
