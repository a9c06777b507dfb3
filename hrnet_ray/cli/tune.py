"""`hrnet-ray tune`: run a hyperparameter search and print its trials."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated

import tyro

from hrnet_ray.cli.plan_args import SizeFlag, expand_plan_flags, plan_from_flags
from hrnet_ray.cli.terminal_table import print_table
from hrnet_ray.cli.train import print_next_steps, to_short_path
from hrnet_ray.config import ClusterConfig, ExperimentConfig
from hrnet_ray.distributed.tuning.search_space import parse_search_space
from hrnet_ray.distributed.tuning.study import TrialRow
from hrnet_ray.distributed.tuning.tune import SearchConfig, SearchSpace, StudyResult, run_study
from hrnet_ray.reports.study.study_report import REPORT_FILENAME
from hrnet_ray.runs.controller import RunController


@dataclass(frozen=True, kw_only=True)
class TuneArgs:
    """Run a hyperparameter search. The same command resumes an interrupted search.

    hrnet-ray tune --name search --data data/mine --search.num-trials 24

    --size chooses net, input and recipe, as for `hrnet-ray train`. --data is short for --data.root.
    """

    size: SizeFlag = "auto"
    """Net, input and recipe. `auto` is tiny, or with a GPU on this machine (or --cluster.device gpu) small, and w32
    from 1,000 rows. `published` is the paper's W32 recipe as the defaults below show it."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(default_factory=ExperimentConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    space: tuple[str, ...] = ("optim.lr=log(1e-4,3e-3)", "heatmap.sigma=uniform(1,4)")
    """Search space: SETTING=log(LOW,HIGH), =uniform(LOW,HIGH), =int(LOW,HIGH), =choice(A,B)."""


expand_argv = expand_plan_flags


def complete_args(args: TuneArgs, argv: Sequence[str]) -> TuneArgs:
    """Return the arguments with the planned experiment."""
    return replace(args, experiment=plan_from_flags(args.size, args.experiment, args.cluster, argv))


def run(args: TuneArgs) -> None:
    """Run the search and print its result."""
    run_study_and_report(args.experiment, parse_search_space(args.space), args.cluster, args.search)


def run_study_and_report(
    experiment: ExperimentConfig, space: SearchSpace, cluster: ClusterConfig, search: SearchConfig
) -> StudyResult:
    """Run a study and print its trials, best first; register the best model as the challenger."""
    study = run_study(experiment, space, cluster, search)
    print()
    print_trials(study, space, with_latency=search.optimize_latency)
    settings = ", ".join(f"{name} {_format_value(study.best_trial[name])}" for name in space)
    print(f"best {study.primary_metric} {study.best_trial['score']:.4f} with {settings}")
    if (report_path := study.folder / REPORT_FILENAME).is_file():
        print(f"  report    {to_short_path(report_path)}")
    print_next_steps(study.folder, cluster)
    if search.register_best:
        # Deferred, because importing MLflow takes seconds.
        from hrnet_ray.cli.model_registration import register_challenger

        with RunController() as controller:
            controller.run(partial(register_challenger, study.folder, experiment.data.root, cluster))
    return study


def print_trials(study: StudyResult, space: SearchSpace, *, with_latency: bool) -> None:
    """Print a table of the trials: score, epochs, sampled settings and how each one ended."""
    latency_header = ["ms/crop"] if with_latency else []
    rows = []
    for trial in study.trials:
        latency = [_format_value(trial["latency_ms"])] if with_latency else []
        settings = [_format_value(trial[name]) for name in space]
        score, epochs = f"{trial['score']:.4f}", str(trial["epochs"])
        rows.append([score, epochs, *latency, *settings, _format_trial_status(trial)])
    print_table([study.primary_metric, "epochs", *latency_header, *space, ""], rows)


def _format_trial_status(trial: TrialRow) -> str:
    """Return why a trial failed or stopped early, and whether it is Pareto-optimal."""
    if trial["error"]:
        return f"failed: {trial['error']}"
    stopped = f"stopped by {trial['stopped_by']}" if trial["stopped_by"] else ""
    return ", ".join(filter(None, [stopped, "Pareto-optimal" if trial.get("pareto_optimal") else ""]))


def _format_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
