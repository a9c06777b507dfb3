"""Early stopping: 12 trials of learning rate x heatmap sigma against the full grid of 12.

    python benchmarks/search.py            # 16 epochs a trial: about 15 minutes on two cores
    python benchmarks/search.py --quick    # half the tigers, 12 epochs: half the time
    python benchmarks/search.py --simulate # our ASHA against Ray's rule, without training: seconds

Trains drawn tigers on this machine's CPU, two trials at once: each of 12 settings to the end; the
same 12 with ASHA; and 12 that TPE draws from the space around them, with ASHA. Prints the best of
each, the epochs that were trained, and the seconds from the moment a trial gets its place to its
first training step: of trials of one worker, where the first ones start a process, and of trials
of two workers (Ray Train runs of their own). Ends with one JSON line: `ap_gap` is by how much
ASHA's best of the same settings is below the grid's, `epochs_share` what it trained of the grid's
epochs; `tpe_` the same of TPE with ASHA, which may be above (less than 0).

`--simulate` runs whole studies on random learning curves, once with `SuccessiveHalving` and once
with Ray's AsyncHyperBandScheduler. `epochs_ratio` is the ratio of the epochs trained, Ray's to
ours, and `score_gap` how far Ray's best final score is below ours: median and range over the seeds.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from hrnet_ray.cli.prepare import SyntheticArgs, run as prepare
from hrnet_ray.config import (
    AugmentationConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    HeatmapConfig,
    ModelConfig,
    OptimizerConfig,
    with_overrides,
)
from hrnet_ray.distributed.tuning.schedulers import StoppingRule, SuccessiveHalving, TrialScore
from hrnet_ray.distributed.tuning.trial_records import get_trials_dir, read_trial_records
from hrnet_ray.distributed.tuning.tune import SearchConfig, StudyResult, run_study
from hrnet_ray.runs.event_log import read_metrics

RATES, SIGMAS = (3e-4, 1e-3, 3e-3, 1e-2), (0.7, 1.1, 1.8)
GRID = {"optim.lr": tune.choice(RATES), "heatmap.sigma": tune.choice(SIGMAS)}
SPACE = {
    "optim.lr": tune.loguniform(RATES[0], RATES[-1]),
    "heatmap.sigma": tune.uniform(SIGMAS[0], SIGMAS[-1]),
}
BASE = ExperimentConfig(
    data=DataConfig(input_hw=(64, 96)),
    model=ModelConfig(width=8, modules=(1, 1, 1), blocks=1, stem=16),
    heatmap=HeatmapConfig(quantize_center=False),
    augment=AugmentationConfig(scale_factor=0.1, rotation_deg=8.0),
    optim=OptimizerConfig(schedule="cosine", warmup_steps=20, epochs=16, batch_size=8),
    evaluation=EvaluationConfig(decode="dark"),
)


@dataclass(frozen=True)
class SimulatedStudy:
    """A study to simulate: its trials, the epochs of each, and its rungs."""

    trials: int
    epochs: int
    grace_period: int
    reduction_factor: int = 3
    concurrent_trials: int = 2


SIMULATED_STUDIES = {"benchmark": SimulatedStudy(12, 16, 2), "default": SimulatedStudy(24, 210, 10)}
SIMULATED_SEEDS = 20


class RayHalving:
    """Ray's AsyncHyperBandScheduler as a stopping rule. It decides once and resumes no trial."""

    def __init__(self, *, grace_period: int, reduction_factor: int, epochs: int) -> None:
        self.scheduler = AsyncHyperBandScheduler(
            metric="score", mode="max", max_t=epochs, grace_period=grace_period, reduction_factor=reduction_factor
        )
        self.trials: dict[str, Any] = {}

    def should_stop(self, trial: str, score: TrialScore) -> bool:
        if trial not in self.trials:
            self.trials[trial] = SimpleNamespace(trial_id=trial)
            self.scheduler.on_trial_add(None, self.trials[trial])
        result = {"training_iteration": score.epoch, "score": score.value}
        return self.scheduler.on_trial_result(None, self.trials[trial], result) == TrialScheduler.STOP

    def next_to_resume(self, paused_trials: set[str], *, no_more_trials: bool) -> str | None:
        return None


