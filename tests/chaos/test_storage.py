"""The storage of a run fills up, or Ray's snapshot is damaged; the same command continues."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.training.backends import RAY_SNAPSHOT_FILE
from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.errors import ClusterError
from hrnet_ray.runs.event_log import read_events, read_metrics

pytestmark = pytest.mark.chaos

EPOCHS = 12


@pytest.fixture
def small(here: ClusterConfig, tmp_path: Path) -> Iterator[ClusterConfig]:
    """One worker, and a storage of 16 MiB."""
    storage = Path(here.storage_path)
    storage.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", storage]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield replace(here, num_workers=1, tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    subprocess.run(["umount", "--lazy", storage], check=True)


def test_a_full_disk_ends_the_run_after_three_saves_and_the_command_resumes(ray_session, tiny, small):
    longer = replace(tiny, optim=replace(tiny.optim, epochs=EPOCHS))
    folder = Path(small.storage_path) / "tigers" / "tiny"
    ballast = Path(small.storage_path) / "ballast"

    def fill() -> None:
        deadline = time.monotonic() + 120
        while len(read_metrics(folder)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        with suppress(OSError):  # the disk is full
            ballast.write_bytes(bytes(16 * 2**20))

    filler = threading.Thread(target=fill)
    filler.start()
    with pytest.raises(ClusterError, match="3 checkpoints in a row could not be saved") as raised:
        train_experiment(longer, small)
    filler.join()

    assert raised.value.exit_code == 4
    assert str(folder / "checkpoints") in raised.value.where
    warnings = [message for message in read_events(folder) if "not saved" in message]
    assert len(warnings) <= 2  # one per epoch, if the disk had room for a line
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert not [name for name in names if name.startswith(".part")]
    saved = [name for name in names if name.startswith("epoch_")]
    assert 1 <= len(saved) <= 3

    ballast.unlink()
    outcome = train_experiment(longer, small)

    assert outcome.num_epochs == EPOCHS
    assert [entry["epoch"] for entry in read_metrics(folder)] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize(
    "snapshot",
    [
        '{"ray_version": "2.60.0", "checkpoint_results": [{"checkpoint_dir',
        "",
        '{"ray_version": "1.0.0", "checkpoint_results": []}',
    ],
    ids=["truncated", "empty", "of another Ray"],
)
def test_a_damaged_snapshot_of_ray_does_not_stop_the_run(snapshot, ray_session, tiny, here):
    here = replace(here, num_workers=1)
    outcome = train_experiment(tiny, here)
    uninterrupted = [entry["train/loss"] for entry in read_metrics(outcome.folder)]
    shutil.rmtree(outcome.folder / "checkpoints" / "epoch_0002")
    (outcome.folder / "checkpoints" / RAY_SNAPSHOT_FILE).write_text(snapshot)

    train_experiment(tiny, here)

    assert [entry["train/loss"] for entry in read_metrics(outcome.folder)] == uninterrupted
    assert (outcome.folder / "checkpoints" / f"{RAY_SNAPSHOT_FILE}.aside").read_text() == snapshot


def test_a_worker_that_does_not_see_the_run_folder_ends_the_run_in_seconds(ray_session, tiny, here, monkeypatch):
    """Simulates a node on which the storage is not mounted."""
    here = replace(here, num_workers=1)
    monkeypatch.setattr(
        "hrnet_ray.distributed.training.train.hide_ray_checkpoint_snapshot",
        lambda folder: (folder / "resolved_config.json").rename(folder / "hidden.json"),
    )
    started_s = time.monotonic()

    with pytest.raises(ClusterError, match="this node does not see the run folder") as raised:
        train_experiment(tiny, here)

    print(f"refused after {time.monotonic() - started_s:.1f} s")
    assert raised.value.exit_code == 4
    assert read_metrics(Path(here.storage_path) / "tigers" / "tiny") == []
