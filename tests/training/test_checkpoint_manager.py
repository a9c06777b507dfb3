"""Rank 0 saves and records each epoch once, and all ranks restore an intact checkpoint."""

import errno
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrnet_ray.distributed.training.backends import (
    RAY_SNAPSHOT_FILE,
    FailFastCallback,
    hide_ray_checkpoint_snapshot,
    unwrap_user_error,
)
from hrnet_ray.errors import ClusterError, DataError
from hrnet_ray.runs.event_log import read_events, read_metrics
from hrnet_ray.training.checkpoint_manager import CheckpointManager
from hrnet_ray.training.checkpoint_store import STATE_FILE, FileEntries, write_json_synced


class FakeDisk:
    """Writes checkpoints, or fails as a full disk does."""

    def __init__(self) -> None:
        self.full = False

    def writer(self, epoch: int):
        def write(folder: Path) -> FileEntries:
            entries = {STATE_FILE: write_json_synced(folder / STATE_FILE, {"epoch": epoch})}
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return entries

        return write


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "resolved_config.json").write_text("{}")
    return tmp_path


def list_saved(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def train(checkpoints: CheckpointManager, disk: FakeDisk, *epochs: int) -> None:
    for epoch in epochs:
        checkpoints.save_checkpoint({"epoch": epoch}, epoch=epoch, save_state=disk.writer(epoch))


def resume(run: Path) -> tuple[CheckpointManager, int]:
    """A new worker, and the epoch that it resumes from (0: from none)."""
    checkpoints, epochs = CheckpointManager(run, {}), [0]

    def load(folder: Path) -> None:
        try:
            epochs.append(json.loads((folder / STATE_FILE).read_bytes())["epoch"])
        except ValueError as error:
            raise DataError("a damaged checkpoint", f"{folder}: corrupt", "resume") from error

    checkpoints.restore_checkpoint(load, is_rank0=True)
    return checkpoints, epochs[-1]


def test_an_epoch_is_saved_then_recorded(run: Path):
    train(CheckpointManager(run, {"seed": 1}), FakeDisk(), 1, 2, 3, 4)

    assert list_saved(run) == ["epoch_0002", "epoch_0003", "epoch_0004"]
    assert [entry["epoch"] for entry in read_metrics(run)] == [1, 2, 3, 4]
    assert read_events(run) == []
    assert resume(run)[1] == 4


def test_an_epoch_whose_worker_died_between_saving_and_recording_is_recorded_once(run: Path):
    train(CheckpointManager(run, {}), FakeDisk(), 1, 2, 3)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:9])  # truncated

    checkpoints, epoch = resume(run)
    train(checkpoints, FakeDisk(), 4)

    assert epoch == 3
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines if line.endswith("}")] == [1, 2, 3, 4]
    assert [entry["epoch"] for entry in read_metrics(run)] == [1, 2, 3, 4]


def test_a_corrupt_checkpoint_is_skipped_named_and_counted(run: Path, capsys):
    train(CheckpointManager(run, {}), FakeDisk(), 1, 2, 3)
    (run / "checkpoints" / "epoch_0003" / STATE_FILE).write_text("corrupt")

    checkpoints, epoch = resume(run)

    message = f"skipped checkpoint {run / 'checkpoints' / 'epoch_0003'}: corrupt"
    assert epoch == 2
    assert read_events(run) == [message]
    assert capsys.readouterr().out == message + "\n"
    train(checkpoints, FakeDisk(), 3, 4)
    counts = [entry.get("fault/rejected_checkpoints") for entry in read_metrics(run)]
    assert counts == [None, None, 1, None]


def test_without_an_intact_checkpoint_training_starts_over_with_a_message(run: Path):
    train(CheckpointManager(run, {}), FakeDisk(), 1, 2)
    for folder in (run / "checkpoints").iterdir():
        (folder / STATE_FILE).write_text("corrupt")

    assert resume(run)[1] == 0
    assert read_events(run)[-1] == "all 2 checkpoints are corrupt: training from the start"


def add_second_worker(monkeypatch, reasons: list[str]) -> None:
    """Add a rank that rejects the checkpoints in turn for these reasons (empty: it loads)."""
    remaining = iter(reasons)
    monkeypatch.setattr(
        "hrnet_ray.training.checkpoint_manager.gather_objects",
        lambda own: [own, own if isinstance(own, list) else next(remaining)],
    )


def test_all_workers_resume_from_the_newest_checkpoint_that_each_can_read(run: Path, monkeypatch):
    train(CheckpointManager(run, {}), FakeDisk(), 1, 2, 3)
    add_second_worker(monkeypatch, ["skipped checkpoint 3: missing", ""])

    assert resume(run)[1] == 2
    assert read_events(run) == ["skipped checkpoint 3: missing"]


def test_workers_without_a_common_checkpoint_are_an_error(run: Path, monkeypatch):
    train(CheckpointManager(run, {}), FakeDisk(), 1, 2)
    add_second_worker(monkeypatch, ["missing", "missing"])

    with pytest.raises(ClusterError, match="the workers do not see the same checkpoints"):
        resume(run)


