"""Ray Train restarts workers; from where they go on is ours to say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray.distributed.training.backends import RAY_SNAPSHOT_FILE
from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.runs.event_log import read_events, read_metrics
from hrnet_ray.training.checkpoint_store import STATE_FILE, verify_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def figures(folder: Path) -> list[dict]:
    """What was recorded, without the times."""
    return [
        {name: e[name] for name in e if name.startswith(("epoch", "train/", "val/"))}
        for e in read_metrics(folder)
    ]


def test_behind_a_damaged_checkpoint_and_snapshot_the_same_command_ends_the_same(
    tiny, here, tigers, capsys
):
    here = replace(here, num_workers=1)
    run = train_experiment(tiny, here)
    straight, newest = figures(run.folder), run.folder / "ray" / "epoch_0001"
    about = verify_checkpoint(newest)["about"]
    assert (about["data"], about["seed"], about["workers"]) == (tigers.digest, tiny.seed, 1)
    assert {"config", "torch", "ray"} <= about.keys()
    assert not (run.folder / "ray" / RAY_SNAPSHOT_FILE).exists()  # Ray knows of no checkpoints
    assert not (run.folder / "run.lock").exists()
    with (newest / STATE_FILE).open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\x00\xff")
    (run.folder / "ray" / RAY_SNAPSHOT_FILE).write_text('{"ray_version": "2.60.0", "checkpoint_re')
    capsys.readouterr()

    again = train_experiment(tiny, here)

    note = f"passed over {newest}: state.pt is not what was written (its sha256 differs)"
    assert read_events(run.folder) == [note]
    assert capsys.readouterr().out.splitlines().count(note) == 1
    assert again == run
    assert figures(run.folder) == straight  # bit for bit
    assert read_metrics(run.folder)[1]["fault/rejected_checkpoints"] == 1
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 1]
    verify_checkpoint(newest)
