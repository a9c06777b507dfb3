"""`prepare` on Ray with two CPUs: the same dataset as in one process, also after crashes."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray

from hrnet_ray.cli.prepare import MIN_INSTANCES_FOR_RAY, CocoArgs, run
from hrnet_ray.data.images import codec
from hrnet_ray.data.integrity import verify_checksums, verify_footers
from hrnet_ray.data.manifest import read_manifest, read_split
from hrnet_ray.data.shards import ShardResult, ShardTask, write_shard
from hrnet_ray.data.storage import open_storage_dir
from hrnet_ray.distributed.cluster.resources import configure_ray_data
from hrnet_ray.distributed.data.shard_tasks import write_shards_ray
from hrnet_ray.errors import ClusterError, DataError
from tests.data.paws import ids, instance, labels, some, written
from tests.s3 import new_bucket, served, uri

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Thirty images of noise."""
    for id in range(30):
        noise = np.random.default_rng(id).integers(0, 256, (24, 36, 3), dtype=np.uint8)
        codec.write_image(tmp_path / "images" / f"{id}.png", noise)
    return tmp_path / "images"


def write_shard_or_crash(crashing: frozenset[str], count_file: Path | None, task: ShardTask) -> ShardResult:
    """Write a shard, but die on some images: always, or as often as `count_file` holds."""
    if crashing & {instance.image for instance in task.instances}:
        if count_file is None:
            os.kill(os.getpid(), signal.SIGKILL)
        remaining = int(count_file.read_text())
        if remaining:
            count_file.write_text(str(remaining - 1))
            os.kill(os.getpid(), signal.SIGKILL)
    return write_shard(task)


def test_the_dataset_is_the_same_on_ray_and_in_one_process(images: Path, tmp_path: Path):
    local = written(images, some(30), rows_per_shard=8)
    progress = []

    on_ray = written(
        images,
        some(30),
        out=tmp_path / "ray",
        rows_per_shard=8,
        write_shards=write_shards_ray,
        make_progress=lambda _: lambda *count: progress.append(count),
    )

    assert on_ray.splits == local.splits  # the bytes of every shard too
    assert on_ray.digest == local.digest
    verify_checksums(on_ray)
    assert len(progress) == 4
    assert progress[-1] == (30, 30)
    assert ids(read_split(on_ray, "train")) == list(range(30))


def test_a_corrupt_image_is_named_on_ray_as_in_one_process(images: Path):
    (images / "9.png").write_bytes(b"no image")
    with pytest.raises(DataError) as local_error:
        written(images, some(30), rows_per_shard=8)

    with pytest.raises(DataError) as ray_error:
        written(images, some(30), rows_per_shard=9, write_shards=write_shards_ray)

    assert str(ray_error.value) == str(local_error.value)


def test_an_error_of_a_task_has_three_lines(images: Path):
    annotations = labels(instance(0), instance(1, "1.png"))

    def write(task: ShardTask) -> ShardResult:
        raise ClusterError("no space", "here", "make some")

    with pytest.raises(ClusterError) as error:
        written(images, annotations, write_shards=partial(write_shards_ray, shard_writer=write))

    assert type(error.value) is ClusterError
    assert str(error.value) == "no space\n  here\n  fix: make some"


def test_a_shard_is_written_again_after_one_crash(images: Path, tmp_path: Path):
    (tmp_path / "crashes").write_text("1")
    write = partial(write_shard_or_crash, frozenset({"9.png"}), tmp_path / "crashes")

    manifest = written(
        images,
        some(30),
        rows_per_shard=8,
        write_shards=partial(write_shards_ray, shard_writer=write),
    )

    assert manifest.splits["train"].rows == 30
    assert manifest.digest == written(images, some(30), out=tmp_path / "here").digest


def test_images_that_crash_the_decoder_are_skipped_by_name(images: Path, tmp_path: Path):
    write_shards = partial(
        write_shards_ray,
        shard_writer=partial(write_shard_or_crash, frozenset({"9.png", "14.png"}), None),
    )
    with pytest.raises(DataError, match="2 images cannot be read") as error:
        written(images, some(30), rows_per_shard=8, write_shards=write_shards)

    manifest = written(images, some(30), rows_per_shard=8, write_shards=write_shards, skip_corrupt=True)

    assert "9.png (crashes the decoder: instance 9)" in error.value.where
    assert ids(read_split(manifest, "train")) == [id for id in range(30) if id not in (9, 14)]
    listed = (tmp_path / "out" / "skipped.csv").read_text().splitlines()[1:]
    assert listed == [f"train,{id}.png,crashes the decoder,instance {id}" for id in (9, 14)]
    verify_checksums(manifest)


def test_a_shard_that_always_crashes_is_named(images: Path):
    def write(task: ShardTask) -> ShardResult:
        if len(task.instances) > 1:  # as with too little memory
            os.kill(os.getpid(), signal.SIGKILL)
        return write_shard(task)

    with pytest.raises(ClusterError, match="writing a shard crashes its process") as error:
        written(
            images,
            some(5),
            rows_per_shard=5,
            write_shards=partial(write_shards_ray, shard_writer=write),
        )

    assert error.value.where.startswith("train/00000.parquet: 5 instances from 0.png on")


@pytest.fixture
def bucket() -> Iterator[Callable[[str], str]]:
    with served() as address:
        name = new_bucket(address)
        yield lambda path: uri(name, path, address)


def test_tasks_read_and_write_a_bucket_that_ray_data_reads(images: Path, bucket: Callable[[str], str]):
    raw = open_storage_dir(bucket("raw"), "--images")
    for path in images.iterdir():
        raw.write_bytes(path.name, path.read_bytes())

    written(bucket("raw"), some(30), out=bucket("atrw"), rows_per_shard=8, write_shards=write_shards_ray)

    manifest = read_manifest(bucket("atrw"))
    verify_footers(manifest)
    verify_checksums(manifest)
    assert manifest.digest == written(images, some(30)).digest
    configure_ray_data()
    rows = ray.data.read_parquet(manifest.get_shard_uris("train"), filesystem=manifest.folder.filesystem)
    assert sorted(row["id"] for row in rows.select_columns(["id"]).take_all()) == list(range(30))


def test_many_instances_are_prepared_on_ray(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    document = {
        "images": [{"id": id, "file_name": f"{id}.png"} for id in range(30)],
        "annotations": [
            {
                "id": id,
                "image_id": id,
                "category_id": 1,
                "bbox": [5, 5, 20, 10],
                "keypoints": [10, 11, 2],
            }
            for id in range(30)
        ],
        "categories": [{"id": 1, "name": "toe", "keypoints": ["toe"]}],
    }
    (tmp_path / "toes.json").write_text(json.dumps(document))
    args = CocoArgs(images=images, annotations=tmp_path / "toes.json", out=tmp_path / "out")
    run(args)
    local_output = capsys.readouterr().out
    monkeypatch.setattr("hrnet_ray.cli.prepare.MIN_INSTANCES_FOR_RAY", 29)

    run(replace(args, out=tmp_path / "ray"))

    assert "on Ray" not in local_output
    assert capsys.readouterr().out.startswith("  on Ray: 2 CPUs of this machine\n")
    run(replace(args, out=tmp_path / "ray"))
    assert "on Ray" not in capsys.readouterr().out  # all shards exist already
    assert MIN_INSTANCES_FOR_RAY == 2_000
    assert read_manifest(tmp_path / "ray").digest == read_manifest(tmp_path / "out").digest
