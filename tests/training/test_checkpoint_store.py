"""Whatever happens to a checkpoint, on its way to the disk or later, an honest one is found."""

import errno
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hrnet_ray.errors import DataError
from hrnet_ray.training import checkpoint_store
from hrnet_ray.training.checkpoint import TrainState
from hrnet_ray.training.checkpoint_store import (
    MANIFEST_FILE,
    METRICS_FILE,
    STATE_FILE,
    CheckpointStore,
    HashingWriter,
    parse_epoch,
    read_checkpoint_metrics,
    verify_checkpoint,
)
from tests.training.trainings import Training

KILLS = int(os.environ.get("HRNET_RAY_KILLS", "30"))
"""While a checkpoint is saved, at random bytes; the steps around and after them besides."""


@pytest.fixture(scope="module")
def training() -> Training:
    return Training(seed=0, tiny=True)


@pytest.fixture
def store(training: Training, tmp_path: Path) -> CheckpointStore:
    """Three checkpoints, of the epochs 3, 4 and 5."""
    store = CheckpointStore(tmp_path / "ray", metadata={"seed": 7, "workers": 2})
    for epoch in (3, 4, 5):
        training.save(store, TrainState(epoch=epoch))
    return store


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def newest_whole(store: CheckpointStore) -> tuple[Path, list[str]]:
    """The checkpoint to go on from, and why each newer one is passed over."""
    reasons = []
    for folder in store.list_newest_first():
        try:
            verify_checkpoint(folder)
        except DataError as error:
            reasons.append(error.where)
        else:
            return folder, reasons
    raise AssertionError(f"nothing to go on from: {reasons}")


def test_the_manifest_says_what_is_there_and_with_what_it_was_made(store: CheckpointStore):
    folder = store.list_newest_first()[0]

    manifest = verify_checkpoint(folder)

    assert manifest["epoch"] == 5
    assert manifest["about"] == {"seed": 7, "workers": 2}
    assert manifest["files"].keys() == {STATE_FILE, METRICS_FILE}
    assert manifest["files"][STATE_FILE]["bytes"] == (folder / STATE_FILE).stat().st_size
    assert read_checkpoint_metrics(folder) == {"epoch": 5, "train/loss": 0.5}


def test_the_newest_three_stay_by_their_epoch_whatever_the_clock_says(
    training: Training, store: CheckpointStore
):
    for hours, folder in enumerate(store.list_newest_first()):  # the newest seems the oldest
        os.utime(folder, (3600 * (hours - 1), 3600 * (hours - 1)))
        os.utime(folder / MANIFEST_FILE, (4e9 - hours, 4e9 - hours))

    training.save(store, TrainState(epoch=6))

    assert names(store) == ["epoch_0004", "epoch_0005", "epoch_0006"]
    assert newest_whole(store)[0].name == "epoch_0006"


def test_epochs_of_more_digits_are_newer(training: Training, tmp_path: Path):
    store = CheckpointStore(tmp_path)
    for epoch in (9999, 10000):
        training.save(store, TrainState(epoch=epoch))

    assert [parse_epoch(folder) for folder in store.list_newest_first()] == [10000, 9999]


def test_an_epoch_that_is_done_again_costs_no_older_one(training: Training, store: CheckpointStore):
    (store.folder / "epoch_0005" / STATE_FILE).write_bytes(b"rotten")
    shutil.rmtree(store.folder / "epoch_0003")

    training.save(store, TrainState(epoch=4))  # it went on from 3, and 5 is damaged

    assert names(store) == ["epoch_0004", "epoch_0005"]
    assert newest_whole(store)[0].name == "epoch_0004"
    training.save(store, TrainState(epoch=5))
    assert newest_whole(store) == (store.folder / "epoch_0005", [])


