"""A checkpoint resumes bit for bit, and one of another model changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import nn

from hrnet_ray.errors import DataError
from hrnet_ray.training import checkpoint
from hrnet_ray.training.checkpoint import PartialEpochState, TrainState
from hrnet_ray.training.checkpoint_store import (
    STATE_FILE,
    CheckpointStore,
    write_json_synced,
    write_manifest,
)
from hrnet_ray.utils.files import sha256_file
from tests.small_models import make_small_hrnet
from tests.training.trainings import Training


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    training = Training(seed=0)
    training.train(0, 1)
    store = CheckpointStore(tmp_path_factory.mktemp("run"))
    return training.save(store, TrainState(epoch=1, best_score=0.25, best_epoch=1))


def write_checkpoint(folder: Path, state: dict) -> Path:
    """Write any `state` as a checkpoint with a matching manifest."""
    torch.save(state, folder / STATE_FILE)
    size, digest = (folder / STATE_FILE).stat().st_size, sha256_file(folder / STATE_FILE)
    write_manifest(folder, {STATE_FILE: {"bytes": size, "sha256": digest}}, epoch=0, metadata={})
    return folder


def test_two_steps_and_two_resumed_steps_equal_four_bit_for_bit(saved: Path):
    straight = Training(seed=0)
    straight.train(0, 1, 2, 3)

    resumed = Training(seed=99)
    progress = resumed.load(saved)
    resumed.train(2, 3)

    assert progress == TrainState(epoch=1, best_score=0.25, best_epoch=1)
    assert resumed.scheduler.last_epoch == 4
    weights = straight.model.state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in resumed.model.state_dict().items())
    moments = straight.optimizer.state_dict()["state"]
    for index, state in resumed.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments[index][name]) for name, value in state.items())


def test_the_state_of_an_interrupted_epoch_is_restored(tmp_path: Path):
    losses = [torch.tensor([0.25, 0.125]), torch.tensor([0.5, torch.nan])]
    partial_epoch = PartialEpochState(
        losses_by_rank=losses,
        skipped=torch.tensor([0.0, 1.0]),
        lr=1e-3,
        seen_ids=[[4, 0, 3], [1, 2]],
        corrupt_rows=[("train", 3), ("val", 1)],
    )
    folder = Training(seed=0).save_mid_epoch(
        CheckpointStore(tmp_path), TrainState(epoch=1, partial_epoch=partial_epoch)
    )

    restored = Training(seed=99).load(folder).partial_epoch

    assert restored is not None
    assert restored.num_steps == 2
    assert [part.tolist()[0] for part in restored.losses_by_rank] == [0.25, 0.5]
    assert (restored.lr, restored.seen_ids, restored.corrupt_rows) == (
        partial_epoch.lr,
        partial_epoch.seen_ids,
        partial_epoch.corrupt_rows,
    )
    saved = torch.load(folder / STATE_FILE, weights_only=True)["progress"]
    assert saved["partial_epoch"]["lr"] == 1e-3


def test_the_state_loads_without_pickled_objects(saved: Path):
    state = torch.load(saved / STATE_FILE, weights_only=True)

    assert set(state) == {"model", "optimizer", "scheduler", "progress", "also"}
    assert state["progress"] == {
        "epoch": 1,
        "best_score": 0.25,
        "best_epe_px": float("inf"),
        "best_loss": float("inf"),
        "best_epoch": 1,
        "lr_factor": 1.0,
    }


def test_a_run_without_a_score_restores_its_progress(tmp_path: Path):
    training = Training(seed=0)
    folder = training.save(CheckpointStore(tmp_path), TrainState(epoch=0))

    assert training.load(folder) == TrainState(epoch=0, best_score=float("-inf"), best_epoch=0)


def test_a_wrapped_model_is_saved_with_unwrapped_names(saved: Path, tmp_path: Path):
    training = Training(seed=0)
    unwrapped = training.model
    training.model = nn.DataParallel(unwrapped)

    folder = training.save(CheckpointStore(tmp_path), TrainState(epoch=0))

    names = torch.load(folder / STATE_FILE, weights_only=True)["model"].keys()
    assert names == torch.load(saved / STATE_FILE, weights_only=True)["model"].keys()
    assert checkpoint.unwrap_model(training.model) is unwrapped


def test_extra_components_are_restored(tmp_path: Path):
    training, averaged = Training(seed=0), nn.Linear(2, 3)

    def write(folder: Path) -> dict:
        return checkpoint.save_train_state(
            folder,
            training.model,
            training.optimizer,
            training.scheduler,
            TrainState(epoch=0),
            extra_components={"averaged": averaged},
        )

    folder = CheckpointStore(tmp_path).save_checkpoint(0, write, metrics={})
    fresh = nn.Linear(2, 3)
    parts = (training.model, training.optimizer, training.scheduler)

    checkpoint.load_train_state(folder, *parts, extra_components={"averaged": fresh})

    assert torch.equal(fresh.weight, averaged.weight)
    with pytest.raises(DataError, match="KeyError: 'ema'"):
        checkpoint.load_train_state(folder, *parts, extra_components={"ema": fresh})


def test_the_state_of_another_model_is_refused_and_changes_nothing(saved: Path, tmp_path: Path):
    training = Training(seed=7)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    state = torch.load(saved / STATE_FILE, weights_only=True)
    state["model"] = make_small_hrnet(2, width=4).state_dict()

    with pytest.raises(DataError, match="it is of another model: ") as refused:
        training.load(write_checkpoint(tmp_path, state))

    assert refused.value.where.startswith(f"{tmp_path}: state.pt does not fit (ValueError")
    assert all(torch.equal(w, before[name]) for name, w in training.model.state_dict().items())


@pytest.mark.parametrize("lost", ["model", "optimizer", "scheduler", "progress"])
def test_a_state_that_lacks_a_part_is_refused(saved: Path, tmp_path: Path, lost: str):
    state = torch.load(saved / STATE_FILE, weights_only=True)
    del state[lost]

    with pytest.raises(DataError, match=f"KeyError: '{lost}'"):
        Training(seed=0).load(write_checkpoint(tmp_path, state))


def test_a_disk_with_room_for_fewer_than_three_checkpoints_is_refused_before_a_write(tmp_path: Path, monkeypatch):
    usage = checkpoint.shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)

    with pytest.raises(OSError, match="1 MiB are free, 3 checkpoints of 1 MiB must fit"):
        Training(seed=0).save(CheckpointStore(tmp_path), TrainState(epoch=0))

    assert list(tmp_path.iterdir()) == []


def test_a_manifest_with_foreign_files_is_refused(tmp_path: Path):
    entries = {
        STATE_FILE: write_json_synced(tmp_path / STATE_FILE, {}),
        "../a": {"bytes": 1, "sha256": ""},
    }
    write_manifest(tmp_path, entries, epoch=0, metadata={})

    with pytest.raises(DataError, match="lists files that no checkpoint has"):
        Training(seed=0).load(tmp_path)
