"""A run with everything on that the published recipes leave off."""

import shutil

import pytest
import torch

from hrnet_ray.config import override
from hrnet_ray.distributed.training.train import fit
from hrnet_ray.inference.model_package import load_model
from hrnet_ray.runs.event_log import read_epochs

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_the_averaged_weights_are_judged_kept_and_saved_beside_the_own(tiny, here):
    modern = override(
        tiny,
        {
            "optim.algorithm": "adamw",
            "optim.weight_decay": 0.05,
            "optim.lr_per": "sqrt",
            "optim.lr_batch": 16,
            "optim.schedule": "cosine",
            "optim.epochs": 1,
            "optim.ema": 0.9,
            "optim.accumulate": 2,
            "optim.clip_norm": 1.0,
            "optim.sync_norm": True,
            "optim.batch_size": 8,
        },
    )

    outcome = fit(modern, here)

    (epoch,) = read_epochs(outcome.folder)
    assert epoch["train/lr_height"] == pytest.approx(1e-3 * 0.5**0.5)
    model, _ = load_model(outcome.folder / "model")
    (saved,) = outcome.folder.glob("ray/epoch_*/state.pt")
    state = torch.load(saved, map_location="cpu", weights_only=True)
    average = state["also"]["average"]
    assert average["steps"] == state["scheduler"]["last_epoch"] > 0
    kept = model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in average["weights"].items())
    assert not torch.equal(kept["conv1.weight"], state["model"]["conv1.weight"])


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_bf16_on_a_cpu_learns_with_norms_in_one_go(tiny, here):
    settings = {"optim.precision": "bf16", "optim.epochs": 2, "optim.batch_size": 8}

    outcome = fit(override(tiny, settings), here)

    first, second = read_epochs(outcome.folder)
    assert second["train/loss"] < first["train/loss"]
    assert 0 <= second["val/OKS_AP"] <= 1
    assert "BatchNorm and ReLU one by one" not in (outcome.folder / "log.txt").read_text()
