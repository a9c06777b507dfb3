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


def make_loader(cached, *, rank: int = 0, workers: int = 1) -> WorkerDataLoader:
    data_config, splits = cached
    return WorkerDataLoader(splits, data_config, canvas_px=96, device=CPU, rank=rank, num_workers=workers, threads=2)


def collect_batches(cached, *, workers: int, epoch: int, size: int = 4) -> list[list[int]]:
    """The ids of each batch of an epoch, all workers together."""
    seen = []
    for rank in range(workers):
        worker = make_loader(cached, rank=rank, workers=workers)
        list(worker.iter_train_batches(batch_size=size, seed=0, epoch=epoch))
        seen.append(worker.seen_ids)
    return [list(chain(*parts)) for parts in zip(*seen, strict=True)]


def test_the_loader_returns_what_the_decode_functions_return(stored, tigers):
    table = read_split(tigers, "train")
    expected = decode_train_batch(table, canvas_px=96)
    index_by_id = {id: index for index, id in enumerate(expected["id"].tolist())}

    batches = list(make_loader(stored).iter_train_batches(batch_size=4, seed=0, epoch=0))

    for batch in batches:
        indices = [index_by_id[id] for id in batch.ids.tolist()]
        np.testing.assert_array_equal(batch.canvases, expected["canvas"][indices])
        np.testing.assert_array_equal(batch.visible, expected["visible"][indices])
        for tensor, name in ((batch.image_xy, "image_xy"), (batch.box_xywh, "box_xywh")):
            np.testing.assert_array_equal(tensor, expected[name][indices].astype(np.float32))
    assert sum(len(batch.ids) for batch in batches) == table.num_rows


def test_validation_crops_are_exact(stored, tigers):
    expected = decode_eval_batch(read_split(tigers, "val"), input_hw=(32, 64), padding=1.25)

    batches = list(make_loader(stored).iter_val_batches(batch_size=3))

    np.testing.assert_array_equal(torch.cat([b.ids for b in batches]), expected["id"])
    np.testing.assert_array_equal(torch.cat([b.crops for b in batches]), expected["crop"])


def test_the_order_depends_on_the_epoch_only(stored):
    first = collect_batches(stored, workers=1, epoch=1)

    assert collect_batches(stored, workers=1, epoch=1) == first
    assert collect_batches(stored, workers=1, epoch=2) != first
    assert sorted(chain(*collect_batches(stored, workers=1, epoch=2))) == sorted(chain(*first))


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_more_workers_share_the_same_batches(stored, tigers, workers):
    one_worker = collect_batches(stored, workers=1, epoch=1, size=8)

    several = collect_batches(stored, workers=workers, epoch=1, size=8)

    assert several == one_worker[: len(several)]
    omitted = sum(map(len, one_worker)) - sum(map(len, several))
    assert omitted in (0, tigers.splits["train"].rows % 8)


def test_loss_weights_of_uneven_slices_add_up_to_one_batch(stored):
    workers = [make_loader(stored, rank=rank, workers=2) for rank in range(2)]
    batches = [list(worker.iter_train_batches(batch_size=5, seed=0, epoch=0)) for worker in workers]

    for first, second in zip(*batches, strict=True):
        rows = len(first.ids) + len(second.ids)
        assert first.loss_weight / 2 == pytest.approx(len(first.ids) / rows)
        assert second.loss_weight / 2 == pytest.approx(len(second.ids) / rows)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_validation_row_is_seen_exactly_once(stored, tigers, workers):
    seen = [
        row
        for rank in range(workers)
        for batch in make_loader(stored, rank=rank, workers=workers).iter_val_batches(batch_size=2)
        for row in batch.ids.tolist()
    ]

    assert sorted(seen) == sorted(read_split(tigers, "val", columns=["id"])["id"].to_pylist())


def test_the_object_store_holds_uint8_images_and_no_heatmaps(stored):
    _, splits = stored
    for split in splits.values():
        for block in ray.get(split.block_refs):
            fields = {field.name: field.type for field in block.schema}
            large = {name for name in fields if block[name].nbytes > 1000 * block.num_rows}
            assert large <= {"canvas", "crop", "picture"}
            assert not any(name.startswith("heat") for name in fields)


