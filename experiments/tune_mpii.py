#!/usr/bin/env python
r"""Search the learning rate and the Gaussian's width of HRNet-W32 on people (MPII).

    ray job submit --runtime-env cluster/env.yaml --working-dir . -- \
        python experiments/tune_mpii.py --data.root /shared/data/mpii --cluster.storage /shared/runs

The objective is validation PCKh at 0.5, so trials of different heatmap
sigmas can be compared. Trials share one decoded copy of the data; hopeless ones are stopped early
(ASHA), and the draws learn from the trials before (TPE). The same command goes on where it stopped,
and with more trials if it asks for more; docs/tune.md has all the ways to search. Not yet run
here on MPII itself.

`--smoke` runs the same path on drawn people in about a minute.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
from ray import tune

from hrnet_ray.cli import start
from hrnet_ray.cli.smoke import smoke
from hrnet_ray.cli.tune import search_and_tell
from hrnet_ray.config import (
    AugmentConfig,
    Cluster,
    DataConfig,
    EvaluationConfig,
    Experiment,
    HeatmapConfig,
    ModelConfig,
    OptimConfig,
)
from hrnet_ray.distributed.tuning.tune import Search

BASE = Experiment(
    name="tune-w32-256",
    data=DataConfig(root="data/mpii", input_hw=(256, 256)),
    model=ModelConfig(width=32),
    heatmap=HeatmapConfig(sigma=2.0),
    augment=AugmentConfig(scale_factor=0.25, rotation_deg=30.0, rotation_share=0.6),
    optim=OptimConfig(lr=1e-3, epochs=210, milestones=(170, 200), batch_size=128),
    evaluation=EvaluationConfig(decode="quarter", flip_test=True, shift_heatmap=True),
)

SPACE: dict[str, Any] = {
    "optim.lr": tune.loguniform(1e-4, 3e-3),
    "heatmap.sigma": tune.uniform(1.0, 4.0),
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Search learning rate and sigma on people."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = BASE
    cluster: Cluster = field(default_factory=Cluster)
    search: Search = field(default_factory=Search)
    smoke: bool = False
    """Two trials on drawn people, to see that everything works."""


def main(args: Args) -> None:
    """Search, and print the trials, best first."""
    experiment, search = args.experiment, args.search
    if args.smoke:
        experiment = smoke(experiment, args.cluster, kind="people")
        search = Search(trials=2, grace_epochs=1)
    search_and_tell(experiment, SPACE, args.cluster, search)


if __name__ == "__main__":
    start(Args, main, name="experiments/tune_mpii.py")
