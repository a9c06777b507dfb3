"""Plots of a study over time: learning curves, early stopping, and duration of the trials."""

from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hrnet_ray.reports.study.setting_plots import BEST_COLOR, MUTED_COLOR, TEXT_COLOR
from hrnet_ray.reports.study.trial_results import StudyResults, TrialOutcome, TrialResult
from hrnet_ray.visualization.plots import save_figure

COMPLETED_COLOR, STOPPED_COLOR, FAILED_COLOR = "#0072b2", "#7fb3d5", "#e69f00"
OUTCOME_COLORS = {
    TrialOutcome.COMPLETED: COMPLETED_COLOR,
    TrialOutcome.STOPPED: STOPPED_COLOR,
    TrialOutcome.FAILED: FAILED_COLOR,
}
OUTCOME_MARKERS = {
    TrialOutcome.COMPLETED: "o",
    TrialOutcome.STOPPED: ".",
    TrialOutcome.FAILED: "X",
}
MAX_LABELED_RUNGS = 6
"""Number of rungs with a label; more labels would overlap."""


def group_trials_by_rung(study: StudyResults) -> dict[int, list[TrialResult]]:
    """Group the stopped trials by their number of epochs."""
    rungs: dict[int, list[TrialResult]] = {}
    for trial in study.select_by_outcome(TrialOutcome.STOPPED):
        rungs.setdefault(len(trial.epoch_records), []).append(trial)
    return dict(sorted(rungs.items()))


def plot_learning_curves(path: Path, study: StudyResults) -> None:
    """Plot the score of every trial over its epochs, and below the number of active trials."""
    figure = Figure(figsize=(6.6, 5.2), layout="constrained")
    curves, active = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for trial in reversed(study.trials):
        _plot_trial_curve(curves, trial, is_best=trial is study.best_trial)
    curves.set(ylabel=f"validation {study.metric}")
    curves.grid(alpha=0.25)
    curves.legend(handles=_build_outcome_legend(study), fontsize=8, loc="lower right")
    _plot_active_trials(active, study)
    counts = Counter({epoch: len(trials) for epoch, trials in group_trials_by_rung(study).items()})
    for epoch, stopped in sorted(counts.most_common(MAX_LABELED_RUNGS)):
        for axes in (curves, active):
            axes.axvline(epoch, color=TEXT_COLOR, linestyle=":", linewidth=1)
        curves.annotate(
            f"{stopped} stopped",
            (epoch, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    save_figure(path, figure)


def _plot_trial_curve(axes: Axes, trial: TrialResult, *, is_best: bool) -> None:
    if not trial.score_curve:
        return
    epochs, scores = zip(*trial.score_curve, strict=True)
    if is_best:
        axes.plot(epochs, scores, color=BEST_COLOR, linewidth=2.8, zorder=5)
        return
    color = OUTCOME_COLORS[trial.outcome]
    alpha = 0.9 if trial.outcome is TrialOutcome.COMPLETED else 0.6
    axes.plot(epochs, scores, color=color, linewidth=1.4, alpha=alpha)
    marker = OUTCOME_MARKERS[trial.outcome]
    axes.plot(epochs[-1], scores[-1], color=color, marker=marker, markersize=6)


def _build_outcome_legend(study: StudyResults) -> list[Patch]:
    others = [trial for trial in study.trials if trial is not study.best_trial]
    present = {trial.outcome for trial in others}
    return [
        Patch(color=BEST_COLOR, label=f"best: #{study.best_trial.name}"),
        *(Patch(color=OUTCOME_COLORS[o], label=str(o)) for o in TrialOutcome if o in present),
    ]


def _plot_active_trials(axes: Axes, study: StudyResults) -> None:
    """Plot the trained epochs as a filled area, the saved ones as a pale area."""
    longest = max(1, *(trial.planned_epochs for trial in study.trials))
    epochs = np.arange(longest)
    running, planned = (
        (np.array(lengths)[:, None] > epochs).sum(0)
        for lengths in (
            [len(trial.epoch_records) for trial in study.trials],
            [trial.planned_epochs for trial in study.trials],
        )
    )
    axes.bar(epochs + 0.5, planned, width=1.0, color="#e3e3e0")
    axes.bar(epochs + 0.5, running, width=1.0, color=COMPLETED_COLOR)
    axes.set(ylabel="active trials", xlabel="epoch", xlim=(0, longest * 1.02))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def plot_trial_cost(path: Path, study: StudyResults) -> None:
    """Plot the duration of each trial, and the time that early stopping saved."""
    trials = sorted(study.trials, key=lambda trial: trial.name)
    unit, unit_s = _select_time_unit(max(trial.duration_s + trial.time_saved_s for trial in trials))
    figure = Figure(figsize=(6.6, 1.3 + 0.2 * max(4, len(trials))), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(trials))
    durations = np.array([trial.duration_s for trial in trials]) / unit_s
    saved = np.array([trial.time_saved_s for trial in trials]) / unit_s
    colors = [BEST_COLOR if trial is study.best_trial else OUTCOME_COLORS[trial.outcome] for trial in trials]
    axes.barh(positions, durations, color=colors)
    axes.barh(
        positions,
        saved,
        left=durations,
        color="none",
        edgecolor=MUTED_COLOR,
        hatch="////",
        linewidth=0.5,
    )
    axes.set_yticks(positions, [f"#{trial.name}" for trial in trials], fontsize=7.5)
    axes.invert_yaxis()
    axes.set(xlabel=f"{unit} of training", ylim=(len(trials) - 0.4, -0.6))
    axes.grid(axis="x", alpha=0.25)
    hatched = Patch(facecolor="none", edgecolor=MUTED_COLOR, hatch="////", label="saved (estimate)")
    axes.legend(
        handles=[*_build_outcome_legend(study), hatched],
        fontsize=8,
        ncols=3,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
    )
    save_figure(path, figure)


def _select_time_unit(seconds: float) -> tuple[str, float]:
    if seconds < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def format_duration(seconds: float) -> str:
    """Format a duration: `48 s`, `3 min 20 s`, `2 h 05 min`."""
    if not np.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"