def _truncated(folder: Path) -> None:
    os.truncate(folder / STATE_FILE, (folder / STATE_FILE).stat().st_size // 2)


def _one_bit_flipped(folder: Path) -> None:
    data = bytearray((folder / STATE_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / STATE_FILE).write_bytes(data)


def _without_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()


def _two_files_swapped(folder: Path) -> None:
    """With the epoch before: same sizes, other weights."""
    older = folder.with_name("epoch_0004") / METRICS_FILE
    (folder / METRICS_FILE).rename(folder / "x")
    older.rename(folder / METRICS_FILE)
    (folder / "x").rename(older)


def _under_another_name(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("epoch_0003"), folder)


def _without_state(folder: Path) -> None:
    (folder / STATE_FILE).unlink()


def _of_the_future(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"format": 3}))


DAMAGES: dict[Callable[[Path], None], tuple[str, str]] = {
    _truncated: ("epoch_0004", "its manifest says"),
    _one_bit_flipped: ("epoch_0004", "state.pt is not what was written"),
    _without_manifest: ("epoch_0004", "it has no MANIFEST.json, so it was never finished"),
    _two_files_swapped: ("epoch_0003", "meta.json is not what was written"),  # 4 is mixed as well
    _under_another_name: ("epoch_0004", "it holds epoch 3"),
    _without_state: ("epoch_0004", "state.pt cannot be read (No such file or directory)"),
    _of_the_future: ("epoch_0004", "it was written by a newer version (format 3, known 2)"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_behind_a_damaged_one_the_one_before_is_found_and_the_reason_named(
    damage: Callable[[Path], None], store: CheckpointStore
):
    damage(store.folder / "epoch_0005")

    folder, reasons = newest_whole(store)

    expected, reason = DAMAGES[damage]
    assert folder.name == expected
    assert reasons[0].startswith(f"{store.folder / 'epoch_0005'}: ")
    assert reason in reasons[0]
    assert Training(seed=9, tiny=True).load(folder) == TrainState(epoch=int(expected[-1]))


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"{}", b"\x00", b"\xff", b"[" * 10**5, b'{"format": 2, "epoch": 5, "files": []}'],
)
def test_a_manifest_that_vouches_for_nothing_is_refused(manifest: bytes, store: CheckpointStore):
    folder = store.folder / "epoch_0005"
    (folder / MANIFEST_FILE).write_bytes(manifest)

    with pytest.raises(DataError, match=r"MANIFEST\.json cannot be read"):
        verify_checkpoint(folder)


def test_a_checkpoint_from_before_there_were_metrics_is_read(store: CheckpointStore):
    folder = store.folder / "epoch_0005"
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    del manifest["files"][METRICS_FILE]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"format": 1}))
    (folder / METRICS_FILE).unlink()

    assert Training(seed=1, tiny=True).load(folder) == TrainState(epoch=5)
    assert read_checkpoint_metrics(folder) is None


