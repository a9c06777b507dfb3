"""Score against latency, for a study that optimized both."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from hrnet_ray.reports.study.setting_plots import BEST_MARKER_STYLE, MUTED_COLOR
from hrnet_ray.reports.study.trial_results import StudyResults, TrialResult
from hrnet_ray.visualization.plots import save_figure

LATENCY_COLUMN, PARETO_COLUMN = "latency_ms", "pareto_optimal"
"""Columns of trials.csv; the study marks its Pareto-optimal trials itself."""


def sort_trials_by_latency(study: StudyResults) -> list[tuple[float, TrialResult]]:
    """List (latency in ms, trial), the fastest first; empty if latency was not optimized."""
    if not any(PARETO_COLUMN in trial.extra_columns for trial in study.trials):
        return []
    pairs = [(float(trial.extra_columns.get(LATENCY_COLUMN, "nan")), trial) for trial in study.scored_trials]
    return sorted((pair for pair in pairs if math.isfinite(pair[0])), key=lambda pair: pair[0])


def select_pareto_optimal(study: StudyResults) -> list[tuple[float, TrialResult]]:
    """List (latency in ms, trial) of the Pareto-optimal trials, the fastest first."""
    return [
        (ms, trial) for ms, trial in sort_trials_by_latency(study) if trial.extra_columns.get(PARETO_COLUMN) == "True"
    ]


def plot_score_vs_latency(path: Path, study: StudyResults) -> None:
    """Plot score over latency, with a line through the Pareto-optimal trials."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    all_trials, front = sort_trials_by_latency(study), select_pareto_optimal(study)
    axes.scatter(
        [ms for ms, _ in all_trials],
        [trial.score for _, trial in all_trials],
        s=40,
        facecolors="white",
        edgecolors=MUTED_COLOR,
        label="dominated",
    )
    axes.plot(
        [ms for ms, _ in front],
        [trial.score for _, trial in front],
        color="#0072b2",
        marker="o",
        drawstyle="steps-post",
        label="Pareto-optimal",
    )
    for ms, trial in front:
        axes.annotate(
            f"#{trial.name}",
            (ms, trial.score),
            (-7, 6),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    best = [ms for ms, trial in all_trials if trial is study.best_trial]
    axes.plot(
        best,
        [study.best_trial.score] * len(best),
        **BEST_MARKER_STYLE,
        label=f"best: #{study.best_trial.name}",
    )
    axes.set(xlabel="latency (ms)", ylabel=f"best {study.metric}")
    axes.margins(0.12)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    save_figure(path, figure)
