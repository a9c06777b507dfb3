#!/usr/bin/env python
r"""Search the learning rate and the Gaussian's width of HRNet-W32 on Amur tigers (ATRW).

    ray job submit --runtime-env cluster/env.yaml --working-dir . -- \
        python experiments/tune_atrw.py --data.root /shared/data/atrw --cluster.storage-path /shared/runs

The objective is validation OKS AP with the challenge's sigmas, so trials of different heatmap
sigmas can be compared. Trials share one decoded copy of the data; hopeless ones are stopped early
(ASHA), and the draws learn from the trials before (TPE). The same command goes on where it stopped,
and with more trials if it asks for more; docs/tune.md has all the ways to search. Not yet run
here on ATRW itself.

`--smoke-test` runs the same path on drawn tigers in about a minute.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
from ray import tune

from hrnet_ray.cli import run_script
from hrnet_ray.cli.smoke import prepare_smoke_experiment
from hrnet_ray.cli.tune import run_study_and_report
from hrnet_ray.config import (
    AugmentationConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    HeatmapConfig,
    ModelConfig,
    OptimizerConfig,
)
from hrnet_ray.distributed.tuning.tune import SearchConfig

BASE = ExperimentConfig(
    name="tune-w32-192x256",
    data=DataConfig(root="data/atrw", input_hw=(192, 256)),
    model=ModelConfig(width=32),
    heatmap=HeatmapConfig(sigma=3.0),
    augment=AugmentationConfig(scale_factor=0.35, rotation_deg=45.0, half_body_prob=0.5, half_body_min_visible=8),
    optim=OptimizerConfig(lr=5e-4, epochs=120, milestones=(90, 110), batch_size=48),
    evaluation=EvaluationConfig(decode="quarter", flip_test=True, shift_heatmap=True),
)

SPACE: dict[str, Any] = {
    "optim.lr": tune.loguniform(1e-4, 3e-3),
    "heatmap.sigma": tune.uniform(1.0, 4.0),
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Search learning rate and sigma on Amur tigers."""

    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = BASE
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    smoke_test: bool = False
    """Two trials on drawn tigers, to see that everything works."""


def main(args: Args) -> None:
    """Search, and print the trials, best first."""
    experiment, search = args.experiment, args.search
    if args.smoke_test:
        experiment = prepare_smoke_experiment(experiment, args.cluster, kind="tigers")
        search = SearchConfig(num_trials=2, grace_period=1)
    run_study_and_report(experiment, SPACE, args.cluster, search)


if __name__ == "__main__":
    run_script(Args, main, name="experiments/tune_atrw.py")
