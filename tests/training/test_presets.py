"""Test the recipes of `--size` and the schedule that fits a dataset."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray.config import ClusterConfig, flatten_config
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.errors import DataError
from hrnet_ray.training.presets import (
    MAX_STEPS,
    MIN_STEPS,
    PRESETS,
    TARGET_VALIDATIONS,
    count_steps_per_epoch,
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

    steps_per_epoch = count_steps_per_epoch(experiment, manifest, cluster)
    assert steps <= experiment.optim.epochs * steps_per_epoch < steps + steps_per_epoch
    assert experiment.optim.epochs // experiment.evaluation.val_interval <= 2 * TARGET_VALIDATIONS


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


def test_a_dataset_without_a_training_split_is_refused(tigers: DatasetManifest, cluster: ClusterConfig):
    only_val = replace(tigers, splits={"val": tigers.splits["val"]})

    with pytest.raises(DataError, match="no split 'train'"):
        plan_experiment("tiny", only_val, cluster, {})


def test_precision_is_not_planned_for_a_joined_cluster(tigers: DatasetManifest, cluster: ClusterConfig):
    joined = replace(cluster, ray_address="10.0.0.1:6379")

    assert plan_experiment("tiny", tigers, joined, {}).optim.precision == "auto"


def test_a_preset_is_a_valid_recipe_that_trains_from_scratch():
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.model.weight_init == "kaiming"
        assert preset.augment.shift_factor > 0
