"""Score against speed, where a study searched for both."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from hrnet_ray.reports.study.setting_plots import BEST_MARKER_STYLE, MUTED_COLOR
from hrnet_ray.reports.study.trial_results import StudyResults, TrialResult
from hrnet_ray.visualization.plots import save_figure

LATENCY_COLUMN, PARETO_COLUMN = "latency_ms", "pareto_optimal"
"""Columns of trials.csv."""


def sort_trials_by_latency(study: StudyResults) -> list[tuple[float, TrialResult]]:
    """Milliseconds and trial, the quickest first; none where speed was not searched for."""
    if not any(PARETO_COLUMN in trial.extra_columns for trial in study.trials):
        return []
    pairs = [
        (float(trial.extra_columns.get(LATENCY_COLUMN, "nan")), trial)
        for trial in study.scored_trials
    ]
    return sorted((pair for pair in pairs if math.isfinite(pair[0])), key=lambda pair: pair[0])


def select_pareto_optimal(study: StudyResults) -> list[tuple[float, TrialResult]]:
    """Those that no other trial beats in both."""
    return [
        (ms, trial)
        for ms, trial in sort_trials_by_latency(study)
        if trial.extra_columns.get(PARETO_COLUMN) == "True"
    ]


def plot_score_vs_latency(path: Path, study: StudyResults) -> None:
    """A mark for each trial; a line through those that no other one beats in both."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    everything, front = sort_trials_by_latency(study), select_pareto_optimal(study)
    axes.scatter(
        [ms for ms, _ in everything],
        [trial.score for _, trial in everything],
        s=40,
        facecolors="white",
        edgecolors=MUTED_COLOR,
        label="another is better and quicker",
    )
    axes.plot(
        [ms for ms, _ in front],
        [trial.score for _, trial in front],
        color="#0072b2",
        marker="o",
        drawstyle="steps-post",
        label="none is",
    )
    for ms, trial in front:
        place = (ms, trial.score)
        axes.annotate(
            f"#{trial.name}", place, (-7, 6), textcoords="offset points", ha="right", fontsize=8
        )
    best = [ms for ms, trial in everything if trial is study.best_trial]
    axes.plot(
        best,
        [study.best_trial.score] * len(best),
        **BEST_MARKER_STYLE,
        label=f"best: #{study.best_trial.name}",
    )
    axes.set(xlabel="milliseconds", ylabel=f"best {study.metric}")
    axes.margins(0.12)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    save_figure(path, figure)
