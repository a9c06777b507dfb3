"""`hrnet-ray tune`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from hrnet_ray.cli.train import print_next_steps, to_short_path
from hrnet_ray.config import ClusterConfig, ExperimentConfig
from hrnet_ray.distributed.tuning.search_space import parse_search_space
from hrnet_ray.distributed.tuning.study import TrialRow
from hrnet_ray.distributed.tuning.tune import SearchConfig, SearchSpace, StudyResult, run_study
from hrnet_ray.reports.study.study_report import REPORT_FILENAME
from hrnet_ray.runs.signals import interrupt_on_signals


@dataclass(frozen=True, kw_only=True)
class TuneArgs:
    """Search settings. The same command goes on where it stopped.

    hrnet-ray tune --name search --data.root data/atrw --search.num-trials 24
    """

    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    space: tuple[str, ...] = ("optim.lr=log(1e-4,3e-3)", "heatmap.sigma=uniform(1,4)")
    """What to search: SETTING=log(LOW,HIGH), =uniform(LOW,HIGH), =int(LOW,HIGH), =choice(A,B)."""


def run(args: TuneArgs) -> None:
    """Search, and say what came out."""
    run_study_and_report(args.experiment, parse_search_space(args.space), args.cluster, args.search)


def run_study_and_report(
    experiment: ExperimentConfig, space: SearchSpace, cluster: ClusterConfig, search: SearchConfig
) -> StudyResult:
    """Run a sweep and print its trials, best first; the best one becomes the challenger."""
    study = run_study(experiment, space, cluster, search)
    quick = f"{'ms a crop':>9}  " if search.optimize_latency else ""
    print(
        f"\n{study.primary_metric:>10}  epochs  {quick}"
        + "  ".join(f"{name:>14}" for name in space)
    )
    for trial in study.trials:
        drawn = "  ".join(f"{_format_value(trial[name]):>14}" for name in space)
        if quick:
            drawn = f"{_format_value(trial['latency_ms']):>9}  {drawn}"
        print(
            f"{trial['score']:>10.4f}  {trial['epochs']:>6}  {drawn}{_format_trial_status(trial)}"
        )
    settings = ", ".join(f"{name} {_format_value(study.best_trial[name])}" for name in space)
    print(f"best {study.primary_metric} {study.best_trial['score']:.4f} with {settings}")
    if (page := study.folder / REPORT_FILENAME).is_file():
        print(f"  report    {to_short_path(page)}")
    print_next_steps(study.folder, cluster)
    if search.register_best:
        from hrnet_ray.cli.model_registration import (
            register_challenger,
        )  # knows MLflow, which costs seconds

        with interrupt_on_signals():
            register_challenger(study.folder, experiment.data.root, cluster)
    return study


def _format_trial_status(trial: TrialRow) -> str:
    """What is worth knowing of a trial that did not simply train to the end."""
    if trial["error"]:
        return f"  failed: {trial['error']}"
    front = "  on the front" if trial.get("pareto_optimal") else ""
    return (f"  stopped by {trial['stopped_by']}" if trial["stopped_by"] else "") + front


def _format_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