def main() -> None:
    """Train or simulate, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tigers")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler; the first one of --simulate")
    parser.add_argument("--folder", type=Path, help="keep the studies, and go on with them")
    parser.add_argument("--simulate", action="store_true", help="compare with Ray's rule, without training")
    args = parser.parse_args()
    if args.simulate:
        print(json.dumps(compare_stopping_rules(range(args.seed, args.seed + SIMULATED_SEEDS))))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare_studies(args.folder or Path(folder), quick=args.quick, seed=args.seed)))


def compare_stopping_rules(seeds: range) -> dict[str, float]:
    """Simulate each study with both rules; print a line per seed and return the figures."""
    figures = {}
    for name, study in SIMULATED_STUDIES.items():
        print(f"\n{name}: {study}")
        ratios, gaps = [], []
        for seed in seeds:
            curves = sample_learning_curves(study, seed)
            (ours, our_best), (rays, rays_best) = (
                run_simulated_study(rule, study, curves) for rule in (SuccessiveHalving, RayHalving)
            )
            ratios.append(rays / ours)
            gaps.append(our_best - rays_best)
            best = f"best {our_best:.3f}, {rays_best:.3f}"
            print(f"  seed {seed:2}: {ours} epochs, Ray's rule {rays}: {ratios[-1]:.2f} x; {best}")
        for figure, values in (("epochs_ratio", ratios), ("score_gap", gaps)):
            summary = {"median": statistics.median(values), "min": min(values), "max": max(values)}
            figures |= {f"{name}_{figure}_{key}": round(value, 3) for key, value in summary.items()}
    return figures


def sample_learning_curves(study: SimulatedStudy, seed: int) -> np.ndarray:
    """Sample a noisy exponential rise to a final score per trial: [trials, epochs]."""
    rng = np.random.default_rng(seed)
    final_score = rng.uniform(0.2, 0.9, (study.trials, 1))
    rise_epochs = study.epochs * rng.uniform(0.05, 0.3, (study.trials, 1))
    rise = 1 - np.exp(-np.arange(1, study.epochs + 1) / rise_epochs)
    return final_score * rise + rng.normal(0, 0.01, (study.trials, study.epochs))


def run_simulated_study(rule_type: type, study: SimulatedStudy, curves: np.ndarray) -> tuple[int, float]:
    """Train all trials by a rule, with an epoch of each running trial at a time.

    Returns:
        The epochs trained, and the best final score among the trials that trained to the end.
    """
    rule: StoppingRule = rule_type(
        grace_period=study.grace_period, reduction_factor=study.reduction_factor, epochs=study.epochs
    )
    scores = {f"{trial:02}": curve for trial, curve in enumerate(curves)}
    trained, new_trials = dict.fromkeys(scores, 0), list(scores)
    running: list[str] = []
    paused: set[str] = set()
    while True:
        while len(running) < study.concurrent_trials:
            resumed = rule.next_to_resume(paused, no_more_trials=not running and not new_trials)
            if resumed is None and not new_trials:
                break
            running.append(resumed or new_trials.pop(0))
            paused.discard(running[-1])
        if not running:
            break
        for trial in running.copy():
            trained[trial] += 1
            stopped = rule.should_stop(trial, TrialScore(trained[trial], scores[trial][trained[trial] - 1]))
            if trained[trial] == study.epochs:
                running.remove(trial)
            elif stopped:
                running.remove(trial)
                paused.add(trial)
    finished = [scores[trial][-1] for trial, epochs in trained.items() if epochs == study.epochs]
    return sum(trained.values()), max(finished)


def compare_studies(folder: Path, *, quick: bool, seed: int) -> dict[str, float]:
    """Train the studies and return the figures."""
    root = prepare_tigers(folder / "tigers", 120 if quick else 240)
    # The first rung has to come when scores say something: after as many steps, quick or not.
    size = {"optim.epochs": 12, "optim.batch_size": 4} if quick else {}
    base = with_overrides(BASE, {"data.root": str(root), **size})
    cluster = ClusterConfig(num_workers=1, device="cpu", storage_path=str(folder / "runs"))
    common: dict[str, Any] = {"max_concurrent_trials": 2, "grace_period": 2, "seed": seed}
    every = SearchConfig(sampler="grid", scheduler="none", **common)

    whole = run_and_print_study(replace(base, name=f"grid-{seed}"), GRID, cluster, every)
    figures: dict[str, float] = {}
    for prefix, space, search in (
        ("", GRID, SearchConfig(sampler="grid", **common)),
        ("tpe_", SPACE, SearchConfig(num_trials=12, **common)),
    ):
        study = run_and_print_study(replace(base, name=f"{prefix}asha-{seed}"), space, cluster, search)
        gap = whole.best_trial["score"] - study.best_trial["score"]
        share = count_epochs(study) / count_epochs(whole)
        print(f"{count_epochs(study)} of {count_epochs(whole)} epochs, {share:.0%}; AP {gap:.4f} below")
        figures |= {f"{prefix}ap_gap": round(gap, 4), f"{prefix}epochs_share": round(share, 3)}
    pairs = run_and_print_study(
        with_overrides(base, {"name": f"pairs-{seed}", "optim.epochs": 1}),
        SPACE,
        replace(cluster, num_workers=2),
        SearchConfig(num_trials=2, grace_period=1),
    )
    for workers, study in ((1, whole), (2, pairs)):
        taken = measure_overheads(study)
        shown = " ".join(f"{seconds:.1f}" for seconds in taken)
        print(f"from place to first step, {workers} workers: {shown} s")
        figures[f"overhead_{workers}_s"] = round(statistics.median(taken), 2)
        figures[f"overhead_{workers}_most_s"] = round(max(taken), 2)
    return figures


def prepare_tigers(root: Path, images: int) -> Path:
    """Prepare a dataset of synthetic tigers, unless it is there."""
    if not (root / "manifest.json").is_file():
        with silence_stdout():
            prepare(SyntheticArgs(kind="tigers", num_train=images, num_val=70, out=root, max_image_size=128))
    return root


def run_and_print_study(
    base: ExperimentConfig, space: dict, cluster: ClusterConfig, search: SearchConfig
) -> StudyResult:
    """Run a study and print its trials, best first."""
    print(f"\n{base.name}: {search.describe_search(base.optim.epochs)}", flush=True)
    with silence_stdout():
        study = run_study(base, space, cluster, search)
    for trial in study.trials:
        drawn = "  ".join(f"{name} {trial[name]:.2g}" for name in space)
        stopped = f"  {trial['stopped_by']}" if trial["stopped_by"] else ""
        print(f"  {study.primary_metric} {trial['score']:.4f}  {trial['epochs']:2} epochs  {drawn}{stopped}")
    return study


def count_epochs(study: StudyResult) -> int:
    """Count the epochs that all trials of the study trained."""
    return sum(trial["epochs"] for trial in study.trials)


def measure_overheads(study: StudyResult) -> list[float]:
    """Measure the seconds from the start of each trial to its first training step.

    The line of the first epoch holds its time and duration. The epoch's waiting for data and the
    writing of its checkpoint count as time before the first step.
    """
    found = []
    for number, note in read_trial_records(study.folder).items():
        if epochs := read_metrics(get_trials_dir(study.folder) / number):
            first = epochs[0]
            trained_s = first["perf/epoch_s"] * (1 - first["perf/data_wait_frac"])
            found.append(first["at_ms"] / 1000 - trained_s - note.first_started_s)
    return found


@contextmanager
def silence_stdout() -> Iterator[None]:
    """Discard what the studies print."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


if __name__ == "__main__":
    main()