def _fork(work: Callable[[], object]) -> int:
    """Do it in a copy of this process; how that ended, as `waitpid` tells it."""
    if (child := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def _killed_at(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on: SIGKILL after so many written bytes; a change of the folder counts as one."""
    left = moment

    def spend(cost: int) -> int:
        nonlocal left
        left -= cost
        return left

    def write(sink: HashingWriter, data: bytes | memoryview) -> int:
        if spend(len(data)) < 0:
            sink._file.write(data[: len(data) + left])
            sink._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return straight(sink, data)

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def mortal(*args: Any, **kwargs: Any) -> Any:
            if spend(1) < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return mortal

    straight = HashingWriter.write
    monkeypatch.setattr(HashingWriter, "write", write)
    for owner, name in ((Path, "rename"), (os, "fsync"), (os, "unlink"), (os, "rmdir")):
        monkeypatch.setattr(owner, name, before(getattr(owner, name)))


def _moments(training: Training, store: CheckpointStore) -> list[int]:
    """Random bytes of the three files, and every step around and after them."""
    files = (
        store.folder / "epoch_0005" / name for name in (STATE_FILE, METRICS_FILE, MANIFEST_FILE)
    )
    state, meta, manifest = (path.stat().st_size for path in files)
    chance = random.Random(15)
    all_bytes = state + meta + manifest
    small = [chance.randrange(state, all_bytes) for _ in range(KILLS // 6)]
    return [
        *(chance.randrange(state) for _ in range(KILLS // 2 - len(small))),
        *small,
        *range(all_bytes, all_bytes + 14),
    ]


@pytest.mark.parametrize("epoch", [6, 5], ids=["a new epoch", "an epoch done again"])
def test_killed_at_any_byte_of_a_save_an_honest_checkpoint_is_left(
    epoch: int, training: Training, store: CheckpointStore, tmp_path: Path
):
    weights = training.model.state_dict()
    before = tmp_path / "before"
    shutil.copytree(store.folder, before)
    ended, fresh = [], Training(seed=99, tiny=True)
    for moment in _moments(training, store):
        shutil.rmtree(store.folder)
        shutil.copytree(before, store.folder)
        with pytest.MonkeyPatch.context() as patch:
            _killed_at(moment, patch)
            ended.append(_fork(lambda: training.save(store, TrainState(epoch=epoch))))

        folder, reasons = newest_whole(store)

        assert parse_epoch(folder) in (epoch - 1, epoch)
        assert reasons == []  # what was not finished has no such name
        assert fresh.load(folder) == TrainState(epoch=parse_epoch(folder))
        found = fresh.model.state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in weights.items())
        store.remove_unfinished()
        assert all(path.name.startswith("epoch_") for path in store.folder.iterdir())
    assert ended.count(signal.SIGKILL) > KILLS // 2  # the last moments may come after the end


def test_what_does_not_fit_on_the_disk_leaves_nothing_and_the_next_save_works(
    training: Training, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
):
    straight, before = HashingWriter.write, names(store)
    for failing in (1, 2, 9, 25):
        writes = iter(range(1, 10**6))

        def write(
            sink: HashingWriter,
            data: bytes | memoryview,
            *,
            at: int = failing,
            writes: Any = writes,
        ) -> int:
            if next(writes) >= at:
                sink.write_error = OSError(errno.ENOSPC, "No space left on device")
                raise sink.write_error
            return straight(sink, data)

        monkeypatch.setattr(HashingWriter, "write", write)
        with pytest.raises(OSError, match="No space left on device"):
            training.save(store, TrainState(epoch=6))
        assert names(store) == before

    monkeypatch.undo()
    training.save(store, TrainState(epoch=6))
    assert newest_whole(store)[0].name == "epoch_0006"


def test_a_checkpoint_reaches_the_disk_before_it_gets_its_name(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[str] = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(
        checkpoint_store.os, "fsync", lambda handle: told.append("sync") or sync(handle)
    )
    monkeypatch.setattr(Path, "rename", lambda path, to: told.append("rename") or rename(path, to))

    training.save(CheckpointStore(tmp_path), TrainState(epoch=0))

    # Three files and their folder; then the name, and the folder that it stands in.
    assert told == ["sync"] * 4 + ["rename", "sync"]


def test_a_paused_epoch_is_newer_than_the_last_and_gone_when_it_is_finished(
    training: Training, store: CheckpointStore
):
    training.pause(store, TrainState(epoch=5))

    assert names(store) == ["epoch_0003", "epoch_0004", "epoch_0005", "paused_0006"]
    assert newest_whole(store) == (store.folder / "paused_0006", [])

    training.save(store, TrainState(epoch=6))

    assert names(store) == ["epoch_0004", "epoch_0005", "epoch_0006"]


def test_a_damaged_pause_costs_no_more_than_its_epoch(training: Training, store: CheckpointStore):
    training.pause(store, TrainState(epoch=5))
    (store.folder / "paused_0006" / STATE_FILE).write_bytes(b"rotten")

    folder, reasons = newest_whole(store)

    assert folder.name == "epoch_0005"
    assert "paused_0006" in reasons[0]