def test_the_rest_of_a_killed_save_is_removed(run: Path):
    train(CheckpointManager(run, {}), FakeDisk(), 1)
    shutil.copytree(run / "checkpoints" / "epoch_0001", run / "checkpoints" / ".part-epoch_0002")

    assert resume(run)[1] == 1
    assert list_saved(run) == ["epoch_0001"]


def test_on_a_full_disk_training_continues_with_one_warning_per_epoch(run: Path):
    checkpoints, disk = CheckpointManager(run, {}), FakeDisk()
    train(checkpoints, disk, 1)
    disk.full = True
    train(checkpoints, disk, 2, 3)

    assert list_saved(run) == ["epoch_0001"]
    where = f"{run / 'checkpoints'} on {platform.node()}: No space left on device"
    assert read_events(run) == [
        f"checkpoint of epoch {epoch} not saved: {where}; training continues" for epoch in (2, 3)
    ]
    disk.full = False
    train(checkpoints, disk, 4)
    assert list_saved(run) == ["epoch_0001", "epoch_0004"]
    failed = [entry.get("fault/failed_saves") for entry in read_metrics(run)]
    assert failed == [None, 1, 2, None]


def test_the_third_failed_save_in_a_row_ends_the_run_with_exit_code_4(run: Path):
    checkpoints, disk = CheckpointManager(run, {}), FakeDisk()
    train(checkpoints, disk, 1)
    disk.full = True
    train(checkpoints, disk, 2, 3)

    with pytest.raises(ClusterError, match="3 checkpoints in a row could not be saved") as ended:
        train(checkpoints, disk, 4)

    assert ended.value.exit_code == 4
    assert f"{run / 'checkpoints'} on {platform.node()}: No space left" in ended.value.where
    assert resume(run)[1] == 1


@pytest.fixture
def small_disk(run: Path) -> Iterator[Path]:
    """The run folder on a file system of 4 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", run]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    (run / "resolved_config.json").write_text("{}")
    yield run
    subprocess.run(["umount", run], check=True)


def test_a_really_full_disk_leaves_no_partial_checkpoint_and_loses_no_metrics(small_disk: Path):
    checkpoints, disk = CheckpointManager(small_disk, {}), FakeDisk()
    train(checkpoints, disk, 1)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(5 * 2**20))

    train(checkpoints, disk, 2, 3)
    assert list_saved(small_disk) == ["epoch_0001"]
    ballast.unlink()
    train(checkpoints, disk, 4)

    assert list_saved(small_disk) == ["epoch_0001", "epoch_0004"]
    assert [entry["epoch"] for entry in read_metrics(small_disk)] == [1, 2, 3, 4]


def test_a_node_that_does_not_see_the_storage_is_named(tmp_path: Path):
    with pytest.raises(ClusterError, match="this node does not see the run folder") as refused:
        CheckpointManager(tmp_path / "unmounted", {}).require_storage(is_rank0=False)

    assert refused.value.where == f"{tmp_path / 'unmounted'} on {platform.node()}"


def test_a_worker_that_cannot_write_is_refused_before_the_first_step(run: Path):
    (run / "checkpoints").write_text("not a folder")

    with pytest.raises(ClusterError, match="the run folder must be writable"):
        CheckpointManager(run, {}).require_storage(is_rank0=True)
    CheckpointManager(run, {}).require_storage(is_rank0=False)  # only rank 0 writes


SNAPSHOTS = {
    "truncated": '{"ray_version": "2.60.0", "checkpoint_results": [{"che',
    "empty": "",
    "of another Ray": '{"ray_version": "9.9.9", "results": []}',
}


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_a_snapshot_of_ray_is_hidden_from_ray(snapshot: str, run: Path):
    train(CheckpointManager(run, {}), FakeDisk(), 1)
    (run / "checkpoints" / RAY_SNAPSHOT_FILE).write_text(SNAPSHOTS[snapshot])

    hide_ray_checkpoint_snapshot(run)

    assert list_saved(run) == [f"{RAY_SNAPSHOT_FILE}.aside", "epoch_0001"]
    hide_ray_checkpoint_snapshot(run)
    assert resume(run)[1] == 1


def test_a_user_error_inside_an_error_of_ray_ends_the_run():
    user_error = ClusterError("full", "disk", "free it")
    ray_error = RuntimeError("a worker failed")
    ray_error.__cause__ = user_error

    assert unwrap_user_error(ray_error) is user_error
    assert unwrap_user_error(ValueError("a bug")) is None
    with pytest.raises(ClusterError, match="full"):
        FailFastCallback().after_exception(None, {0: ValueError(), 1: ray_error})
    FailFastCallback().after_exception(None, {0: ValueError("a retry may help")})


def test_a_clock_that_jumps_back_an_hour_changes_nothing(run: Path, monkeypatch):
    train(CheckpointManager(run, {}), FakeDisk(), 1, 2)
    hour_ago = time.time() - 3600
    monkeypatch.setattr("hrnet_ray.runs.event_log.time.time", lambda: hour_ago)
    checkpoints, epoch = resume(run)
    train(checkpoints, FakeDisk(), 3)
    os.utime(run / "checkpoints" / "epoch_0003", (hour_ago, hour_ago))

    assert epoch == 2
    assert resume(run)[1] == 3
    assert [entry["epoch"] for entry in read_metrics(run)] == [1, 2, 3]
