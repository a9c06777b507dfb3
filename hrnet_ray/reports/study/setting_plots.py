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

from hrnet_ray.reports.study.axes import PlotAxis, build_numeric_axis, build_setting_axis
from hrnet_ray.reports.study.trial_results import StudyResults, TrialOutcome, TrialResult
from hrnet_ray.text import escape_control_chars
from hrnet_ray.visualization.plots import save_figure

BEST_COLOR, MUTED_COLOR, TEXT_COLOR = "#d55e00", "#9a9a9a", "#23221f"
MIN_MAP_POINTS = 6
"""From so many places on, a map has colours between them."""
MAP_GRID_SIZE = 120
"""Rows and columns of that map."""
OUTCOME_MARKERS = {TrialOutcome.COMPLETED: "o", TrialOutcome.STOPPED: "v", TrialOutcome.FAILED: "X"}
BEST_MARKER_STYLE = {
    "marker": "*",
    "markersize": 19,
    "color": BEST_COLOR,
    "markeredgecolor": "white",
    "linestyle": "none",
}
CATEGORY_JITTER = 0.035  # lines that make the same choice stand side by side


def plot_score_map(path: Path, study: StudyResults, *, setting_pair: tuple[str, str]) -> None:
    """Trials over two of their settings; between enough of them, the colours flow.

    What was stopped early is not worse for that on the first panel: all are shown as they were
    when they had trained alike.
    """
    alike = np.array(
        [trial.get_best_score_within(study.common_epochs) for trial in study.scored_trials]
    )
    best = np.array([trial.score for trial in study.scored_trials])
    panels = {f"best {study.metric} of each": best}
    if study.select_by_outcome(TrialOutcome.STOPPED) and np.isfinite(alike).any():
        panels = {f"{study.metric} after {format_epochs(study.common_epochs)}": alike} | panels
    figure = Figure(figsize=(5.9 * len(panels), 4.6), layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False).ravel()
    for axes, (title, scores) in zip(places, panels.items(), strict=True):
        _plot_map_panel(figure, axes, study, scores, setting_pair)
        axes.set_title(title, fontsize=10)
    figure.legend(
        handles=_build_marker_legend(study),
        loc="outside lower center",
        ncols=4,
        fontsize=9,
        frameon=False,
    )
    save_figure(path, figure)


def _plot_map_panel(
    figure: Figure,
    axes: Axes,
    study: StudyResults,
    scores: np.ndarray,
    setting_pair: tuple[str, str],
) -> None:
    trials = study.scored_trials
    x, y = (build_setting_axis(trials, name) for name in setting_pair)
    norm = _build_color_norm(scores[np.isfinite(scores)])
    known = np.isfinite(scores)
    _plot_interpolated_scores(
        axes, np.stack([x.positions, y.positions], 1)[known], scores[known], norm
    )
    for ending, marker in OUTCOME_MARKERS.items():
        at = [n for n, trial in enumerate(trials) if trial.outcome is ending]
        if at:
            axes.scatter(
                x.positions[at],
                y.positions[at],
                c=scores[at],
                norm=norm,
                cmap="viridis",
                marker=marker,
                s=64,
                edgecolors="white",
                linewidths=1.2,
                zorder=3,
            )
    axes.plot(x.positions[0], y.positions[0], **BEST_MARKER_STYLE, zorder=4)
    _format_map_axes(axes, x, y)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes)


def _build_marker_legend(study: StudyResults) -> list[Line2D]:
    seen = [
        ending
        for ending in OUTCOME_MARKERS
        if any(t.outcome is ending for t in study.scored_trials)
    ]
    marks = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=OUTCOME_MARKERS[ending],
            color="#55606b",
            label=str(ending),
        )
        for ending in seen
    ]
    return [
        Line2D(
            [],
            [],
            **{**BEST_MARKER_STYLE, "markersize": 14},
            label=f"best: #{study.best_trial.name}",
        ),
        *marks,
    ]


def _plot_interpolated_scores(
    axes: Axes, positions: np.ndarray, scores: np.ndarray, norm: Normalize
) -> None:
    """Colour between the trials, and only there: beyond them nothing is known."""
    different, where = np.unique(positions.round(6), axis=0, return_inverse=True)
    if len(different) < MIN_MAP_POINTS:
        return
    level = np.bincount(where.ravel(), scores) / np.bincount(where.ravel())
    try:
        inside_of = Delaunay(different)
    except QhullError:  # all on a line
        return
    line = np.linspace(0, 1, MAP_GRID_SIZE)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    # A little smoothing: two neighbours that differ by luck make no cliff.
    found = RBFInterpolator(different, level, kernel="linear", smoothing=0.02)(grid)
    found = np.clip(found, scores.min(), scores.max())
    found[inside_of.find_simplex(grid) < 0] = np.nan
    field = np.ma.masked_invalid(found.reshape(MAP_GRID_SIZE, MAP_GRID_SIZE))
    axes.contourf(line, line, field, levels=24, norm=norm, cmap="viridis", alpha=0.75)
    lines = axes.contour(line, line, field, levels=5, colors="white", linewidths=0.7)
    axes.clabel(lines, fontsize=7, fmt="%.2f")


def _format_map_axes(axes: Axes, x_axis: PlotAxis, y_axis: PlotAxis) -> None:
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), xlabel=x_axis.name, ylabel=y_axis.name)
    axes.set_xticks(*_format_axis_ticks(x_axis))
    axes.set_yticks(*_format_axis_ticks(y_axis))
    axes.grid(alpha=0.25)


def _format_axis_ticks(axis: PlotAxis) -> tuple[list[float], list[str]]:
    return [place for place, _ in axis.ticks], [_truncate_label(said) for _, said in axis.ticks]


