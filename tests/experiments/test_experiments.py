"""Every experiment is checked as it is shipped; a minute-long run of one is in test_job.py."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hrnet_ray.cli.smoke import prepare_smoke_experiment
from hrnet_ray.config import ClusterConfig, flatten_config
from hrnet_ray.data.batch import augment_batch, to_eval_batch, to_raw_train_batch
from hrnet_ray.data.manifest import read_first_rows, read_manifest
from hrnet_ray.data.records import decode_eval_batch, decode_train_batch
from hrnet_ray.distributed.tuning.tune import validate_search_space
from hrnet_ray.inference.predict_loop import predict_batches
from hrnet_ray.inference.predictor import build_decode_config
from hrnet_ray.training.builders import (
    build_augmentation_config,
    build_model,
    build_model_spec,
    build_target_config,
    compute_peak_lr,
)
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer

SCRIPTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))
TRAININGS = [script.stem for script in SCRIPTS if script.stem.startswith("train_")]
CPU = torch.device("cpu")


def load(name: str) -> ModuleType:
    path = next(script for script in SCRIPTS if script.stem == name)
    spec = spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_experiment_can_be_started_as_it_is(script):
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env python\n")


@pytest.mark.parametrize("name", ["tune_mpii", "tune_atrw"])
def test_what_is_searched_are_settings_of_the_experiment(name):
    module = load(name)

    validate_search_space(module.BASE, module.SPACE)
    assert set(module.SPACE) == {"optim.lr", "heatmap.sigma"}


@pytest.mark.parametrize(("name", "width"), [("train_mpii", 32), ("train_mpii_w48", 48)])
def test_the_mpii_recipe_is_the_published_one(name: str, width: int):
    settings = flatten_config(load(name).BASE)

    published = {
        "data.input_hw": (256, 256),
        "model.width": width,
        "heatmap.sigma": 2.0,
        "heatmap.quantize_center": True,
        "augment.scale_factor": 0.25,
        "augment.rotation_deg": 30.0,
        "augment.rotation_prob": 0.6,
        "augment.half_body_prob": 0.0,
        "optim.optimizer": "adam",
        "optim.lr": 1e-3,
        "optim.lr_scaling": "none",
        "optim.weight_decay": 0.0,
        "optim.schedule": "steps",
        "optim.warmup_steps": 0,
        "optim.ema_decay": 0.0,
        "optim.max_grad_norm": 0.0,
        "optim.loss": "mse",
        "optim.milestones": (170, 200),
        "optim.epochs": 210,
        "optim.batch_size": 128,
        "evaluation.decode": "quarter",
        "evaluation.flip_test": True,
        "evaluation.shift_heatmap": True,
    }
    assert {name: settings[name] for name in published} == published


def test_the_atrw_recipe_is_the_tutorials():
    settings = flatten_config(load("train_atrw").BASE)

    published = {
        "data.input_hw": (192, 256),
        "model.width": 48,
        "heatmap.sigma": 3.0,
        "augment.scale_factor": 0.35,
        "augment.rotation_deg": 45.0,
        "augment.half_body_prob": 0.5,
        "augment.half_body_min_visible": 8,
        "optim.lr": 5e-4,
        "optim.milestones": (90, 110),
        "optim.epochs": 120,
        "optim.batch_size": 48,
    }
    assert {name: settings[name] for name in published} == published


def test_the_challenges_atrw_recipe_has_its_crops_its_epochs_and_its_batch():
    settings = flatten_config(load("train_atrw_cvwc").BASE)

    published = {
        "data.input_hw": (288, 384),
        "model.width": 48,
        "heatmap.sigma": 3.0,
        "optim.optimizer": "adam",
        "optim.epochs": 210,
        "optim.batch_size": 64,
    }
    assert {name: settings[name] for name in published} == published


@pytest.mark.parametrize("name", ["train_atrw_modern", "train_mpii_modern"])
def test_the_modern_recipe_averages_warms_up_and_decodes_what_it_draws(name: str):
    settings = flatten_config(load(name).BASE)

    assert settings["optim.optimizer"] == "adamw"
    assert settings["optim.schedule"] == "cosine"
    assert settings["optim.warmup_steps"] > 0
    assert settings["optim.ema_decay"] > 0.9
    assert settings["augment.brightness"] > 0
    assert (settings["heatmap.quantize_center"], settings["evaluation.decode"]) == (False, "dark")


@pytest.fixture(scope="module")
def smokes(tmp_path_factory) -> Path:
    """Where the drawn images lie, once for all experiments."""
    return tmp_path_factory.mktemp("smokes")


@pytest.mark.parametrize("name", TRAININGS)
def test_the_smoke_of_a_training_learns_and_predicts(name: str, smokes: Path):
    """What a worker does with the drawn images, without Ray: one step, one validation batch."""
    kind = "people" if "mpii" in name else "tigers"
    small = prepare_smoke_experiment(load(name).BASE, ClusterConfig(storage_path=str(smokes)), kind=kind)
    manifest = read_manifest(small.data.root)
    torch.manual_seed(0)
    model = build_model(small, manifest)
    optimizer = build_optimizer(
        model,
        optimizer_name=small.optim.optimizer,
        lr=compute_peak_lr(small),
        weight_decay=small.optim.weight_decay,
    )
    scheduler = build_lr_scheduler(
        optimizer,
        schedule=small.optim.schedule,
        milestones=small.optim.milestones,
        epochs=small.optim.epochs,
        warmup_steps=small.optim.warmup_steps,
        steps_per_epoch=6,
    )
    canvases = decode_train_batch(read_first_rows(manifest, "train", 4), canvas_px=manifest.canvas_px)
    batch = augment_batch(to_raw_train_batch(canvases, CPU), build_augmentation_config(small, manifest), epoch=0)
    before = model.final_layer.weight.detach().clone()

    loss = train_epoch(model, [batch], optimizer, scheduler, target=build_target_config(small))

    data = small.data
    crops = decode_eval_batch(read_first_rows(manifest, "val", 3), input_hw=data.input_hw, padding=data.padding)
    decoding = build_decode_config(build_model_spec(small, manifest, {}))
    found = predict_batches(model, [to_eval_batch(crops, CPU)], decoding=decoding)
    assert 0 < loss < 0.1
    assert not torch.equal(model.final_layer.weight, before)
    assert found.image_xy.shape == (3, len(manifest.skeleton), 2)


def test_a_wrong_flag_ends_an_experiment_with_three_lines_and_2():
    ended = subprocess.run([sys.executable, str(SCRIPTS[-1]), "--optim.lrr", "1"], capture_output=True, text=True)

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-3:] == [
        "error: unrecognized options: --optim.lrr",
        "  experiments/tune_mpii.py",
        "  fix: did you mean --optim.lr? (see `experiments/tune_mpii.py --help`)",
    ]


@pytest.mark.ray
def test_real_pictures_are_learnt_by_heart(shared_data, tmp_path):
    """Real tigers and people, two workers, exact evaluation: AP >= 0.90 and PCKh >= 0.95."""
    command = [sys.executable, "experiments/learn_by_heart.py", "--folder", str(shared_data)]
    ended = subprocess.run(
        [*command, "--cluster.storage-path", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=SCRIPTS[0].parents[1],
    )

    print(ended.stdout[-2000:], ended.stderr[-2000:])
    assert ended.returncode == 0
