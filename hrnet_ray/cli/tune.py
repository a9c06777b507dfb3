"""`hrnet-ray tune`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from hrnet_ray.cli.train import near, tell_where
from hrnet_ray.config import Cluster, Experiment
from hrnet_ray.distributed.tuning.search_space import parse_space
from hrnet_ray.distributed.tuning.study import Trial
from hrnet_ray.distributed.tuning.tune import Search, Space, Study, sweep
from hrnet_ray.reports.study.study_report import REPORT
from hrnet_ray.runs.signals import stoppable


@dataclass(frozen=True, kw_only=True)
class Args:
    """Search settings. The same command goes on where it stopped.

    hrnet-ray tune --name search --data.root data/atrw --search.trials 24
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)
    cluster: Cluster = field(default_factory=Cluster)
    search: Search = field(default_factory=Search)
    space: tuple[str, ...] = ("optim.lr=log(1e-4,3e-3)", "heatmap.sigma=uniform(1,4)")
    """What to search: SETTING=log(LOW,HIGH), =uniform(LOW,HIGH), =int(LOW,HIGH), =choice(A,B)."""


def run(args: Args) -> None:
    """Search, and say what came out."""
    search_and_tell(args.experiment, parse_space(args.space), args.cluster, args.search)


def search_and_tell(
    experiment: Experiment, space: Space, cluster: Cluster, search: Search
) -> Study:
    """Run a sweep and print its trials, best first; the best one becomes the challenger."""
    study = sweep(experiment, space, cluster, search)
    quick = f"{'ms a crop':>9}  " if search.against_latency else ""
    print(f"\n{study.main:>10}  epochs  {quick}" + "  ".join(f"{name:>14}" for name in space))
    for trial in study.trials:
        drawn = "  ".join(f"{_short(trial[name]):>14}" for name in space)
        if quick:
            drawn = f"{_short(trial['latency_ms']):>9}  {drawn}"
        print(f"{trial['score']:>10.4f}  {trial['epochs']:>6}  {drawn}{_ending(trial)}")
    settings = ", ".join(f"{name} {_short(study.best[name])}" for name in space)
    print(f"best {study.main} {study.best['score']:.4f} with {settings}")
    if (page := study.folder / REPORT).is_file():
        print(f"  report    {near(page)}")
    tell_where(study.folder, cluster)
    if search.challenge:
        from hrnet_ray.cli.model_registration import challenge  # knows MLflow, which costs seconds

        with stoppable():
            challenge(study.folder, experiment.data.root, cluster)
    return study


def _ending(trial: Trial) -> str:
    """What is worth knowing of a trial that did not simply train to the end."""
    if trial["error"]:
        return f"  failed: {trial['error']}"
    front = "  on the front" if trial.get("on_front") else ""
    return (f"  stopped by {trial['stopped_by']}" if trial["stopped_by"] else "") + front


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
