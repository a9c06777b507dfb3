"""Where in the search space the good trials are: map, settings side by side, keypoints.

Scores are viridis and the best trial is a vermilion star: both can be told apart by the
colour-blind.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.interpolate import RBFInterpolator
from scipy.spatial import Delaunay, QhullError

from hrnet_ray.reports.study.axes import Axis, axis_of, axis_of_numbers
from hrnet_ray.reports.study.trial_results import Ending, Trial, Trials
from hrnet_ray.text import printable
from hrnet_ray.visualization.plots import write_figure

BEST, PALE, INK = "#d55e00", "#9a9a9a", "#23221f"
ENOUGH = 6
"""From so many places on, a map has colours between them."""
CELLS = 120
"""Rows and columns of that map."""
MARKERS = {Ending.WHOLE: "o", Ending.STOPPED: "v", Ending.FAILED: "X"}
STAR = {
    "marker": "*",
    "markersize": 19,
    "color": BEST,
    "markeredgecolor": "white",
    "linestyle": "none",
}
JITTER = 0.035  # lines that make the same choice stand side by side


def score_map(path: Path, study: Trials, *, across: tuple[str, str]) -> None:
    """Trials over two of their settings; between enough of them, the colours flow.

    What was stopped early is not worse for that on the first panel: all are shown as they were
    when they had trained alike.
    """
    alike = np.array([trial.after(study.common) for trial in study.scored])
    best = np.array([trial.score for trial in study.scored])
    panels = {f"best {study.metric} of each": best}
    if study.ended(Ending.STOPPED) and np.isfinite(alike).any():
        panels = {f"{study.metric} after {said_epochs(study.common)}": alike} | panels
    figure = Figure(figsize=(5.9 * len(panels), 4.6), layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False).ravel()
    for axes, (title, scores) in zip(places, panels.items(), strict=True):
        _map_panel(figure, axes, study, scores, across)
        axes.set_title(title, fontsize=10)
    figure.legend(
        handles=_marks(study), loc="outside lower center", ncols=4, fontsize=9, frameon=False
    )
    write_figure(path, figure)


def _map_panel(
    figure: Figure, axes: Axes, study: Trials, scores: np.ndarray, across: tuple[str, str]
) -> None:
    trials = study.scored
    x, y = (axis_of(trials, name) for name in across)
    norm = _norm(scores[np.isfinite(scores)])
    known = np.isfinite(scores)
    _flow(axes, np.stack([x.places, y.places], 1)[known], scores[known], norm)
    for ending, marker in MARKERS.items():
        at = [n for n, trial in enumerate(trials) if trial.ending is ending]
        if at:
            axes.scatter(
                x.places[at],
                y.places[at],
                c=scores[at],
                norm=norm,
                cmap="viridis",
                marker=marker,
                s=64,
                edgecolors="white",
                linewidths=1.2,
                zorder=3,
            )
    axes.plot(x.places[0], y.places[0], **STAR, zorder=4)
    _dress(axes, x, y)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes)


def _marks(study: Trials) -> list[Line2D]:
    seen = [ending for ending in MARKERS if any(t.ending is ending for t in study.scored)]
    marks = [
        Line2D([], [], linestyle="none", marker=MARKERS[ending], color="#55606b", label=str(ending))
        for ending in seen
    ]
    return [Line2D([], [], **{**STAR, "markersize": 14}, label=f"best: #{study.best.name}"), *marks]


def _flow(axes: Axes, places: np.ndarray, scores: np.ndarray, norm: Normalize) -> None:
    """Colour between the trials, and only there: beyond them nothing is known."""
    different, where = np.unique(places.round(6), axis=0, return_inverse=True)
    if len(different) < ENOUGH:
        return
    level = np.bincount(where.ravel(), scores) / np.bincount(where.ravel())
    try:
        inside_of = Delaunay(different)
    except QhullError:  # all on a line
        return
    line = np.linspace(0, 1, CELLS)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    # A little smoothing: two neighbours that differ by luck make no cliff.
    found = RBFInterpolator(different, level, kernel="linear", smoothing=0.02)(grid)
    found = np.clip(found, scores.min(), scores.max())
    found[inside_of.find_simplex(grid) < 0] = np.nan
    field = np.ma.masked_invalid(found.reshape(CELLS, CELLS))
    axes.contourf(line, line, field, levels=24, norm=norm, cmap="viridis", alpha=0.75)
    lines = axes.contour(line, line, field, levels=5, colors="white", linewidths=0.7)
    axes.clabel(lines, fontsize=7, fmt="%.2f")


def _dress(axes: Axes, x: Axis, y: Axis) -> None:
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), xlabel=x.name, ylabel=y.name)
    axes.set_xticks(*_ticks(x))
    axes.set_yticks(*_ticks(y))
    axes.grid(alpha=0.25)


def _ticks(axis: Axis) -> tuple[list[float], list[str]]:
    return [place for place, _ in axis.ticks], [_cut(said) for _, said in axis.ticks]


def each_setting(path: Path, study: Trials) -> None:
    """Score over each searched setting by itself, after as many epochs as all trials had."""
    trials = study.scored
    scores = np.array([trial.after(study.common) for trial in trials])
    columns = min(4, len(study.searched))
    rows = -(-len(study.searched) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.6, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, name in zip(panels, study.searched, strict=False):
        axis = axis_of(trials, name)
        axes.scatter(axis.places, scores, s=34, facecolors="white", edgecolors="#2d6ec8")
        axes.plot(axis.places[0], scores[0], **STAR)
        axes.set_xticks(*_ticks(axis))
        axes.tick_params(labelsize=8)
        axes.set(xlim=(-0.12, 1.12), xlabel=name)
        axes.grid(alpha=0.25)
    for axes in panels[len(study.searched) :]:
        axes.set_visible(False)
    figure.supylabel(f"{study.metric} after {said_epochs(study.common)}", fontsize=10)
    write_figure(path, figure)


def parallel(path: Path, study: Trials) -> None:
    """A line for each trial through its settings to its score."""
    scores = np.array([trial.score for trial in study.all])
    axes_of = [axis_of(study.all, name) for name in study.searched]
    axes_of.append(axis_of_numbers(scores, study.metric))
    places = np.stack([axis.places for axis in axes_of], 1)  # [N, A]
    spread = np.linspace(-JITTER, JITTER, len(study.all)) if len(study.all) > 1 else np.zeros(1)
    for column, axis in enumerate(axes_of):
        if axis.is_choice:
            places[:, column] += spread
    figure = Figure(figsize=(max(6.4, 1.9 * len(axes_of) + 1), 4.6), layout="constrained")
    axes = figure.subplots()
    norm = _norm(scores[np.isfinite(scores)])
    across = np.arange(len(axes_of))
    for at in reversed(range(len(study.all))):  # the best one is drawn last
        trial, line = study.all[at], places[at]
        style = {"color": PALE, "linestyle": ":", "linewidth": 1.2}  # ends before the score
        if trial.scored:
            colour = colormaps["viridis"](norm(trial.score))
            alpha = 0.9 if trial.ending is Ending.WHOLE else 0.45
            style = {"color": colour, "linewidth": 1.6, "alpha": alpha}
        if at == 0:
            style = {"color": BEST, "linewidth": 3.0}
        axes.plot(across, line, **style, solid_capstyle="round")
    for place, axis in enumerate(axes_of):
        _pillar(axes, place, axis, last=place == len(axes_of) - 1)
    axes.set(xlim=(-0.35, len(axes_of) - 0.8), ylim=(-0.06, 1.14))
    axes.axis("off")
    if len(study.scored) > 1:
        figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, label=f"best {study.metric}")
    handles = [Line2D([], [], color=BEST, linewidth=3, label=f"best: #{study.best.name}")]
    if study.ended(Ending.STOPPED):
        handles.append(Line2D([], [], color="#31688e", alpha=0.45, label=str(Ending.STOPPED)))
    if study.ended(Ending.FAILED):
        handles.append(Line2D([], [], color=PALE, linestyle=":", label=str(Ending.FAILED)))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    write_figure(path, figure)


def _pillar(axes: Axes, place: int, axis: Axis, *, last: bool) -> None:
    axes.plot([place, place], [0, 1], color=INK, linewidth=1.0)
    axes.text(place, 1.07, axis.name, ha="center", va="bottom", fontsize=9, fontweight="bold")
    for at, said in axis.ticks:
        axes.plot([place - 0.02, place], [at, at], color=INK, linewidth=1.0)
        axes.text(
            place - 0.04,
            at,
            _cut(said),
            ha="right",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
        )


def winners(path: Path, trials: Sequence[Trial], *, labels: Mapping[str, str], of: str) -> None:
    """How each of the best trials finds each keypoint; a star where none does it better.

    `trials` all know the scores of their keypoints; they stand in the order given, each under its
    label.
    """
    names = [name for name in trials[0].keypoints if all(name in t.keypoints for t in trials)]
    scores = np.array([[trial.keypoints[name] for trial in trials] for name in names])
    lost = scores - scores.max(1, keepdims=True)
    size = (1.9 + 0.52 * max(4, len(trials)), 1.5 + 0.27 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    deepest = float(np.clip(np.quantile(lost, 0.2), -0.2, -0.02))  # far off is dark, however far
    picture = axes.imshow(lost, cmap="viridis", vmin=deepest, vmax=0, aspect="auto")
    for row, column in np.ndindex(*lost.shape):
        won = lost[row, column] == 0
        light = lost[row, column] > 0.45 * deepest
        axes.text(
            column,
            row,
            f"{'★' if won else ''}{scores[row, column]:.2f}",
            ha="center",
            va="center",
            fontsize=7.5,
            fontweight="bold" if won else "normal",
            color="black" if light else "white",
        )
    axes.set_yticks(range(len(names)), [_cut(name) for name in names], fontsize=8.5)
    axes.set_xticks(range(len(trials)), [labels[trial.name] for trial in trials], fontsize=8)
    axes.tick_params(length=0)
    figure.colorbar(picture, ax=axes, label=f"{of}, less the row's best")
    write_figure(path, figure)


def said_epochs(count: int) -> str:
    """`1 epoch`, `12 epochs`."""
    return f"{count:,} epoch{'' if count == 1 else 's'}"


def _norm(scores: np.ndarray) -> Normalize:
    low, high = float(scores.min()), float(scores.max())
    return Normalize(low, high if high > low else low + 1e-3)


def _cut(said: str, most: int = 18) -> str:
    said = printable(said).replace("$", r"\$")  # no formula
    return said if len(said) <= most else said[: most - 2] + ".."
