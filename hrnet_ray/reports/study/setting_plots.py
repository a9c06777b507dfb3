"""Plots of a study over its settings: score map, parallel coordinates, keypoint scores.

Scores use viridis, and the best trial is a vermilion star: both suit colour-blind readers.
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
from hrnet_ray.reports.study.per_keypoint import list_common_keypoints
from hrnet_ray.reports.study.trial_results import StudyResults, TrialOutcome, TrialResult
from hrnet_ray.text import escape_control_chars
from hrnet_ray.visualization.plots import save_figure

BEST_COLOR, MUTED_COLOR, TEXT_COLOR = "#d55e00", "#9a9a9a", "#23221f"
MIN_MAP_POINTS = 6
"""Smallest number of distinct points for which the score map is interpolated."""
MAP_GRID_SIZE = 120
"""Rows and columns of the interpolated map."""
OUTCOME_MARKERS = {TrialOutcome.COMPLETED: "o", TrialOutcome.STOPPED: "v", TrialOutcome.FAILED: "X"}
BEST_MARKER_STYLE = {
    "marker": "*",
    "markersize": 19,
    "color": BEST_COLOR,
    "markeredgecolor": "white",
    "linestyle": "none",
}
CATEGORY_JITTER = 0.035
"""Offset on a categorical axis, in axis lengths, that separates lines with the same value."""


def plot_score_map(path: Path, study: StudyResults, *, setting_pair: tuple[str, str]) -> None:
    """Plot the scores over two settings, interpolated between enough trials.

    If trials were stopped early, a first panel compares all trials after their common epochs.
    """
    common = np.array([trial.get_best_score_within(study.common_epochs) for trial in study.scored_trials])
    best = np.array([trial.score for trial in study.scored_trials])
    panels = {f"best {study.metric} of each": best}
    if study.select_by_outcome(TrialOutcome.STOPPED) and np.isfinite(common).any():
        panels = {f"{study.metric} after {format_epochs(study.common_epochs)}": common} | panels
    figure = Figure(figsize=(5.9 * len(panels), 4.6), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False).ravel()
    for axes, (title, scores) in zip(all_axes, panels.items(), strict=True):
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
    is_finite = np.isfinite(scores)
    norm = _build_color_norm(scores[is_finite])
    _plot_interpolated_scores(axes, np.stack([x.positions, y.positions], 1)[is_finite], scores[is_finite], norm)
    for outcome, marker in OUTCOME_MARKERS.items():
        indices = [n for n, trial in enumerate(trials) if trial.outcome is outcome]
        if indices:
            axes.scatter(
                x.positions[indices],
                y.positions[indices],
                c=scores[indices],
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
    present = {trial.outcome for trial in study.scored_trials}
    best_style = {**BEST_MARKER_STYLE, "markersize": 14}
    return [
        Line2D([], [], **best_style, label=f"best: #{study.best_trial.name}"),
        *(
            Line2D([], [], marker=marker, label=str(outcome), linestyle="none", color="#55606b")
            for outcome, marker in OUTCOME_MARKERS.items()
            if outcome in present
        ),
    ]


def _plot_interpolated_scores(axes: Axes, positions: np.ndarray, scores: np.ndarray, norm: Normalize) -> None:
    """Interpolate the scores inside the convex hull of the trials."""
    points, index = np.unique(positions.round(6), axis=0, return_inverse=True)
    if len(points) < MIN_MAP_POINTS:
        return
    mean_scores = np.bincount(index.ravel(), scores) / np.bincount(index.ravel())
    try:
        hull = Delaunay(points)
    except QhullError:  # all points lie on a line
        return
    line = np.linspace(0, 1, MAP_GRID_SIZE)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    # Smoothing, because neighbouring trials also differ by chance.
    values = RBFInterpolator(points, mean_scores, kernel="linear", smoothing=0.02)(grid)
    values = np.clip(values, scores.min(), scores.max())
    values[hull.find_simplex(grid) < 0] = np.nan
    field = np.ma.masked_invalid(values.reshape(MAP_GRID_SIZE, MAP_GRID_SIZE))
    axes.contourf(line, line, field, levels=24, norm=norm, cmap="viridis", alpha=0.75)
    lines = axes.contour(line, line, field, levels=5, colors="white", linewidths=0.7)
    axes.clabel(lines, fontsize=7, fmt="%.2f")


def _format_map_axes(axes: Axes, x_axis: PlotAxis, y_axis: PlotAxis) -> None:
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), xlabel=x_axis.name, ylabel=y_axis.name)
    axes.set_xticks(*_format_axis_ticks(x_axis))
    axes.set_yticks(*_format_axis_ticks(y_axis))
    axes.grid(alpha=0.25)


def _format_axis_ticks(axis: PlotAxis) -> tuple[list[float], list[str]]:
    positions, labels = zip(*axis.ticks, strict=True) if axis.ticks else ((), ())
    return list(positions), [_truncate_label(label) for label in labels]


def plot_score_by_setting(path: Path, study: StudyResults) -> None:
    """Plot the score after the common epochs over each searched setting by itself."""
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
    """Plot one line per trial through its settings to its score."""
    scores = np.array([trial.score for trial in study.trials])
    plot_axes = [build_setting_axis(study.trials, name) for name in study.searched_settings]
    plot_axes.append(build_numeric_axis(scores, study.metric))
    positions = np.stack([axis.positions for axis in plot_axes], 1)  # [N, A]
    jitter = np.linspace(-CATEGORY_JITTER, CATEGORY_JITTER, len(study.trials)) if len(study.trials) > 1 else np.zeros(1)
    for column, axis in enumerate(plot_axes):
        if axis.is_categorical:
            positions[:, column] += jitter
    figure = Figure(figsize=(max(6.4, 1.9 * len(plot_axes) + 1), 4.6), layout="constrained")
    axes = figure.subplots()
    norm = _build_color_norm(scores[np.isfinite(scores)])
    columns = np.arange(len(plot_axes))
    for index in reversed(range(len(study.trials))):  # the best trial is drawn last
        trial = study.trials[index]
        style = {"color": MUTED_COLOR, "linestyle": ":", "linewidth": 1.2}
        if trial.has_score:
            color = colormaps["viridis"](norm(trial.score))
            alpha = 0.9 if trial.outcome is TrialOutcome.COMPLETED else 0.45
            style = {"color": color, "linewidth": 1.6, "alpha": alpha}
        if index == 0:
            style = {"color": BEST_COLOR, "linewidth": 3.0}
        axes.plot(columns, positions[index], **style, solid_capstyle="round")
    for column, axis in enumerate(plot_axes):
        _draw_parallel_axis(axes, column, axis)
    axes.set(xlim=(-0.35, len(plot_axes) - 0.8), ylim=(-0.06, 1.14))
    axes.axis("off")
    if len(study.scored_trials) > 1:
        figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, label=f"best {study.metric}")
    handles = [Line2D([], [], color=BEST_COLOR, linewidth=3, label=f"best: #{study.best_trial.name}")]
    if study.select_by_outcome(TrialOutcome.STOPPED):
        handles.append(Line2D([], [], color="#31688e", alpha=0.45, label=str(TrialOutcome.STOPPED)))
    if study.select_by_outcome(TrialOutcome.FAILED):
        handles.append(Line2D([], [], color=MUTED_COLOR, linestyle=":", label=str(TrialOutcome.FAILED)))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    save_figure(path, figure)


def _draw_parallel_axis(axes: Axes, x: int, axis: PlotAxis) -> None:
    axes.plot([x, x], [0, 1], color=TEXT_COLOR, linewidth=1.0)
    axes.text(x, 1.07, axis.name, ha="center", va="bottom", fontsize=9, fontweight="bold")
    for position, label in axis.ticks:
        axes.plot([x - 0.02, x], [position, position], color=TEXT_COLOR, linewidth=1.0)
        axes.text(
            x - 0.04,
            position,
            _truncate_label(label),
            ha="right",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
        )


def plot_keypoint_heatmap(
    path: Path, trials: Sequence[TrialResult], *, labels: Mapping[str, str], metric_name: str
) -> None:
    """Plot the keypoint scores of trials, with a star at the best score of each keypoint.

    `trials` must have keypoint scores; they stand in the given order, each with its label.
    """
    names = list_common_keypoints(trials)
    scores = np.array([[trial.keypoint_scores[name] for trial in trials] for name in names])
    gaps = scores - scores.max(1, keepdims=True)
    size = (1.9 + 0.52 * max(4, len(trials)), 1.5 + 0.27 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    lowest = float(np.clip(np.quantile(gaps, 0.2), -0.2, -0.02))  # larger gaps are all dark
    heatmap = axes.imshow(gaps, cmap="viridis", vmin=lowest, vmax=0, aspect="auto")
    for row, column in np.ndindex(*gaps.shape):
        is_best = gaps[row, column] == 0
        is_light = gaps[row, column] > 0.45 * lowest
        axes.text(
            column,
            row,
            f"{'★' if is_best else ''}{scores[row, column]:.2f}",
            ha="center",
            va="center",
            fontsize=7.5,
            fontweight="bold" if is_best else "normal",
            color="black" if is_light else "white",
        )
    axes.set_yticks(range(len(names)), [_truncate_label(name) for name in names], fontsize=8.5)
    axes.set_xticks(range(len(trials)), [labels[trial.name] for trial in trials], fontsize=8)
    axes.tick_params(length=0)
    figure.colorbar(heatmap, ax=axes, label=f"{metric_name}, relative to the best of the row")
    save_figure(path, figure)


def format_epochs(count: int) -> str:
    """Format a count: `1 epoch`, `12 epochs`."""
    return f"{count:,} epoch{'' if count == 1 else 's'}"


def _build_color_norm(scores: np.ndarray) -> Normalize:
    low, high = float(scores.min()), float(scores.max())
    return Normalize(low, high if high > low else low + 1e-3)


def _truncate_label(label: str, max_chars: int = 18) -> str:
    label = escape_control_chars(label).replace("$", r"\$")  # no math text
    return label if len(label) <= max_chars else label[: max_chars - 2] + ".."
