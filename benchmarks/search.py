"""What early stopping costs and spares: 12 trials of lr x sigma against the full grid of 12.

    python benchmarks/search.py            # 16 epochs a trial: about 15 minutes on two cores
    python benchmarks/search.py --quick    # half the tigers, 12 epochs: half the time

Trains drawn tigers on this machine's CPU, two trials at once: each of 12 settings to the end; the
same 12 with ASHA; and 12 that TPE draws from the space around them, with ASHA. Prints the best of
each, the epochs that were trained, and the seconds from the moment a trial gets its place to its
first training step: of trials of one worker, where the first ones start a process, and of trials
of two workers (Ray Train runs of their own). Ends with one JSON line: `ap_gap` is by how much
ASHA's best of the same settings is below the grid's, `epochs_share` what it trained of the grid's
epochs; `tpe_` the same of TPE with ASHA, which may be above (less than 0).
"""

import argparse
import json
import os
import statistics
import tempfile
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

from ray import tune

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


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tigers")
    parser.add_argument("--seed", type=int, default=0, help="of the study's draws")
    parser.add_argument("--folder", type=Path, help="keep the studies, and go on with them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compared(args.folder or Path(folder), quick=args.quick, seed=args.seed)))


def compared(folder: Path, *, quick: bool, seed: int) -> dict[str, float]:
    """The figures."""
    root = tigers(folder / "tigers", 120 if quick else 240)
    # The first rung has to come when scores say something: after as many steps, quick or not.
    size = {"optim.epochs": 12, "optim.batch_size": 4} if quick else {}
    base = with_overrides(BASE, {"data.root": str(root), **size})
    cluster = ClusterConfig(num_workers=1, device="cpu", storage_path=str(folder / "runs"))
    common = {"at_once": 2, "grace_epochs": 2, "seed": seed}
    every = SearchConfig(sampler="grid", scheduler="none", **common)

    whole = told(named(base, f"grid-{seed}"), GRID, cluster, every)
    figures: dict[str, float] = {}
    for prefix, space, search in (
        ("", GRID, SearchConfig(sampler="grid", **common)),
        ("tpe_", SPACE, SearchConfig(num_trials=12, **common)),
    ):
        study = told(named(base, f"{prefix}asha-{seed}"), space, cluster, search)
        gap = whole.best_trial["score"] - study.best_trial["score"]
        share = epochs_of(study) / epochs_of(whole)
        print(f"{epochs_of(study)} of {epochs_of(whole)} epochs, {share:.0%}; AP {gap:.4f} below")
        figures |= {f"{prefix}ap_gap": round(gap, 4), f"{prefix}epochs_share": round(share, 3)}
    pairs = told(
        named(with_overrides(base, {"optim.epochs": 1}), f"pairs-{seed}"),
        SPACE,
        replace(cluster, num_workers=2),
        SearchConfig(num_trials=2, grace_period=1),
    )
    for workers, study in ((1, whole), (2, pairs)):
        taken = overheads(study)
        shown = " ".join(f"{seconds:.1f}" for seconds in taken)
        print(f"from place to first step, {workers} workers: {shown} s")
        figures[f"overhead_{workers}_s"] = round(statistics.median(taken), 2)
        figures[f"overhead_{workers}_most_s"] = round(max(taken), 2)
    return figures


def tigers(root: Path, pictures: int) -> Path:
    """A data set of drawn tigers."""
    if not (root / "manifest.json").is_file():
        with silence():
            prepare(SyntheticArgs(kind="tigers", num_train=pictures, num_val=70, out=root, max_image_size=128))
    return root


def named(base: ExperimentConfig, name: str) -> ExperimentConfig:
    """The same experiment under another name."""
    return with_overrides(base, {"name": name})


def told(base: ExperimentConfig, space: dict, cluster: ClusterConfig, search: SearchConfig) -> StudyResult:
    """Run a study and print its trials, best first."""
    print(f"\n{base.name}: {search.describe_search(base.optim.epochs)}", flush=True)
    with silence():
        study = run_study(base, space, cluster, search)
    for trial in study.trials:
        drawn = "  ".join(f"{name} {trial[name]:.2g}" for name in space)
        stopped = f"  {trial['stopped_by']}" if trial["stopped_by"] else ""
        print(f"  {study.primary_metric} {trial['score']:.4f}  {trial['epochs']:2} epochs  {drawn}{stopped}")
    return study


def epochs_of(study: StudyResult) -> int:
    """Epochs that all its trials trained."""
    return sum(trial["epochs"] for trial in study.trials)


def overheads(study: StudyResult) -> list[float]:
    """Seconds from a trial's place to its first training step, in the order of the trials.

    The first epoch's line tells when it was written and how long the epoch took; all that the epoch
    waited for data is counted to its start, and so is the writing of its checkpoint.
    """
    found = []
    for number, note in read_trial_records(study.folder).items():
        if epochs := read_metrics(get_trials_dir(study.folder) / number):
            first = epochs[0]
            trained_s = first["perf/epoch_s"] * (1 - first["perf/data_wait_frac"])
            found.append(first["at_ms"] / 1000 - trained_s - note.first_started_s)
    return found


@contextmanager
def silence():
    """The studies' own lines are not for here."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


if __name__ == "__main__":
    main()
