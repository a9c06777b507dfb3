"""A command that was stopped goes on where it stopped, and never takes what it should not."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data.dataset_preparation import write_shards_locally
from hrnet_ray.data.images import codec
from hrnet_ray.data.integrity import verify_checksums
from hrnet_ray.data.manifest import read_manifest
from hrnet_ray.data.shards import DoneCallback, ShardResult, ShardTask
from hrnet_ray.errors import DataError
from tests.data.paws import instance, labels, some, written


class Stopped(Exception):
    """Somebody pressed Ctrl-C."""


class Counted:
    """Makes shards as ever, and counts them; stops before the one that is one too many."""

    def __init__(self, most: int = 1_000) -> None:
        self.files, self.most = [], most

    def __call__(self, tasks: Sequence[ShardTask], tell: DoneCallback) -> Iterator[ShardResult]:
        for task in tasks:
            if len(self.files) == self.most:
                raise Stopped
            self.files.append(task.file)
            yield from write_shards_locally([task], tell)


@pytest.fixture
def stopped(images: Path) -> Path:
    """Images of which two of four shards were made."""
    with pytest.raises(Stopped):
        written(images, some(7), rows_per_shard=2, write_shards=Counted(2))
    return images


def test_the_same_command_makes_only_what_is_missing(stopped: Path):
    counted, said, told = Counted(), [], []

    manifest = written(
        stopped,
        some(7),
        rows_per_shard=2,
        write_shards=counted,
        log_message=said.append,
        make_progress=lambda _: lambda *count: told.append(count),
    )

    assert counted.files == ["train/00002.parquet", "train/00003.parquet"]
    assert said == ["train: 2 of 4 shards are there already"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    verify_checksums(manifest)
    untouched = written(stopped, some(7), out=stopped.parent / "at once")
    assert manifest.digest == untouched.digest


def test_a_finished_command_has_nothing_left_to_make(images: Path):
    before = written(images, some(7), rows_per_shard=2)
    counted = Counted()

    again = written(images, some(7), rows_per_shard=2, write_shards=counted)

    assert counted.files == []
    assert again == before


def test_new_pictures_at_the_end_cost_their_own_shards(images: Path):
    written(images, some(5), rows_per_shard=2)
    counted = Counted()

    written(images, some(7), rows_per_shard=2, write_shards=counted)

    assert counted.files == ["train/00002.parquet", "train/00003.parquet"]


def changed_picture(images: Path) -> dict:
    (images / "0.png").write_bytes((images / "6.png").read_bytes())
    return {}


def changed_shard(images: Path) -> dict:
    path = images.parent / "out" / "train" / "00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    return {}


def shard_gone(images: Path) -> dict:
    (images.parent / "out" / "train" / "00000.parquet").unlink()
    return {}


def cut_off_report(images: Path) -> dict:
    path = images.parent / "out" / ".journal" / "train-00000.json"
    path.write_bytes(path.read_bytes()[:-9])
    return {}


def foreign_report(images: Path) -> dict:
    (images.parent / "out" / ".journal" / "train-00000.json").write_text('{"report": [1]}')
    return {}


def changed_label(_: Path) -> dict:
    return {"found": labels(instance(0, x=5.1), *some(7).instances[1:])}


@pytest.mark.parametrize(
    "change",
    [changed_picture, changed_shard, shard_gone, cut_off_report, foreign_report, changed_label],
)
def test_what_changed_is_made_again_and_nothing_else(stopped: Path, change: Callable[[Path], dict]):
    counted = Counted()
    found = change(stopped).get("found", some(7))

    manifest = written(stopped, found, rows_per_shard=2, write_shards=counted)

    assert counted.files == [f"train/0000{at}.parquet" for at in (0, 2, 3)]
    verify_checksums(manifest)
    assert manifest.digest == written(stopped, found, out=stopped.parent / "at once").digest


@pytest.mark.parametrize("changes", [{"canvas_px": 17}, {"store_full_images": True}, {"rows_per_shard": 3}])
def test_another_plan_starts_clean(stopped: Path, changes: dict):
    counted, said = Counted(), []

    manifest = written(
        stopped,
        some(7),
        **{"rows_per_shard": 2, **changes},
        write_shards=counted,
        log_message=said.append,
    )

    assert len(counted.files) == len(manifest.splits["train"].shards)
    assert said == ["train: the shards that are there are of another plan; all are made anew"]
    verify_checksums(manifest)


def test_broken_pictures_do_not_undo_what_was_made(images: Path):
    (images / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="1 images cannot be read"):
        written(images, some(7), rows_per_shard=2)
    counted = Counted()

    manifest = written(images, some(7), rows_per_shard=2, write_shards=counted, skip_corrupt=True)

    assert counted.files == []
    assert (manifest.splits["train"].rows, manifest.splits["train"].skipped) == (6, 1)


def test_a_killed_command_goes_on(tmp_path: Path):
    for id in range(60):
        noise = np.random.default_rng(id).integers(0, 256, (300, 400, 3), dtype=np.uint8)
        codec.write_image(tmp_path / "images" / f"{id}.png", noise)
    command = textwrap.dedent(f"""
        from pathlib import Path
        from tests.data.paws import some, written
        written(Path({str(tmp_path / "images")!r}), some(60), rows_per_shard=2)
    """)
    going = subprocess.Popen([sys.executable, "-c", command])
    made = tmp_path / "out" / ".journal"
    while going.poll() is None and (not made.is_dir() or len(list(made.iterdir())) < 6):
        time.sleep(0.005)
    os.kill(going.pid, signal.SIGKILL)
    assert going.wait() == -signal.SIGKILL, "it was faster than its killer"
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        read_manifest(tmp_path / "out")
    counted = Counted()

    manifest = written(tmp_path / "images", some(60), rows_per_shard=2, write_shards=counted)

    assert len(counted.files) <= 27  # the last reports may not have been whole
    verify_checksums(manifest)
    names = [path.name for path in (tmp_path / "out" / "train").iterdir()]
    assert sorted(names) == [f"{at:05d}.parquet" for at in range(30)]
