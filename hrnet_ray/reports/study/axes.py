"""Axis of a searched setting: positions of the trials, and tick labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from hrnet_ray.reports.study.trial_results import TrialResult, format_value, is_numeric_setting

LOG_SCALE_MIN_RATIO = 8.0
"""Smallest ratio of the largest to the smallest value of a logarithmic axis."""


@dataclass(frozen=True)
class PlotAxis:
    """Positions in [0, 1]; the values of a categorical axis are sorted and equidistant."""

    name: str
    positions: np.ndarray
    """float64 [N], one per trial."""
    ticks: list[tuple[float, str]]
    is_categorical: bool


def build_setting_axis(trials: Sequence[TrialResult], name: str) -> PlotAxis:
    """Build the axis of a searched setting; an int with up to 3 values is categorical."""
    if not is_numeric_setting(trials, name):
        return _build_categorical_axis([format_value(trial.sampled_params.get(name)) for trial in trials], name)
    values = np.array([trial.sampled_params[name] for trial in trials], np.float64)
    if len(np.unique(values)) <= 3 and all(isinstance(trial.sampled_params[name], int) for trial in trials):
        return _build_categorical_axis([format_value(trial.sampled_params[name]) for trial in trials], name)
    return build_numeric_axis(values, name)


def build_numeric_axis(values: np.ndarray, name: str) -> PlotAxis:
    """Build the axis of numbers, float64 [N]; the position of NaN is NaN."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low == high:
        return PlotAxis(name, np.where(np.isnan(values), np.nan, 0.5), [(0.5, format_value(low))], False)
    is_log = low > 0 and high / low >= LOG_SCALE_MIN_RATIO
    scale = np.log10 if is_log else np.asarray
    locator = LogLocator(subs=(1.0, 2.0, 5.0)) if is_log else MaxNLocator(5)
    start, span = float(scale(low)), float(scale(high) - scale(low))
    inside = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    if is_log and len(inside) > 6:
        inside = [tick for tick in inside if f"{tick:e}".startswith("1.0")]
    ticks = [((float(scale(tick)) - start) / span, f"{tick:g}") for tick in inside]
    return PlotAxis(name, (scale(values) - start) / span, ticks, False)


def _build_categorical_axis(labels: Sequence[str], name: str) -> PlotAxis:
    names = sorted(set(labels), key=_get_label_sort_key)
    step = 1 / max(1, len(names) - 1)
    positions = {label: i * step if len(names) > 1 else 0.5 for i, label in enumerate(names)}
    ticks = [(position, label) for label, position in positions.items()]
    return PlotAxis(name, np.array([positions[label] for label in labels]), ticks, True)


def _get_label_sort_key(label: str) -> tuple[float, str]:
    """Sort numbers by value, and words after them alphabetically."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label
