"""Entry point of a training experiment's page: its flags, `--smoke-test` and the training."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hrnet_ray.cli import run_script
from hrnet_ray.cli.smoke import prepare_smoke_experiment
from hrnet_ray.cli.train import ExperimentArgs, run as train
from hrnet_ray.config import ExperimentConfig


def run_training_recipe(
    base: ExperimentConfig, *, smoke_dataset: Literal["tigers", "people"], docstring: str | None
) -> None:
    """Train `base` with the overrides of the command line and end the process with an exit code.

    `docstring` is the page's docstring; its first line is the title of `--help`. `smoke_dataset` is
    the synthetic dataset that `--smoke-test` trains on.
    """

    @dataclass(frozen=True, kw_only=True)
    class RecipeArgs(ExperimentArgs):
        experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = base
        smoke_test: bool = False
        """Train a small model on synthetic images for a minute, to test the installation."""

    def run_recipe(args: RecipeArgs) -> None:
        if args.smoke_test:
            small = prepare_smoke_experiment(args.experiment, args.cluster, kind=smoke_dataset)
            args = RecipeArgs(experiment=small, cluster=args.cluster)
        train(args)

    RecipeArgs.__doc__ = (docstring or "").strip().partition("\n")[0]
    run_script(RecipeArgs, run_recipe, name=f"experiments/{Path(sys.argv[0]).name}")
