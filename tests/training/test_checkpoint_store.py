"""After any interruption or damage of a checkpoint, an intact one is found."""

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
"""Kills at random bytes of a save; the steps after them are tested besides."""


@pytest.fixture(scope="module")
def training() -> Training:
    return Training(seed=0, tiny=True)


@pytest.fixture
def store(training: Training, tmp_path: Path) -> CheckpointStore:
    """Three checkpoints, of the epochs 3, 4 and 5."""
    store = CheckpointStore(tmp_path / "checkpoints", metadata={"seed": 7, "workers": 2})
    for epoch in (3, 4, 5):
        training.save(store, TrainState(epoch=epoch))
    return store


def list_names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def find_newest_intact(store: CheckpointStore) -> tuple[Path, list[str]]:
    """The checkpoint to resume from, and why each newer one is rejected."""
    reasons = []
    for folder in store.list_newest_first():
        try:
            verify_checkpoint(folder)
        except DataError as error:
            reasons.append(error.where)
        else:
            return folder, reasons
    raise AssertionError(f"no intact checkpoint: {reasons}")


def test_the_manifest_lists_the_files_and_their_origin(store: CheckpointStore):
    folder = store.list_newest_first()[0]

    manifest = verify_checkpoint(folder)

    assert manifest["epoch"] == 5
    assert manifest["about"] == {"seed": 7, "workers": 2}
    assert manifest["files"].keys() == {STATE_FILE, METRICS_FILE}
    assert manifest["files"][STATE_FILE]["bytes"] == (folder / STATE_FILE).stat().st_size
    assert read_checkpoint_metrics(folder) == {"epoch": 5, "train/loss": 0.5}


def test_the_newest_three_are_kept_by_epoch_not_by_clock(training: Training, store: CheckpointStore):
    for hours, folder in enumerate(store.list_newest_first()):  # the newest seems the oldest
        os.utime(folder, (3600 * (hours - 1), 3600 * (hours - 1)))
        os.utime(folder / MANIFEST_FILE, (4e9 - hours, 4e9 - hours))

    training.save(store, TrainState(epoch=6))

    assert list_names(store) == ["epoch_0004", "epoch_0005", "epoch_0006"]
    assert find_newest_intact(store)[0].name == "epoch_0006"


def test_epochs_of_more_digits_are_newer(training: Training, tmp_path: Path):
    store = CheckpointStore(tmp_path)
    for epoch in (9999, 10000):
        training.save(store, TrainState(epoch=epoch))

    assert [parse_epoch(folder) for folder in store.list_newest_first()] == [10000, 9999]


def test_a_repeated_epoch_removes_no_older_checkpoint(training: Training, store: CheckpointStore):
    (store.folder / "epoch_0005" / STATE_FILE).write_bytes(b"corrupt")
    shutil.rmtree(store.folder / "epoch_0003")

    training.save(store, TrainState(epoch=4))  # resumed from 3, as 5 is corrupt

    assert list_names(store) == ["epoch_0004", "epoch_0005"]
    assert find_newest_intact(store)[0].name == "epoch_0004"
    training.save(store, TrainState(epoch=5))
    assert find_newest_intact(store) == (store.folder / "epoch_0005", [])


def _truncated(folder: Path) -> None:
    os.truncate(folder / STATE_FILE, (folder / STATE_FILE).stat().st_size // 2)


def _one_bit_flipped(folder: Path) -> None:
    data = bytearray((folder / STATE_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / STATE_FILE).write_bytes(data)


def _without_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()


def _two_files_swapped(folder: Path) -> None:
    """Swap with the epoch before: same sizes, other content."""
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
    _truncated: ("epoch_0004", "its manifest lists"),
    _one_bit_flipped: ("epoch_0004", "state.pt has changed since it was written"),
    _without_manifest: ("epoch_0004", "it has no MANIFEST.json, so it was never completed"),
    _two_files_swapped: (
        "epoch_0003",
        "metrics.json has changed since it was written",
    ),  # 4 is mixed too
    _under_another_name: ("epoch_0004", "it holds epoch 3"),
    _without_state: ("epoch_0004", "state.pt is unreadable (No such file or directory)"),
    _of_the_future: ("epoch_0004", "it was written by a newer version (format 3, known 2)"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_after_a_corrupt_checkpoint_the_previous_one_is_found_with_the_reason(
    damage: Callable[[Path], None], store: CheckpointStore
):
    damage(store.folder / "epoch_0005")

    folder, reasons = find_newest_intact(store)

    expected, reason = DAMAGES[damage]
    assert folder.name == expected
    assert reasons[0].startswith(f"{store.folder / 'epoch_0005'}: ")
    assert reason in reasons[0]
    assert Training(seed=9, tiny=True).load(folder) == TrainState(epoch=int(expected[-1]))


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"{}", b"\x00", b"\xff", b"[" * 10**5, b'{"format": 2, "epoch": 5, "files": []}'],
)
def test_a_malformed_manifest_is_refused(manifest: bytes, store: CheckpointStore):
    folder = store.folder / "epoch_0005"
    (folder / MANIFEST_FILE).write_bytes(manifest)

    with pytest.raises(DataError, match=r"MANIFEST\.json is unreadable"):
        verify_checkpoint(folder)


def test_a_checkpoint_of_version_1_without_metrics_is_read(store: CheckpointStore):
    folder = store.folder / "epoch_0005"
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    del manifest["files"][METRICS_FILE]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"format": 1}))
    (folder / METRICS_FILE).unlink()

    assert Training(seed=1, tiny=True).load(folder) == TrainState(epoch=5)
    assert read_checkpoint_metrics(folder) is None