@pytest.mark.parametrize("decoded", [True, False])
def test_rows_that_become_corrupt_after_prepare_are_skipped_and_named(tigers, tmp_path, decoded):
    damaged = corrupt_rows(tigers, tmp_path, rows={"train": [0, 3, 4], "val": [1]})
    data = DataConfig(root=str(tmp_path), input_hw=(32, 64))
    worker = make_loader((data, load_into_object_store(damaged, data, decoded=decoded)))

    batches = list(worker.iter_train_batches(batch_size=4, seed=0, epoch=0))
    crops = list(worker.iter_val_batches(batch_size=2))

    ids = {name: read_split(tigers, name, columns=["id"])["id"].to_pylist() for name in damaged.splits}
    corrupt = {("train", ids["train"][row]) for row in (0, 3, 4)} | {("val", ids["val"][1])}
    assert worker.corrupt_rows == corrupt
    seen = [row for step in worker.seen_ids for row in step]
    assert sorted(seen) == sorted(row for row in ids["train"] if ("train", row) not in corrupt)
    assert sum(len(batch.ids) for batch in crops) == len(ids["val"]) - 1
    for batch in batches:  # a corrupt row has the pixels of another one, and no visible keypoints
        hidden = [("train", row) in corrupt for row in batch.ids.tolist()]
        assert not batch.visible[hidden].any()
        assert all(canvas.any() for canvas in batch.canvases) or all(hidden)


def test_an_unreadable_shard_is_a_data_error(tigers, tmp_path):
    shutil.copytree(tigers.root, tmp_path / "torn")
    torn = replace(tigers, root=tmp_path / "torn")
    path = Path(torn.get_shard_uris("train")[0])
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)  # the first column's pages; the footer stays
    path.write_bytes(data)

    with pytest.raises(DataError, match="the shards of train cannot be read"):
        load_into_object_store(torn, DataConfig(root=str(torn.root), input_hw=(32, 64)))


def test_missing_rows_are_a_data_error(tigers, tmp_path):
    shutil.copytree(tigers.root, tmp_path / "short")
    short = replace(tigers, root=tmp_path / "short")
    path = Path(short.get_shard_uris("train")[0])
    pq.write_table(pq.read_table(path)[1:], path)
    rows = tigers.splits["train"].rows

    with pytest.raises(DataError, match=f"train must have {rows} rows, got {rows - 1}"):
        load_into_object_store(short, DataConfig(root=str(short.root), input_hw=(32, 64)))


def corrupt_rows(manifest, root, *, rows):
    """Copy a dataset with other image bytes in `rows`."""
    for name, split in manifest.splits.items():
        (root / name).mkdir()
        start = 0
        for shard in split.shards:
            table = pq.read_table(manifest.root / shard.file)
            images = table["picture"].to_pylist()
            in_shard = [row - start for row in rows[name] if start <= row < start + shard.rows]
            for nth, row in enumerate(in_shard):
                # A truncated image, that of another row, and none.
                images[row] = (images[row][:-20], images[row - 1], b"")[nth % 3]
            column = table.schema.get_field_index("picture")
            table = table.set_column(column, "picture", pa.array(images, pa.binary()))
            pq.write_table(table, root / shard.file)
            start += shard.rows
    return replace(manifest, root=root)


def test_a_bucket_is_read_like_a_folder(tigers):
    data = DataConfig(root=str(tigers.root), input_hw=(32, 64))
    with served() as address:
        dataset_uri = uri(new_bucket(address), "tigers", address)
        bucket = open_storage_dir(dataset_uri, "--out")
        for path in tigers.root.rglob("*.*"):
            if path.suffix in (".parquet", ".json"):
                bucket.write_bytes(str(path.relative_to(tigers.root)), path.read_bytes())

        stored = load_into_object_store(read_manifest(dataset_uri), data)

        batches = list(make_loader((data, stored)).iter_train_batches(batch_size=4, seed=0, epoch=0))
    ids = read_split(tigers, "train", columns=["id"])["id"].to_pylist()
    assert sorted(row for batch in batches for row in batch.ids.tolist()) == sorted(ids)


def test_rows_that_do_not_fit_stay_encoded_and_a_line_is_printed(tigers, capsys, monkeypatch):
    monkeypatch.setattr(object_store, "OBJECT_STORE_FRAC", 1e-6)
    data = DataConfig(root=str(tigers.root), input_hw=(32, 64))

    assert not load_into_object_store(tigers, data)["train"].decoded

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("data: decoded rows need 0.0 GB")
