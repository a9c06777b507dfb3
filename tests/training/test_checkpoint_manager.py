"""A worker saves with patience, records each epoch once, and goes on from what is whole."""

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


class Disk:
    """Writes checkpoints of an epoch, and says it is full when told to."""

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


def saved(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "ray").iterdir())


def train(checkpoints: CheckpointManager, disk: Disk, *epochs: int) -> None:
    for epoch in epochs:
        checkpoints.save_checkpoint({"epoch": epoch}, epoch=epoch, save_state=disk.writer(epoch))


def resumed(run: Path) -> tuple[CheckpointManager, int]:
    """A fresh worker, and the epoch that it goes on from (-1: from none)."""
    checkpoints, found = CheckpointManager(run, {}), [-1]

    def load(folder: Path) -> None:
        try:
            found.append(json.loads((folder / STATE_FILE).read_bytes())["epoch"])
        except ValueError as error:
            raise DataError("a damaged checkpoint", f"{folder}: rotten", "go on") from error

    checkpoints.restore_checkpoint(load, is_rank0=True)
    return checkpoints, found[-1]


def test_an_epoch_is_saved_then_recorded(run: Path):
    train(CheckpointManager(run, {"seed": 1}), Disk(), 0, 1, 2, 3)

    assert saved(run) == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert [entry["epoch"] for entry in read_metrics(run)] == [0, 1, 2, 3]
    assert read_events(run) == []
    assert resumed(run)[1] == 3


def test_an_epoch_whose_worker_died_between_saving_and_recording_is_recorded_once(run: Path):
    train(CheckpointManager(run, {}), Disk(), 0, 1, 2)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:9])  # cut short, too

    checkpoints, epoch = resumed(run)
    train(checkpoints, Disk(), 3)

    assert epoch == 2
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines if line.endswith("}")] == [0, 1, 2, 3]
    assert [entry["epoch"] for entry in read_metrics(run)] == [0, 1, 2, 3]


def test_a_damaged_checkpoint_is_passed_over_named_and_counted(run: Path, capsys):
    train(CheckpointManager(run, {}), Disk(), 0, 1, 2)
    (run / "ray" / "epoch_0002" / STATE_FILE).write_text("rot")

    checkpoints, epoch = resumed(run)

    note = f"passed over {run / 'ray' / 'epoch_0002'}: rotten"
    assert epoch == 1
    assert read_events(run) == [note]
    assert capsys.readouterr().out == note + "\n"
    train(checkpoints, Disk(), 2, 3)
    counts = [entry.get("fault/rejected_checkpoints") for entry in read_metrics(run)]
    assert counts == [None, None, 1, None]


def test_when_none_is_whole_the_run_says_that_it_begins_anew(run: Path):
    train(CheckpointManager(run, {}), Disk(), 0, 1)
    for folder in (run / "ray").iterdir():
        (folder / STATE_FILE).write_text("rot")

    assert resumed(run)[1] == -1
    assert read_events(run)[-1] == "none of the 2 checkpoints is whole: the run begins anew"


def of_two(monkeypatch, other: list[str]) -> None:
    """A second worker, which says this of each checkpoint in turn, and does not fail otherwise."""
    said = iter(other)
    monkeypatch.setattr(
        "hrnet_ray.training.checkpoint_manager.gather_objects",
        lambda mine: [mine, mine if isinstance(mine, list) else next(said)],
    )


def test_all_workers_go_on_from_the_newest_that_each_of_them_can_read(run: Path, monkeypatch):
    train(CheckpointManager(run, {}), Disk(), 0, 1, 2)
    of_two(monkeypatch, ["passed over 2: not there yet", ""])

    assert resumed(run)[1] == 1
    assert read_events(run) == ["passed over 2: not there yet"]


def test_workers_that_share_no_checkpoint_go_on_from_none(run: Path, monkeypatch):
    train(CheckpointManager(run, {}), Disk(), 0, 1)
    of_two(monkeypatch, ["gone", "gone"])

    with pytest.raises(ClusterError, match="the workers do not see the same checkpoints"):
        resumed(run)


def test_what_a_killed_save_left_is_removed(run: Path):
    train(CheckpointManager(run, {}), Disk(), 0)
    shutil.copytree(run / "ray" / "epoch_0000", run / "ray" / ".part-epoch_0001")

    assert resumed(run)[1] == 0
    assert saved(run) == ["epoch_0000"]


