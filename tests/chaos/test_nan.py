"""Batches of NaN on one worker: skipped on all ranks, tolerated once, then an error."""

import json
from pathlib import Path

import pytest
import torch

from hrnet_ray.data.manifest import read_split
from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.errors import TrainingDivergedError
from hrnet_ray.runs.event_log import read_events, read_metrics
from hrnet_ray.training.checkpoint_store import STATE_FILE
from tests.chaos.struck import herd, inject_faults, make_experiment

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("ray_session")]


__all__ = ["herd"]


def test_two_single_nan_batches_skip_their_two_steps(herd, here):
    with inject_faults("nan:rank=1,epoch=1,step=0", "nan:rank=0,epoch=1,step=2"):
        run = train_experiment(make_experiment(herd, name="lone", epochs=3), here)

    epochs = read_metrics(run.folder)
    assert [entry.get("train/nonfinite_steps", 0) for entry in epochs] == [0, 2, 0]
    assert epochs[2]["train/loss"] < epochs[1]["train/loss"] < epochs[0]["train/loss"]
    assert [entry["train/lr"] for entry in epochs] == [1e-3] * 3
    assert read_events(run.folder) == ["epoch 2: skipped step 1, 3: loss or gradient NaN or Inf"]


def test_four_consecutive_nan_batches_restart_once_at_half_the_learning_rate(herd, here, capsys):
    row = [f"nan:rank=1,epoch=1,step={step}" for step in range(4)]
    with inject_faults(*row, "kill:rank=1,epoch=2,step=1"):
        run = train_experiment(make_experiment(herd, name="row", epochs=3), here)

    epochs = read_metrics(run.folder)
    assert [entry["epoch"] for entry in epochs] == [1, 2, 3]
    assert [entry["train/lr"] for entry in epochs] == [1e-3, 5e-4, 5e-4]  # after the restart, too
    assert "train/nonfinite_steps" not in epochs[1]
    (message,) = [text for text in read_events(run.folder) if "gradient" in text]
    assert message.startswith(
        "epoch 2: 4 steps in a row had no finite gradient; resuming from the last checkpoint at "
        "0.5 times the learning rate (training rows "
    )
    assert capsys.readouterr().out.splitlines().count(message) == 1
    state = torch.load(run.folder / "checkpoints" / "epoch_0003" / STATE_FILE, weights_only=True)
    assert state["progress"]["lr_factor"] == 0.5


def test_a_second_divergence_ends_the_run_and_names_the_rows(herd, here):
    row = [f"nan:rank=1,epoch=1,step={step}" for step in range(1, 5)]
    ending = make_experiment(herd, name="ending", epochs=3)
    folder = Path(here.storage_path).absolute() / "herd" / "ending"

    with inject_faults(*row, *row), pytest.raises(TrainingDivergedError) as raised:
        train_experiment(ending, here)

    assert raised.value.exit_code == 5
    assert f"{folder}: epoch 2, training rows " in raised.value.where
    report = json.loads((folder / "debug" / "nonfinite_batches.json").read_text())
    assert [part["step"] for part in report["steps"]] == [1, 2, 3, 4]
    ids = set(read_split(herd, "train", columns=["id"])["id"].to_pylist())
    for part in report["steps"]:
        assert len(part["ids"]) == 2  # rank 1's half of a batch of 4
        assert set(part["ids"]) <= ids
    assert [entry["epoch"] for entry in read_metrics(folder)] == [1]
    assert [path.name for path in (folder / "checkpoints").glob("epoch_*")] == ["epoch_0001"]

    # Each fault is injected once per run, so the same command finishes.
    assert train_experiment(ending, here).num_epochs == 3
