import json

import pytest

from hrnet_ray.config import (
    ClusterConfig,
    ExperimentConfig,
    OptimizerConfig,
    diff_configs,
    flatten_config,
    unflatten_config,
    with_overrides,
)
from hrnet_ray.errors import UsageError


def test_one_dotted_setting_changes_and_nothing_else():
    changed = with_overrides(ExperimentConfig(), {"optim.lr": 5e-4})

    assert changed.optim.lr == 5e-4
    assert diff_configs(flatten_config(ExperimentConfig()), flatten_config(changed)) == ["optim.lr: 0.001 -> 0.0005"]


def test_a_typo_names_the_setting_that_was_meant():
    with pytest.raises(UsageError) as refused:
        with_overrides(ExperimentConfig(), {"heatmap.sigm": 2.0})

    assert str(refused.value) == ("no setting 'heatmap.sigm'\n  in HeatmapConfig\n  fix: did you mean 'heatmap.sigma'?")


def test_a_setting_below_a_value_is_refused():
    with pytest.raises(UsageError, match=r"'optim\.lr' has no settings of its own"):
        with_overrides(ExperimentConfig(), {"optim.lr.max": 1.0})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("heatmap.sigma", 0.0),
        ("optim.lr", -1e-3),
        ("optim.batch_size", 0),
        ("optim.gradient_accumulation_steps", 0),
        ("optim.lr_reference_batch_size", 0),
        ("optim.ema_decay", 1.0),
        ("optim.max_grad_norm", -1.0),
        ("data.input_hw", (250, 256)),
        ("augment.flip_prob", 1.5),
        ("evaluation.val_interval", 0),
        ("name", "../elsewhere"),
    ],
)
def test_what_cannot_be_is_refused_by_name(setting, value):
    with pytest.raises(UsageError, match=setting.replace("_", "[_-]")):
        with_overrides(ExperimentConfig(), {setting: value})


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("optim.loss", "mze", "mse or ohkm"),
        ("evaluation.decode", "quater", "quarter or dark or argmax"),  # the nearest one first
        ("model.width", 16.0, "an int"),
        ("optim.epochs", True, "an int"),
        ("heatmap.sigma", "2", "a number"),
        ("evaluation.flip_test", 1, "True or False"),
        ("data.root", None, "a text"),
        ("model.pretrained", 3, "a value of the kind str | None"),
        ("model.modules", (1, 4), "a value of the kind tuple[int, int, int]"),
        ("optim.milestones", 170, "a value of the kind tuple[int, ...] | None"),
        ("optim.milestones", (170, "200"), "a value of the kind tuple[int, ...] | None"),
        ("model", None, "a value of the kind ModelConfig"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_what_is_wanted(setting, value, wanted):
    with pytest.raises(UsageError) as refused:
        with_overrides(ExperimentConfig(), {setting: value})

    assert str(refused.value) == (f"{setting} cannot be {value!r}\n  --{setting} {value}\n  fix: give {wanted}")


@pytest.mark.usefixtures("as_shipped")
def test_kinds_hold_where_settings_are_made_too():
    with pytest.raises(UsageError, match=r"optim\.loss cannot be 'mze'"):
        OptimizerConfig(loss="mze")  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("as_shipped")
def test_whole_numbers_are_numbers_and_lists_are_tuples():
    changed = with_overrides(ExperimentConfig(), {"heatmap.sigma": 2, "optim.milestones": [5, 7]})

    assert (changed.heatmap.sigma, changed.optim.milestones) == (2, (5, 7))


def test_a_bucket_is_refused_as_storage_instead_of_becoming_a_folder_of_that_name():
    with pytest.raises(UsageError, match="give a folder that every node mounts"):
        ClusterConfig(storage_path="s3://bucket/runs")


def test_settings_survive_a_json_file():
    experiment = with_overrides(ExperimentConfig(), {"data.input_hw": (192, 256), "optim.milestones": (5, 7)})

    assert unflatten_config(ExperimentConfig, json.loads(json.dumps(flatten_config(experiment)))) == experiment


@pytest.mark.parametrize(("epochs", "drops"), [(210, (170, 200)), (60, (49, 57)), (1, (1, 1))])
def test_the_rate_drops_as_far_into_a_training_as_published(epochs: int, drops: tuple[int, int]):
    assert OptimizerConfig(epochs=epochs).resolved_milestones == drops
    assert OptimizerConfig(epochs=epochs, milestones=(3,)).resolved_milestones == (3,)
    assert OptimizerConfig(epochs=epochs, milestones=()).resolved_milestones == ()
