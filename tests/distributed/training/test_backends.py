"""A run resumes from our newest intact checkpoint, not from Ray's snapshot."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray.distributed.training.backends import RAY_SNAPSHOT_FILE
from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.runs.event_log import read_events, read_metrics
from hrnet_ray.training.checkpoint_store import STATE_FILE, verify_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def read_figures(folder: Path) -> list[dict]:
    """The recorded metrics without times."""
    return [{name: e[name] for name in e if name.startswith(("epoch", "train/", "val/"))} for e in read_metrics(folder)]


def test_a_run_with_a_corrupt_checkpoint_and_snapshot_ends_with_the_same_metrics(tiny, here, tigers, capsys):
    here = replace(here, num_workers=1)
    run = train_experiment(tiny, here)
    uninterrupted, newest = read_figures(run.folder), run.folder / "checkpoints" / "epoch_0002"
    about = verify_checkpoint(newest)["about"]
    assert (about["data"], about["seed"], about["workers"]) == (tigers.digest, tiny.seed, 1)
    assert {"config", "torch", "ray"} <= about.keys()
    assert not (run.folder / "checkpoints" / RAY_SNAPSHOT_FILE).exists()  # Ray records no checkpoints
    assert not (run.folder / "run.lock").exists()
    with (newest / STATE_FILE).open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\x00\xff")
    (run.folder / "checkpoints" / RAY_SNAPSHOT_FILE).write_text('{"ray_version": "2.60.0", "checkpoint_re')
    capsys.readouterr()

    again = train_experiment(tiny, here)

    message = f"skipped checkpoint {newest}: state.pt has changed since it was written (SHA-256 differs)"
    assert read_events(run.folder) == [message]
    assert capsys.readouterr().out.splitlines().count(message) == 1
    assert again == run
    assert read_figures(run.folder) == uninterrupted  # bit for bit
    assert read_metrics(run.folder)[1]["fault/rejected_checkpoints"] == 1
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 2]
    verify_checkpoint(newest)
