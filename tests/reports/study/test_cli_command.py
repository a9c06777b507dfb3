import shlex

from hrnet_ray.cli import parse_args
from hrnet_ray.cli.train import TrainArgs
from hrnet_ray.config import ExperimentConfig, flatten_config, with_overrides
from hrnet_ray.reports.study.cli_command import build_train_argv, format_shell_command

CHANGED = with_overrides(
    ExperimentConfig(),
    {
        "name": "study/trials/07",
        "data.root": "data/my tigers",
        "data.input_hw": (192, 256),
        "model.pretrained": "w32.pth",
        "heatmap.quantize_center": False,
        "optim.optimizer": "adamw",
        "optim.lr": 0.0009024902754642899,
        "optim.milestones": (9, 11),
        "optim.sync_batchnorm": True,
        "evaluation.flip_test": False,
        "seed": 3,
    },
)


def parse_back(words: list[str]) -> ExperimentConfig:
    assert words[:2] == ["hrnet-ray", "train"]
    return parse_args(TrainArgs, words[2:], prog="hrnet-ray train").experiment


def test_the_command_reproduces_the_settings_under_another_name():
    words = build_train_argv(flatten_config(CHANGED), name="best", defaults=flatten_config(ExperimentConfig()))

    assert parse_back(words) == with_overrides(CHANGED, {"name": "best"})
    assert "--optim.epochs" not in words  # at its default


def test_without_defaults_every_setting_is_a_flag():
    words = build_train_argv(flatten_config(CHANGED), name="best")

    assert parse_back(words) == with_overrides(CHANGED, {"name": "best"})
    assert "--optim.epochs" in words


def test_a_shell_splits_the_command_into_the_same_words():
    words = build_train_argv(
        flatten_config(CHANGED),
        name="a; rm -rf $HOME 'x'",
        defaults=flatten_config(ExperimentConfig()),
    )

    command = format_shell_command(words)

    assert shlex.split(command.replace("\\\n", " ")) == words
    assert command.splitlines()[0] == "hrnet-ray train \\"


def test_a_password_in_a_url_is_removed():
    settings = {"data.root": "s3://user:secret@host/poses"}

    words = build_train_argv(settings, name="best")

    assert words[-1] == "s3://host/poses"
