"""Every experiment is checked as it is shipped; a minute-long run of one is in test_job.py."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from hrnet_ray.config import flatten
from hrnet_ray.runtime.tune import check_space

SCRIPTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))


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

    check_space(module.BASE, module.SPACE)
    assert set(module.SPACE) == {"optim.lr", "heatmap.sigma"}


def test_the_mpii_recipe_is_the_published_one():
    settings = flatten(load("train_mpii").BASE)

    published = {
        "data.input_hw": (256, 256),
        "model.width": 32,
        "heatmap.sigma": 2.0,
        "heatmap.rounded": True,
        "augment.scale_factor": 0.25,
        "augment.rotation_deg": 30.0,
        "augment.rotation_share": 0.6,
        "augment.half_body_share": 0.0,
        "optim.algorithm": "adam",
        "optim.lr": 1e-3,
        "optim.weight_decay": 0.0,
        "optim.milestones": (170, 200),
        "optim.epochs": 210,
        "optim.batch_size": 128,
        "evaluation.decode": "quarter",
        "evaluation.flip_test": True,
        "evaluation.shift_heatmap": True,
    }
    assert {name: settings[name] for name in published} == published


def test_the_atrw_recipe_is_the_tutorials():
    settings = flatten(load("train_atrw").BASE)

    published = {
        "data.input_hw": (192, 256),
        "model.width": 48,
        "heatmap.sigma": 3.0,
        "augment.scale_factor": 0.35,
        "augment.rotation_deg": 45.0,
        "augment.half_body_share": 0.5,
        "augment.half_body_above": 7,
        "optim.lr": 5e-4,
        "optim.milestones": (90, 110),
        "optim.epochs": 120,
        "optim.batch_size": 48,
    }
    assert {name: settings[name] for name in published} == published


def test_a_wrong_flag_ends_an_experiment_with_three_lines_and_2():
    ended = subprocess.run(
        [sys.executable, str(SCRIPTS[-1]), "--optim.lrr", "1"], capture_output=True, text=True
    )

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-3:] == [
        "error: unrecognized options: --optim.lrr, 1",
        "  experiments/tune_mpii.py",
        "  fix: did you mean --optim.lr? (see `experiments/tune_mpii.py --help`)",
    ]


@pytest.mark.ray
def test_real_pictures_are_learnt_by_heart(shared_data, tmp_path):
    """Real tigers and people, two workers, exact evaluation: AP >= 0.90 and PCKh >= 0.95."""
    command = [sys.executable, "experiments/learn_by_heart.py", "--folder", str(shared_data)]
    ended = subprocess.run(
        [*command, "--cluster.storage", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=SCRIPTS[0].parents[1],
    )

    print(ended.stdout[-2000:], ended.stderr[-2000:])
    assert ended.returncode == 0
