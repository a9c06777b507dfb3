"""Runs with the settings that the published recipes do not use."""

import shutil

import pytest
import torch

from hrnet_ray.config import with_overrides
from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.inference.model_package import load_model
from hrnet_ray.runs.event_log import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_the_ema_is_validated_exported_and_saved_beside_the_weights(tiny, here):
    modern = with_overrides(
        tiny,
        {
            "optim.optimizer": "adamw",
            "optim.weight_decay": 0.05,
            "optim.lr_scaling": "sqrt",
            "optim.lr_reference_batch_size": 16,
            "optim.schedule": "cosine",
            "optim.epochs": 1,
            "optim.ema_decay": 0.9,
            "optim.gradient_accumulation_steps": 2,
            "optim.max_grad_norm": 1.0,
            "optim.sync_batchnorm": True,
            "optim.batch_size": 8,
        },
    )

    outcome = train_experiment(modern, here)

    (epoch,) = read_metrics(outcome.folder)
    assert epoch["train/peak_lr"] == pytest.approx(1e-3 * 0.5**0.5)
    model, _ = load_model(outcome.folder / "model")
    (saved,) = outcome.folder.glob("checkpoints/epoch_*/state.pt")
    state = torch.load(saved, map_location="cpu", weights_only=True)
    average = state["also"]["average"]
    assert average["steps"] == state["scheduler"]["last_epoch"] > 0
    exported = model.state_dict()
    assert all(torch.equal(exported[name], value) for name, value in average["weights"].items())
    assert not torch.equal(exported["conv1.weight"], state["model"]["conv1.weight"])


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_bf16_on_a_cpu_trains_with_fused_batchnorm(tiny, here):
    settings = {"optim.precision": "bf16", "optim.epochs": 2, "optim.batch_size": 8}

    outcome = train_experiment(with_overrides(tiny, settings), here)

    first, second = read_metrics(outcome.folder)
    assert second["train/loss"] < first["train/loss"]
    assert 0 <= second["val/OKS_AP"] <= 1
    assert "BatchNorm and ReLU one by one" not in (outcome.folder / "run.log").read_text()
