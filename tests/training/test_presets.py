"""Test the recipes of `--size` and the schedule that fits a dataset."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray.cli.plan_args import expand_plan_flags, plan_from_flags
from hrnet_ray.config import ClusterConfig, ExperimentConfig, flatten_config
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.training.presets import (
    MAX_STEPS,
    MAX_VALIDATIONS,
    MIN_STEPS,
    PRESETS,
    count_steps_per_epoch,
    format_plan,
    plan_experiment,
)


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterConfig:
    return ClusterConfig(storage_path=str(tmp_path))


def set_num_rows(manifest: DatasetManifest, rows: int) -> DatasetManifest:
    """Return a manifest with another number of training rows."""
    train = manifest.splits["train"]
    shards = [replace(train.shards[0], rows=rows - sum(shard.rows for shard in train.shards[1:])), *train.shards[1:]]
    return replace(manifest, splits=manifest.splits | {"train": replace(train, rows=rows, shards=shards)})


@pytest.mark.parametrize(("rows", "steps"), [(100, MIN_STEPS), (1_000, 3_780), (100_000, MAX_STEPS)])
def test_the_number_of_epochs_follows_from_the_number_of_rows(
    tigers: DatasetManifest, cluster: ClusterConfig, rows: int, steps: int
):
    manifest = set_num_rows(tigers, rows)

    experiment = plan_experiment("tiny", manifest, cluster, {})

    steps_per_epoch = count_steps_per_epoch(experiment, manifest)
    assert steps <= experiment.optim.epochs * steps_per_epoch < steps + steps_per_epoch
    assert experiment.optim.epochs // experiment.evaluation.val_interval <= 2 * MAX_VALIDATIONS


def test_requested_settings_replace_the_preset_and_the_plan(tigers: DatasetManifest, cluster: ClusterConfig):
    requested = {"optim.epochs": 3, "optim.batch_size": 4, "data.input_hw": (64, 64), "optim.lr": 1e-4}

    experiment = plan_experiment("tiny", tigers, cluster, requested)

    settings = flatten_config(experiment)
    assert {name: settings[name] for name in requested} == requested
    assert experiment.optim.ema_decay == PRESETS["tiny"].optim.ema_decay
    assert experiment.evaluation.val_interval == 1


def test_crops_are_wide_for_wide_boxes(tigers: DatasetManifest, cluster: ClusterConfig):
    height, width = plan_experiment("tiny", tigers, cluster, {}).data.input_hw

    assert (height, width) == (96, 160)


def test_a_resumed_run_keeps_its_plan(tigers: DatasetManifest, cluster: ClusterConfig):
    first = plan_experiment("tiny", tigers, cluster, {})
    folder = Path(cluster.storage_path) / tigers.name / first.name
    folder.mkdir(parents=True)
    (folder / "resolved_config.json").write_text(json.dumps(flatten_config(first) | {"optim.epochs": 7}))

    resumed = plan_experiment("tiny", tigers, cluster, {})

    assert resumed.optim.epochs == 7
    assert plan_experiment("tiny", tigers, cluster, {"optim.epochs": 9}).optim.epochs == 9


def test_a_run_of_few_steps_is_noted(tigers: DatasetManifest, cluster: ClusterConfig):
    few = plan_experiment("tiny", tigers, cluster, {"optim.epochs": 2})

    assert "raise --optim.epochs" in dict(format_plan("tiny", few, tigers))["note"]
    assert "note" not in dict(format_plan("tiny", plan_experiment("tiny", tigers, cluster, {}), tigers))


def test_auto_and_data_are_expanded():
    words = ["--data", "data/mine", "--optim.batch-size", "auto", "--optim.epochs=auto", "--cluster.device", "auto"]

    assert expand_plan_flags(words) == ["--data.root", "data/mine", "--cluster.device", "auto"]
    assert expand_plan_flags(["--data=x"]) == ["--data.root=x"]


def test_the_published_recipe_is_not_planned(cluster: ClusterConfig):
    parsed = ExperimentConfig(name="as-given")

    assert plan_from_flags("published", parsed, cluster, ["--name", "as-given"]) is parsed


def test_a_flag_that_repeats_a_default_counts_as_given(
    tigers: DatasetManifest, cluster: ClusterConfig, capsys: pytest.CaptureFixture[str]
):
    parsed = replace(ExperimentConfig(), data=replace(ExperimentConfig().data, root=str(tigers.root)))
    argv = ["--data.root", str(tigers.root), "--heatmap.sigma", "2.0", "--evaluation.no-flip-test"]

    planned = plan_from_flags("auto", parsed, cluster, argv)

    assert planned.heatmap.sigma == 2.0
    assert planned.evaluation.flip_test == parsed.evaluation.flip_test
    assert planned.optim.optimizer == "adamw"
    assert "steps per epoch" in capsys.readouterr().out
