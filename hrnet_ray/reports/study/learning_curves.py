"""How the trials of a study went, and what they took: learning curves, rungs, hours."""

from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hrnet_ray.reports.study.setting_plots import BEST, INK, PALE
from hrnet_ray.reports.study.trial_results import Ending, Trial, Trials
from hrnet_ray.visualization.plots import write_figure

WHOLE, STOPPED, FAILED = "#0072b2", "#7fb3d5", "#e69f00"
COLOURS = {Ending.WHOLE: WHOLE, Ending.STOPPED: STOPPED, Ending.FAILED: FAILED}
MOST_RUNGS = 6  # more marks than this would write over each other


def rungs_of(study: Trials) -> dict[int, list[Trial]]:
    """The trials that were stopped, by the epochs that they had done."""
    found: dict[int, list[Trial]] = {}
    for trial in study.ended(Ending.STOPPED):
        found.setdefault(len(trial.epochs), []).append(trial)
    return dict(sorted(found.items()))


def learning(path: Path, study: Trials) -> None:
    """Every trial's score over its epochs, and below how many were still training."""
    figure = Figure(figsize=(6.6, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for trial in reversed(study.all):
        _curve(above, trial, best=trial is study.best)
    above.set(ylabel=f"validation {study.metric}")
    above.grid(alpha=0.25)
    above.legend(handles=_legend(study), fontsize=8, loc="lower right")
    _still_training(below, study)
    counts = Counter({epoch: len(trials) for epoch, trials in rungs_of(study).items()})
    for epoch, stopped in sorted(counts.most_common(MOST_RUNGS)):
        for axes in (above, below):
            axes.axvline(epoch, color=INK, linestyle=":", linewidth=1)
        above.annotate(
            f"{stopped} stopped",
            (epoch, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    write_figure(path, figure)


def _curve(axes: Axes, trial: Trial, *, best: bool) -> None:
    if not trial.curve:
        return
    epochs, scores = zip(*trial.curve, strict=True)
    if best:
        axes.plot(epochs, scores, color=BEST, linewidth=2.8, zorder=5)
        return
    pale = trial.ending is not Ending.WHOLE
    colour = COLOURS[trial.ending]
    axes.plot(epochs, scores, color=colour, linewidth=1.4, alpha=0.6 if pale else 0.9)
    marker = {Ending.WHOLE: "o", Ending.STOPPED: ".", Ending.FAILED: "X"}[trial.ending]
    axes.plot(epochs[-1], scores[-1], color=colour, marker=marker, markersize=6)


def _legend(study: Trials) -> list[Patch]:
    others = [trial for trial in study.all if trial is not study.best]
    seen = [ending for ending in Ending if any(trial.ending is ending for trial in others)]
    first = Patch(color=BEST, label=f"best: #{study.best.name}")
    return [first, *(Patch(color=COLOURS[ending], label=str(ending)) for ending in seen)]


def _still_training(axes: Axes, study: Trials) -> None:
    """The filled area is the epochs that were run, the pale one those that were spared."""
    longest = max(1, *(trial.planned for trial in study.all))
    at = np.arange(longest)
    running, wanted = (
        (np.array(lengths)[:, None] > at).sum(0)
        for lengths in (
            [len(trial.epochs) for trial in study.all],
            [trial.planned for trial in study.all],
        )
    )
    axes.bar(at + 0.5, wanted, width=1.0, color="#e3e3e0")
    axes.bar(at + 0.5, running, width=1.0, color=WHOLE)
    axes.set(ylabel="still training", xlabel="epochs done", xlim=(0, longest * 1.02))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def cost(path: Path, study: Trials) -> None:
    """The time that each trial took, and what its early end saved."""
    trials = sorted(study.all, key=lambda trial: trial.name)
    unit, per = _unit(max(trial.seconds + trial.saved_s for trial in trials))
    figure = Figure(figsize=(6.6, 1.3 + 0.2 * max(4, len(trials))), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(trials))
    took = np.array([trial.seconds for trial in trials]) / per
    saved = np.array([trial.saved_s for trial in trials]) / per
    colours = [BEST if trial is study.best else COLOURS[trial.ending] for trial in trials]
    axes.barh(at, took, color=colours)
    axes.barh(at, saved, left=took, color="none", edgecolor=PALE, hatch="////", linewidth=0.5)
    axes.set_yticks(at, [f"#{trial.name}" for trial in trials], fontsize=7.5)
    axes.invert_yaxis()
    axes.set(xlabel=f"{unit} of training", ylim=(len(trials) - 0.4, -0.6))
    axes.grid(axis="x", alpha=0.25)
    hatched = Patch(facecolor="none", edgecolor=PALE, hatch="////", label="saved, at its own pace")
    axes.legend(
        handles=[*_legend(study), hatched],
        fontsize=8,
        ncols=3,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
    )
    write_figure(path, figure)


def _unit(seconds: float) -> tuple[str, float]:
    if seconds < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def duration(seconds: float) -> str:
    """For people: `48 s`, `3 min 20 s`, `2 h 05 min`."""
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
