"""What the page of a training experiment ends with: its flags, its `--smoke`, and the training."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hrnet_ray.cli import start
from hrnet_ray.cli.smoke import smoke
from hrnet_ray.cli.train import Args as TrainArgs, run as train
from hrnet_ray.config import Experiment


def training_page(
    base: Experiment, *, drawn: Literal["tigers", "people"], about: str | None
) -> None:
    """Train `base` as the command line changes it; ends the process with the exit code.

    `about` is the page's docstring, whose first line heads `--help`; `drawn` is what `--smoke`
    trains on.
    """

    @dataclass(frozen=True, kw_only=True)
    class Args(TrainArgs):
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = base
        smoke: bool = False
        """A minute on drawn pictures, to see that everything works."""

    def main(args: Args) -> None:
        if args.smoke:
            small = smoke(args.experiment, args.cluster, kind=drawn)
            args = Args(experiment=small, cluster=args.cluster)
        train(args)

    Args.__doc__ = (about or "").strip().partition("\n")[0]
    start(Args, main, name=f"experiments/{Path(sys.argv[0]).name}")
