"""Batches of NaN on one worker: skipped by all, got over once, and then the end of the run."""

import json
from pathlib import Path

import pytest
import torch

from hrnet_ray.data.manifest import read_split
from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.errors import TrainingDivergedError
from hrnet_ray.runs.event_log import read_events, read_metrics
from hrnet_ray.training.checkpoint_store import STATE_FILE
from tests.chaos.struck import herd, short, struck

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("ray_session")]


__all__ = ["herd"]


def test_two_lone_batches_of_nan_cost_their_two_steps(herd, here):
    with struck("nan:rank=1,epoch=1,step=0", "nan:rank=0,epoch=1,step=2"):
        run = train_experiment(short(herd, name="lone", epochs=3), here)

    epochs = read_metrics(run.folder)
    assert [entry.get("train/nonfinite_steps", 0) for entry in epochs] == [0, 2, 0]
    assert epochs[2]["train/loss"] < epochs[1]["train/loss"] < epochs[0]["train/loss"]
    assert [entry["train/lr"] for entry in epochs] == [1e-3] * 3
    assert read_events(run.folder) == ["epoch 2: skipped step 1, 3: no finite loss or gradient"]


def test_four_in_a_row_go_back_once_at_half_the_rate_for_good(herd, here, capsys):
    row = [f"nan:rank=1,epoch=1,step={step}" for step in range(4)]
    with struck(*row, "kill:rank=1,epoch=2,step=1"):
        run = train_experiment(short(herd, name="row", epochs=3), here)

    epochs = read_metrics(run.folder)
    assert [entry["epoch"] for entry in epochs] == [0, 1, 2]
    assert [entry["train/lr"] for entry in epochs] == [1e-3, 5e-4, 5e-4]  # the restart knows it
    assert "train/nonfinite_steps" not in epochs[1]
    (note,) = [note for note in read_events(run.folder) if "gradient" in note]  # beside the kill
    assert note.startswith(
        "epoch 2: 4 steps in a row had no finite gradient; going on from the last checkpoint at "
        "0.5 times the learning rate (training rows "
    )
    assert capsys.readouterr().out.splitlines().count(note) == 1
    state = torch.load(run.folder / "ray" / "epoch_0002" / STATE_FILE, weights_only=True)
    assert state["progress"]["rate"] == 0.5


def test_the_second_time_the_run_ends_and_names_the_rows(herd, here):
    row = [f"nan:rank=1,epoch=1,step={step}" for step in range(1, 5)]
    ending = short(herd, name="ending", epochs=3)
    folder = Path(here.storage).absolute() / "herd" / "ending"

    with struck(*row, *row), pytest.raises(TrainingDivergedError) as ended:
        train_experiment(ending, here)

    assert ended.value.exit_code == 5
    assert f"{folder}: epoch 2, training rows " in ended.value.where
    spoilt = json.loads((folder / "debug" / "nonfinite_batches.json").read_text())
    assert [part["step"] for part in spoilt["steps"]] == [1, 2, 3, 4]
    ids = set(read_split(herd, "train", columns=["id"])["id"].to_pylist())
    for part in spoilt["steps"]:
        assert len(part["ids"]) == 2  # rank 1's half of a batch of 4
        assert set(part["ids"]) <= ids
    assert [entry["epoch"] for entry in read_metrics(folder)] == [0]
    assert [path.name for path in (folder / "ray").glob("epoch_*")] == ["epoch_0000"]

    assert (
        train_experiment(ending, here).num_epochs == 3
    )  # what struck is over: the same command goes on