def _fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; returns its wait status."""
    if (child := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def _kill_at(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGKILL after so many written bytes; a file-system operation counts as one."""
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
        return original_write(sink, data)

    def count_before(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if spend(1) < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    original_write = HashingWriter.write
    monkeypatch.setattr(HashingWriter, "write", write)
    for owner, name in ((Path, "rename"), (os, "fsync"), (os, "unlink"), (os, "rmdir")):
        monkeypatch.setattr(owner, name, count_before(getattr(owner, name)))


def _moments(training: Training, store: CheckpointStore) -> list[int]:
    """Random bytes of the three files, and every operation after them."""
    files = (store.folder / "epoch_0005" / name for name in (STATE_FILE, METRICS_FILE, MANIFEST_FILE))
    state, meta, manifest = (path.stat().st_size for path in files)
    generator = random.Random(15)
    all_bytes = state + meta + manifest
    small = [generator.randrange(state, all_bytes) for _ in range(KILLS // 6)]
    return [
        *(generator.randrange(state) for _ in range(KILLS // 2 - len(small))),
        *small,
        *range(all_bytes, all_bytes + 14),
    ]


@pytest.mark.parametrize("epoch", [6, 5], ids=["a new epoch", "a repeated epoch"])
def test_a_save_killed_at_any_byte_leaves_an_intact_checkpoint(
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
            _kill_at(moment, patch)
            ended.append(_fork(lambda: training.save(store, TrainState(epoch=epoch))))

        folder, reasons = find_newest_intact(store)

        assert parse_epoch(folder) in (epoch - 1, epoch)
        assert reasons == []  # an incomplete checkpoint has another name
        assert fresh.load(folder) == TrainState(epoch=parse_epoch(folder))
        restored = fresh.model.state_dict()
        assert all(torch.equal(restored[name], weight) for name, weight in weights.items())
        store.remove_unfinished()
        assert all(path.name.startswith("epoch_") for path in store.folder.iterdir())
    assert ended.count(signal.SIGKILL) > KILLS // 2  # the last kills may come after the end


def test_a_save_on_a_full_disk_leaves_nothing_and_the_next_one_works(
    training: Training, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
):
    original_write, before = HashingWriter.write, list_names(store)
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
            return original_write(sink, data)

        monkeypatch.setattr(HashingWriter, "write", write)
        with pytest.raises(OSError, match="No space left on device"):
            training.save(store, TrainState(epoch=6))
        assert list_names(store) == before

    monkeypatch.undo()
    training.save(store, TrainState(epoch=6))
    assert find_newest_intact(store)[0].name == "epoch_0006"


def test_a_checkpoint_is_synced_before_it_is_renamed(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[str] = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(checkpoint_store.os, "fsync", lambda handle: calls.append("sync") or sync(handle))
    monkeypatch.setattr(Path, "rename", lambda path, to: calls.append("rename") or rename(path, to))

    training.save(CheckpointStore(tmp_path), TrainState(epoch=0))

    # Three files and their folder; then the name and its parent folder.
    assert calls == ["sync"] * 4 + ["rename", "sync"]


def test_an_interrupted_epoch_is_newer_than_the_last_and_removed_when_finished(
    training: Training, store: CheckpointStore
):
    training.save_mid_epoch(store, TrainState(epoch=5))

    assert list_names(store) == ["epoch_0003", "epoch_0004", "epoch_0005", "mid_epoch_0006"]
    assert find_newest_intact(store) == (store.folder / "mid_epoch_0006", [])

    training.save(store, TrainState(epoch=6))

    assert list_names(store) == ["epoch_0004", "epoch_0005", "epoch_0006"]


def test_a_corrupt_mid_epoch_checkpoint_loses_only_its_epoch(training: Training, store: CheckpointStore):
    training.save_mid_epoch(store, TrainState(epoch=5))
    (store.folder / "mid_epoch_0006" / STATE_FILE).write_bytes(b"corrupt")

    folder, reasons = find_newest_intact(store)

    assert folder.name == "epoch_0005"
    assert "mid_epoch_0006" in reasons[0]