def plot_score_by_setting(path: Path, study: StudyResults) -> None:
    """Score over each searched setting by itself, after as many epochs as all trials had."""
    trials = study.scored_trials
    scores = np.array([trial.get_best_score_within(study.common_epochs) for trial in trials])
    columns = min(4, len(study.searched_settings))
    rows = -(-len(study.searched_settings) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.6, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, name in zip(panels, study.searched_settings, strict=False):
        axis = build_setting_axis(trials, name)
        axes.scatter(axis.positions, scores, s=34, facecolors="white", edgecolors="#2d6ec8")
        axes.plot(axis.positions[0], scores[0], **BEST_MARKER_STYLE)
        axes.set_xticks(*_format_axis_ticks(axis))
        axes.tick_params(labelsize=8)
        axes.set(xlim=(-0.12, 1.12), xlabel=name)
        axes.grid(alpha=0.25)
    for axes in panels[len(study.searched_settings) :]:
        axes.set_visible(False)
    figure.supylabel(f"{study.metric} after {format_epochs(study.common_epochs)}", fontsize=10)
    save_figure(path, figure)


def plot_parallel_coordinates(path: Path, study: StudyResults) -> None:
    """A line for each trial through its settings to its score."""
    scores = np.array([trial.score for trial in study.trials])
    axes_of = [build_setting_axis(study.trials, name) for name in study.searched_settings]
    axes_of.append(build_numeric_axis(scores, study.metric))
    places = np.stack([axis.positions for axis in axes_of], 1)  # [N, A]
    spread = (
        np.linspace(-CATEGORY_JITTER, CATEGORY_JITTER, len(study.trials))
        if len(study.trials) > 1
        else np.zeros(1)
    )
    for column, axis in enumerate(axes_of):
        if axis.is_categorical:
            places[:, column] += spread
    figure = Figure(figsize=(max(6.4, 1.9 * len(axes_of) + 1), 4.6), layout="constrained")
    axes = figure.subplots()
    norm = _build_color_norm(scores[np.isfinite(scores)])
    across = np.arange(len(axes_of))
    for at in reversed(range(len(study.trials))):  # the best one is drawn last
        trial, line = study.trials[at], places[at]
        style = {"color": MUTED_COLOR, "linestyle": ":", "linewidth": 1.2}  # ends before the score
        if trial.has_score:
            colour = colormaps["viridis"](norm(trial.score))
            alpha = 0.9 if trial.outcome is TrialOutcome.COMPLETED else 0.45
            style = {"color": colour, "linewidth": 1.6, "alpha": alpha}
        if at == 0:
            style = {"color": BEST_COLOR, "linewidth": 3.0}
        axes.plot(across, line, **style, solid_capstyle="round")
    for place, axis in enumerate(axes_of):
        _draw_parallel_axis(axes, place, axis, is_last=place == len(axes_of) - 1)
    axes.set(xlim=(-0.35, len(axes_of) - 0.8), ylim=(-0.06, 1.14))
    axes.axis("off")
    if len(study.scored_trials) > 1:
        figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, label=f"best {study.metric}")
    handles = [
        Line2D([], [], color=BEST_COLOR, linewidth=3, label=f"best: #{study.best_trial.name}")
    ]
    if study.select_by_outcome(TrialOutcome.STOPPED):
        handles.append(Line2D([], [], color="#31688e", alpha=0.45, label=str(TrialOutcome.STOPPED)))
    if study.select_by_outcome(TrialOutcome.FAILED):
        handles.append(
            Line2D([], [], color=MUTED_COLOR, linestyle=":", label=str(TrialOutcome.FAILED))
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    save_figure(path, figure)


def _draw_parallel_axis(axes: Axes, x_position: int, axis: PlotAxis, *, is_last: bool) -> None:
    axes.plot([x_position, x_position], [0, 1], color=TEXT_COLOR, linewidth=1.0)
    axes.text(x_position, 1.07, axis.name, ha="center", va="bottom", fontsize=9, fontweight="bold")
    for at, said in axis.ticks:
        axes.plot([x_position - 0.02, x_position], [at, at], color=TEXT_COLOR, linewidth=1.0)
        axes.text(
            x_position - 0.04,
            at,
            _truncate_label(said),
            ha="right",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
        )


def plot_keypoint_heatmap(
    path: Path, trials: Sequence[TrialResult], *, labels: Mapping[str, str], metric_name: str
) -> None:
    """How each of the best trials finds each keypoint; a star where none does it better.

    `trials` all know the scores of their keypoints; they stand in the order given, each under its
    label.
    """
    names = [
        name for name in trials[0].keypoint_scores if all(name in t.keypoint_scores for t in trials)
    ]
    scores = np.array([[trial.keypoint_scores[name] for trial in trials] for name in names])
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
    axes.set_yticks(range(len(names)), [_truncate_label(name) for name in names], fontsize=8.5)
    axes.set_xticks(range(len(trials)), [labels[trial.name] for trial in trials], fontsize=8)
    axes.tick_params(length=0)
    figure.colorbar(picture, ax=axes, label=f"{metric_name}, less the row's best")
    save_figure(path, figure)


def format_epochs(count: int) -> str:
    """`1 epoch`, `12 epochs`."""
    return f"{count:,} epoch{'' if count == 1 else 's'}"


def _build_color_norm(scores: np.ndarray) -> Normalize:
    low, high = float(scores.min()), float(scores.max())
    return Normalize(low, high if high > low else low + 1e-3)


def _truncate_label(label: str, max_chars: int = 18) -> str:
    label = escape_control_chars(label).replace("$", r"\$")  # no formula
    return label if len(label) <= max_chars else label[: max_chars - 2] + ".."
