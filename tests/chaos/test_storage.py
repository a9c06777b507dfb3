"""The storage of a run fills up, and Ray's own notes are damaged; one command puts it right."""

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


def test_a_disk_that_fills_up_ends_the_run_after_three_saves_and_the_command_goes_on(
    ray_session, tiny, small
):
    longer = replace(tiny, optim=replace(tiny.optim, epochs=EPOCHS))
    folder = Path(small.storage) / "tigers" / "tiny"
    ballast = Path(small.storage) / "ballast"

    def fill() -> None:
        deadline = time.monotonic() + 120
        while len(read_metrics(folder)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        with suppress(OSError):  # that is the point
            ballast.write_bytes(bytes(16 * 2**20))

    filling = threading.Thread(target=fill)
    filling.start()
    with pytest.raises(ClusterError, match="3 checkpoints in a row could not be saved") as ended:
        train_experiment(longer, small)
    filling.join()

    assert ended.value.exit_code == 4
    assert str(folder / "ray") in ended.value.where
    warned = [note for note in read_events(folder) if note.startswith("no checkpoint of epoch")]
    assert len(warned) <= 2  # one an epoch, where there was room for a line
    names = sorted(path.name for path in (folder / "ray").iterdir())
    assert not [name for name in names if name.startswith(".part")]
    saved = [name for name in names if name.startswith("epoch_")]
    assert 1 <= len(saved) <= 3

    ballast.unlink()
    outcome = train_experiment(longer, small)

    assert outcome.num_epochs == EPOCHS
    assert [entry["epoch"] for entry in read_metrics(folder)] == list(range(EPOCHS))


@pytest.mark.parametrize(
    "snapshot",
    [
        '{"ray_version": "2.60.0", "checkpoint_results": [{"checkpoint_dir',
        "",
        '{"ray_version": "1.0.0", "checkpoint_results": []}',
    ],
    ids=["truncated", "empty", "of another Ray"],
)
def test_a_damaged_snapshot_of_rays_stops_nobody(snapshot, ray_session, tiny, here):
    here = replace(here, num_workers=1)
    outcome = train_experiment(tiny, here)
    straight = [entry["train/loss"] for entry in read_metrics(outcome.folder)]
    shutil.rmtree(outcome.folder / "ray" / "epoch_0001")
    (outcome.folder / "ray" / RAY_SNAPSHOT_FILE).write_text(snapshot)

    train_experiment(tiny, here)

    assert [entry["train/loss"] for entry in read_metrics(outcome.folder)] == straight
    assert (outcome.folder / "ray" / f"{RAY_SNAPSHOT_FILE}.aside").read_text() == snapshot


def test_a_worker_that_does_not_see_the_folder_ends_the_run_in_seconds(
    ray_session, tiny, here, monkeypatch
):
    """As on a node where the storage is not mounted."""
    here = replace(here, num_workers=1)
    monkeypatch.setattr(
        "hrnet_ray.distributed.training.train.hide_ray_checkpoint_snapshot",
        lambda folder: (folder / "resolved_config.json").rename(folder / "hidden.json"),
    )
    fit_started = time.monotonic()

    with pytest.raises(ClusterError, match="this node does not see the run's folder") as ended:
        train_experiment(tiny, here)

    print(f"refused after {time.monotonic() - fit_started:.1f} s")
    assert ended.value.exit_code == 4
    assert read_metrics(Path(here.storage) / "tigers" / "tiny") == []
