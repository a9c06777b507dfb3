"""Score against speed, where a study searched for both."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from hrnet_ray.reports.study.setting_plots import PALE, STAR
from hrnet_ray.reports.study.trial_results import Trial, Trials
from hrnet_ray.visualization.plots import write_figure

LATENCY, FRONT = "latency_ms", "on_front"
"""Columns of trials.csv."""


def timed(study: Trials) -> list[tuple[float, Trial]]:
    """Milliseconds and trial, the quickest first; none where speed was not searched for."""
    if not any(FRONT in trial.more for trial in study.all):
        return []
    pairs = [(float(trial.more.get(LATENCY, "nan")), trial) for trial in study.scored]
    return sorted((pair for pair in pairs if math.isfinite(pair[0])), key=lambda pair: pair[0])


def on_front(study: Trials) -> list[tuple[float, Trial]]:
    """Those that no other trial beats in both."""
    return [(ms, trial) for ms, trial in timed(study) if trial.more.get(FRONT) == "True"]


def score_against_latency(path: Path, study: Trials) -> None:
    """A mark for each trial; a line through those that no other one beats in both."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    everything, front = timed(study), on_front(study)
    axes.scatter(
        [ms for ms, _ in everything],
        [trial.score for _, trial in everything],
        s=40,
        facecolors="white",
        edgecolors=PALE,
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
    best = [ms for ms, trial in everything if trial is study.best]
    axes.plot(best, [study.best.score] * len(best), **STAR, label=f"best: #{study.best.name}")
    axes.set(xlabel="milliseconds", ylabel=f"best {study.metric}")
    axes.margins(0.12)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    write_figure(path, figure)