def test_on_a_full_disk_training_goes_on_warns_once_an_epoch_and_saves_when_it_can(run: Path):
    checkpoints, disk = CheckpointManager(run, {}), Disk()
    train(checkpoints, disk, 0)
    disk.full = True
    train(checkpoints, disk, 1, 2)

    assert saved(run) == ["epoch_0000"]
    where = f"{run / 'ray'} on {platform.node()}: No space left on device"
    assert read_events(run) == [
        f"no checkpoint of epoch {number}: {where}; training goes on" for number in (2, 3)
    ]
    disk.full = False
    train(checkpoints, disk, 3)
    assert saved(run) == ["epoch_0000", "epoch_0003"]
    failed = [entry.get("fault/failed_saves") for entry in read_metrics(run)]
    assert failed == [None, 1, 2, None]


def test_the_third_failed_save_in_a_row_ends_the_run_with_exit_code_4(run: Path):
    checkpoints, disk = CheckpointManager(run, {}), Disk()
    train(checkpoints, disk, 0)
    disk.full = True
    train(checkpoints, disk, 1, 2)

    with pytest.raises(ClusterError, match="3 checkpoints in a row could not be saved") as ended:
        train(checkpoints, disk, 3)

    assert ended.value.exit_code == 4
    assert f"{run / 'ray'} on {platform.node()}: No space left" in ended.value.where
    assert resumed(run)[1] == 0


@pytest.fixture
def small_disk(run: Path) -> Iterator[Path]:
    """The run's folder on a file system of 4 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", run]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    (run / "resolved_config.json").write_text("{}")
    yield run
    subprocess.run(["umount", run], check=True)


def test_a_disk_that_is_really_full_leaves_no_part_and_no_line_is_lost(small_disk: Path):
    checkpoints, disk = CheckpointManager(small_disk, {}), Disk()
    train(checkpoints, disk, 0)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(5 * 2**20))

    train(checkpoints, disk, 1, 2)
    assert saved(small_disk) == ["epoch_0000"]
    ballast.unlink()
    train(checkpoints, disk, 3)

    assert saved(small_disk) == ["epoch_0000", "epoch_0003"]
    assert [entry["epoch"] for entry in read_metrics(small_disk)] == [0, 1, 2, 3]


def test_a_node_that_does_not_see_the_storage_is_named(tmp_path: Path):
    with pytest.raises(ClusterError, match="this node does not see the run's folder") as refused:
        CheckpointManager(tmp_path / "unmounted", {}).require_storage(is_rank0=False)

    assert refused.value.where == f"{tmp_path / 'unmounted'} on {platform.node()}"


def test_a_worker_that_cannot_write_is_refused_before_the_first_step(run: Path):
    (run / "ray").write_text("not a folder")

    with pytest.raises(ClusterError, match="the run's folder cannot be written to"):
        CheckpointManager(run, {}).require_storage(is_rank0=True)
    CheckpointManager(run, {}).require_storage(is_rank0=False)  # only the first worker writes


SNAPSHOTS = {
    "truncated": '{"ray_version": "2.60.0", "checkpoint_results": [{"che',
    "empty": "",
    "of another Ray": '{"ray_version": "9.9.9", "results": []}',
}


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_what_ray_noted_of_checkpoints_is_out_of_its_sight(snapshot: str, run: Path):
    train(CheckpointManager(run, {}), Disk(), 0)
    (run / "ray" / RAY_SNAPSHOT_FILE).write_text(SNAPSHOTS[snapshot])

    hide_ray_checkpoint_snapshot(run)

    assert saved(run) == [f"{RAY_SNAPSHOT_FILE}.aside", "epoch_0000"]
    hide_ray_checkpoint_snapshot(run)
    assert resumed(run)[1] == 0


def test_an_error_of_the_users_is_found_behind_rays_and_ends_the_run():
    ours = ClusterError("full", "disk", "free it")
    rays = RuntimeError("a worker failed")
    rays.__cause__ = ours

    assert unwrap_user_error(rays) is ours
    assert unwrap_user_error(ValueError("a bug")) is None
    with pytest.raises(ClusterError, match="full"):
        FailFastCallback().after_exception(None, {0: ValueError(), 1: rays})
    FailFastCallback().after_exception(None, {0: ValueError("worth another try")})


def test_a_clock_that_jumps_back_an_hour_changes_nothing(run: Path, monkeypatch):
    train(CheckpointManager(run, {}), Disk(), 0, 1)
    hour_ago = time.time() - 3600
    monkeypatch.setattr("hrnet_ray.runs.event_log.time.time", lambda: hour_ago)
    checkpoints, epoch = resumed(run)
    train(checkpoints, Disk(), 2)
    os.utime(run / "ray" / "epoch_0002", (hour_ago, hour_ago))

    assert epoch == 1
    assert resumed(run)[1] == 2
    assert [entry["epoch"] for entry in read_metrics(run)] == [0, 1, 2]
