"""A searched setting as an axis of a plot: its trials' places on it, and what is written there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from hrnet_ray.reports.study.trial_results import Trial, as_text, numeric

SPREAD = 8.0
"""From this ratio of the largest value to the smallest, an axis is logarithmic."""


@dataclass(frozen=True)
class Axis:
    """Places in [0, 1]; a choice has its values at equal distances, in the order of their names."""

    name: str
    places: np.ndarray
    """float64 [N], one for each trial."""
    ticks: list[tuple[float, str]]
    is_choice: bool


def axis_of(trials: Sequence[Trial], name: str) -> Axis:
    """The axis of a searched setting."""
    if not numeric(trials, name):
        return _choice([as_text(trial.drawn.get(name)) for trial in trials], name)
    values = np.array([trial.drawn[name] for trial in trials], np.float64)
    few = np.unique(values)
    if len(few) <= 3 and all(isinstance(trial.drawn[name], int) for trial in trials):
        return _choice([as_text(trial.drawn[name]) for trial in trials], name)
    return axis_of_numbers(values, name)


def axis_of_numbers(values: np.ndarray, name: str) -> Axis:
    """The axis of numbers, float64 [N]; NaN keeps no place."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low == high:
        return Axis(name, np.where(np.isnan(values), np.nan, 0.5), [(0.5, as_text(low))], False)
    logarithmic = low > 0 and high / low >= SPREAD
    scale = np.log10 if logarithmic else np.asarray
    locator = LogLocator(subs=(1.0, 2.0, 5.0)) if logarithmic else MaxNLocator(5)
    start, span = float(scale(low)), float(scale(high) - scale(low))
    inside = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    if logarithmic and len(inside) > 6:
        inside = [tick for tick in inside if f"{tick:e}".startswith("1.0")]
    ticks = [((float(scale(tick)) - start) / span, f"{tick:g}") for tick in inside]
    return Axis(name, (scale(values) - start) / span, ticks, False)


def _choice(said: Sequence[str], name: str) -> Axis:
    names = sorted(set(said), key=_in_order)
    step = 1 / max(1, len(names) - 1)
    at = {value: place * step if len(names) > 1 else 0.5 for place, value in enumerate(names)}
    ticks = [(place, value) for value, place in at.items()]
    return Axis(name, np.array([at[value] for value in said]), ticks, True)


def _in_order(said: str) -> tuple[float, str]:
    """Numbers by their size, words after them by their letters."""
    try:
        return float(said), said
    except ValueError:
        return float("inf"), said
