import shlex

from hrnet_ray.cli import parse
from hrnet_ray.cli.train import Args
from hrnet_ray.config import Experiment, flatten, override
from hrnet_ray.reports.study.cli_command import as_shell, train_command

CHANGED = override(
    Experiment(),
    {
        "name": "study/trials/07",
        "data.root": "data/my tigers",
        "data.input_hw": (192, 256),
        "model.init": "w32.pth",
        "heatmap.rounded": False,
        "optim.algorithm": "adamw",
        "optim.lr": 0.0009024902754642899,
        "optim.milestones": (9, 11),
        "optim.sync_norm": True,
        "evaluation.flip_test": False,
        "seed": 3,
    },
)


def read_back(words: list[str]) -> Experiment:
    assert words[:2] == ["hrnet-ray", "train"]
    return parse(Args, words[2:], prog="hrnet-ray train").experiment


def test_the_command_gives_the_same_settings_back_under_another_name():
    words = train_command(flatten(CHANGED), name="best", defaults=flatten(Experiment()))

    assert read_back(words) == override(CHANGED, {"name": "best"})
    assert "--optim.epochs" not in words  # at its default


def test_without_defaults_every_setting_is_named():
    words = train_command(flatten(CHANGED), name="best")

    assert read_back(words) == override(CHANGED, {"name": "best"})
    assert "--optim.epochs" in words


def test_a_shell_reads_the_same_words():
    words = train_command(
        flatten(CHANGED), name="a; rm -rf $HOME 'x'", defaults=flatten(Experiment())
    )

    said = as_shell(words)

    assert shlex.split(said.replace("\\\n", " ")) == words
    assert said.splitlines()[0] == "hrnet-ray train \\"


def test_a_password_in_an_address_is_left_out():
    settings = {"data.root": "s3://user:secret@host/poses"}

    words = train_command(settings, name="best")

    assert words[-1] == "s3://host/poses"
