"""A checkpoint goes on bit for bit, and one that is not whole is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from hrnet_ray.errors import DataError
from hrnet_ray.learning import checkpoint
from hrnet_ray.learning.batch import PoseBatch
from hrnet_ray.learning.checkpoint import MANIFEST, STATE, Progress
from hrnet_ray.learning.loop import Target, train_epoch
from hrnet_ray.learning.optim import make_optimizer, make_scheduler
from hrnet_ray.models import HRNet

INPUT_HW, HEATMAP_HW = (64, 32), (16, 8)
TARGET = Target(input_hw=INPUT_HW, heatmap_hw=HEATMAP_HW, sigma=1.0)


class Training:
    """A net, its optimiser and its schedule, and four batches to go through."""

    def __init__(self, *, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = HRNet(8, 2, modules=(1, 1, 1), blocks=1, stem=8)
        self.optimizer = make_optimizer(self.model, algorithm="adamw", lr=1e-2, weight_decay=0.1)
        self.scheduler = make_scheduler(
            self.optimizer,
            schedule="cosine",
            milestones=(),
            epochs=4,
            warmup_steps=3,
            steps_per_epoch=1,
        )

    def learn(self, *steps: int) -> None:
        for step in steps:
            chance = torch.Generator().manual_seed(step)
            crops = torch.randn(2, 3, *INPUT_HW, generator=chance)
            crop_xy = torch.rand(2, 2, 2, generator=chance) * 30
            batch = PoseBatch(crops, crop_xy, torch.ones(2, 2, dtype=torch.bool))
            train_epoch(self.model, [batch], self.optimizer, self.scheduler, target=TARGET)

    def save(self, folder: Path, progress: Progress) -> None:
        checkpoint.save(folder, self.model, self.optimizer, self.scheduler, progress)

    def load(self, folder: Path) -> Progress:
        return checkpoint.load(folder, self.model, self.optimizer, self.scheduler)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    training = Training(seed=0)
    training.learn(0, 1)
    training.save(folder, Progress(epoch=1, best=0.25, best_epoch=0))
    return folder


def copied(saved: Path, folder: Path) -> Path:
    for name in (STATE, MANIFEST):
        (folder / name).write_bytes((saved / name).read_bytes())
    return folder


def test_two_steps_and_two_more_are_four_bit_for_bit(saved: Path):
    straight = Training(seed=0)
    straight.learn(0, 1, 2, 3)

    resumed = Training(seed=99)
    progress = resumed.load(saved)
    resumed.learn(2, 3)

    assert progress == Progress(epoch=1, best=0.25, best_epoch=0)
    assert resumed.scheduler.last_epoch == 4
    weights = straight.model.state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in resumed.model.state_dict().items())
    moments = straight.optimizer.state_dict()["state"]
    for index, state in resumed.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments[index][name]) for name, value in state.items())


def test_it_holds_nothing_that_only_pickle_could_load(saved: Path):
    state = torch.load(saved / STATE, weights_only=True)

    assert set(state) == {"model", "optimizer", "scheduler", "progress"}
    assert state["progress"] == {"epoch": 1, "best": 0.25, "best_epoch": 0}


def test_the_manifest_names_size_and_epoch(saved: Path):
    manifest = json.loads((saved / MANIFEST).read_text())

    assert manifest["epoch"] == 1
    assert manifest["files"][STATE]["bytes"] == (saved / STATE).stat().st_size


def test_a_run_without_a_score_yet_keeps_its_progress(tmp_path: Path):
    training = Training(seed=0)
    training.save(tmp_path, Progress(epoch=0))

    assert training.load(tmp_path) == Progress(epoch=0, best=float("-inf"), best_epoch=-1)


def test_a_wrapped_model_is_saved_under_its_bare_names(tmp_path: Path, saved: Path):
    training = Training(seed=0)
    wrapped = nn.DataParallel(training.model)

    checkpoint.save(tmp_path, wrapped, training.optimizer, training.scheduler, Progress(epoch=0))

    names = torch.load(tmp_path / STATE, weights_only=True)["model"].keys()
    assert names == torch.load(saved / STATE, weights_only=True)["model"].keys()
    assert checkpoint.bare(wrapped) is training.model


def test_a_flipped_byte_is_refused_in_three_lines(saved: Path, tmp_path: Path):
    path = copied(saved, tmp_path) / STATE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(DataError) as refused:
        Training(seed=0).load(tmp_path)

    assert str(refused.value) == (
        "a checkpoint that is unfinished or damaged\n"
        f"  {tmp_path}\n"
        "  fix: remove this folder and give the same command again: the run goes on before it"
    )


@pytest.mark.parametrize("gone", [STATE, MANIFEST])
def test_a_folder_that_was_never_finished_is_refused(saved: Path, tmp_path: Path, gone: str):
    (copied(saved, tmp_path) / gone).unlink()

    with pytest.raises(DataError, match="unfinished or damaged"):
        checkpoint.verify(tmp_path)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": []}', '{"files": {}}', "\x00"])
def test_a_manifest_that_vouches_for_nothing_is_refused(saved: Path, tmp_path: Path, manifest: str):
    (copied(saved, tmp_path) / MANIFEST).write_text(manifest)

    with pytest.raises(DataError, match="unfinished or damaged"):
        checkpoint.verify(tmp_path)
