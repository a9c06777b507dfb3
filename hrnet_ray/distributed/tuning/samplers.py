"""Points of a search space: spread evenly, drawn at random, every one of a grid, or good before.

The n-th draw follows from (seed, n) alone, so a study that goes on draws what it would have drawn.
"""

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Categorical, Float, Integer, LogUniform, Quantized
from scipy.stats import qmc

from hrnet_ray.config import ExperimentConfig, flatten_config, with_overrides
from hrnet_ray.distributed.tuning.search_space import format_sampler
from hrnet_ray.errors import UsageError

SearchSpace = Mapping[str, Any]
"""Dotted settings to Tune's samplers: `{"optim.lr": tune.loguniform(1e-4, 3e-3)}`."""
SearchPoint = dict[str, Any]
"""One value for each setting of a space."""

FIXED_SETTINGS = {
    "name": "trials are named by their numbers",
    "data": "rows are read, and validation crops are cut, once for all trials",
    "optim.epochs": "early stopping and TPE count on one number for all trials",
}
"""Settings that the trials of a study have in common, and why."""


def validate_search_space(
    base: ExperimentConfig,
    space: SearchSpace,
    *,
    check_variant: Callable[[ExperimentConfig], None] = lambda one: None,
) -> None:
    """Refuse what no trial could be trained with, before there are any.

    `fits` looks at `base` with each choice, or the ends of each range, one after the other.

    Raises:
        UsageError: a name is misspelt (the nearest one is given), nothing is searched, a sampler
            is none that a study can draw from, or a value cannot be or not differ between trials.
    """
    if not space:
        raise UsageError("nothing to search", "an empty search space", "give it a setting")
    to_optuna_distributions(space)
    for name, sampler in space.items():
        _require_searchable(base, name, sampler)
        for value in _get_extreme_values(sampler):
            _require_valid_value(base, name, value, sampler, check_variant)


def _require_searchable(base: ExperimentConfig, name: str, sampler: Any) -> None:
    for alike, why in FIXED_SETTINGS.items():
        if name == alike or name.startswith(f"{alike}."):
            raise UsageError(
                f"{name} cannot be searched: {why}",
                _format_space_flag(name, sampler),
                "leave it out; for several values, run several studies, each with its own --name",
            )
    if inside := [setting for setting in flatten_config(base) if setting.startswith(f"{name}.")]:
        raise UsageError(
            f"{name} is a group of settings",
            _format_space_flag(name, sampler),
            f"search one of {', '.join(inside)}",
        )


def _require_valid_value(
    base: ExperimentConfig,
    name: str,
    value: Any,
    sampler: Any,
    check_variant: Callable[[ExperimentConfig], None],
) -> None:
    try:
        check_variant(with_overrides(base, {name: value}))
    except UsageError as error:
        raise UsageError(error.what, _format_space_flag(name, sampler), error.fix) from error


def _get_extreme_values(sampler: Any) -> list[Any]:
    """Each choice, or the first and the last value of a range."""
    if isinstance(sampler, Categorical):
        return list(sampler.categories)
    if isinstance(sampler, Float):
        return [float(sampler.lower), float(sampler.upper)]  # as they are drawn
    stepped = isinstance(sampler.get_sampler(), Quantized)
    return [sampler.lower, sampler.upper if stepped else sampler.upper - 1]


def _format_space_flag(name: str, sampler: Any) -> str:
    return f"--space {name}={format_sampler(sampler)}"


def to_optuna_distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The same space in Optuna's words.

    Raises:
        UsageError: a sampler that neither has bounds nor choices.
    """
    found = {}
    for name, sampler in space.items():
        with suppress(ValueError, AttributeError, TypeError):
            found |= OptunaSearch.convert_search_space({name: sampler})
        if name not in found:
            raise UsageError(
                "a sampler that a study cannot draw from",
                f"{name}: {sampler}",
                "use tune.uniform, loguniform, randint or choice (a grid is made of choices: --search.sampler grid)",
            )
    return found


def sample_halton(space: SearchSpace, index: int, *, seed: int) -> SearchPoint:
    """Return point `index` (from 1) of a Halton sequence, shifted by a random vector of `seed`.

    The points cover the space evenly from the first ones on.
    """
    shift = np.random.default_rng(seed).random(len(space))
    sequence = qmc.Halton(len(space), scramble=False)
    sequence.fast_forward(index)
    return _map_unit_point(space, (sequence.random(1)[0] + shift) % 1.0)


def sample_random(space: SearchSpace, index: int, *, seed: int) -> SearchPoint:
    """Return point `index` of independent random points."""
    return _map_unit_point(space, np.random.default_rng((seed, index)).random(len(space)))


def list_grid_points(space: SearchSpace, *, seed: int) -> list[SearchPoint]:
    """Each combination of choices, in an order without meaning.

    Early stopping compares a trial with those before it, which had better not all be worse.

    Raises:
        UsageError: a setting has bounds and no choices.
    """
    choices = []
    for name, sampler in space.items():
        if isinstance(sampler, Categorical):
            choices.append(list(sampler.categories))
        elif isinstance(sampler, Integer) and not isinstance(sampler.get_sampler(), Quantized):
            choices.append(list(range(sampler.lower, sampler.upper)))
        else:
            raise UsageError(
                f"{name} has no choices to make a grid of",
                "--search.sampler grid",
                f"give {name}=choice(A,B,...), or search with --search.sampler tpe",
            )
    points = [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]
    random.Random(seed).shuffle(points)
    return points


def load_warm_start_points(
    study_dirs: Sequence[str], space: SearchSpace, base: ExperimentConfig, *, top_k: int
) -> tuple[list[SearchPoint], int]:
    """The best settings of earlier studies that lie in this space, and how many do not.

    What an earlier study did not search has the value of `base` here. Their scores are not taken
    over: data, epochs and nets may have been others.

    Raises:
        UsageError: a folder is no concluded study.
    """
    points: list[SearchPoint] = []
    outside = 0
    settings = flatten_config(base)
    for study in study_dirs:
        for trial in _load_best_trials(study)[:top_k]:
            point = {name: trial.get(name, settings.get(name)) for name in space}
            if not all(_is_in_range(space[name], value) for name, value in point.items()):
                outside += 1
            elif point not in points:
                points.append(point)
    return points, outside


def _load_best_trials(study_dir: str) -> list[dict[str, Any]]:
    path = Path(study_dir) / "summary.json"
    try:
        trials = json.loads(path.read_text(encoding="utf-8"))["trials"]
        return [trial for trial in trials if math.isfinite(trial["score"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "a study to start from that is none, or has not ended",
            f"--search.warm-start {study_dir}: {path.name}: {type(error).__name__}",
            "give the folder of a study that ended, such as runs/atrw/tune-w32-192x256",
        ) from error


def _is_in_range(sampler: Any, value: Any) -> bool:
    if isinstance(sampler, Categorical):
        return value in sampler.categories
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    if isinstance(sampler, Integer):
        return value == int(value) and sampler.lower <= value < sampler.upper
    return sampler.lower <= value <= sampler.upper


def _map_unit_point(space: SearchSpace, unit_point: np.ndarray) -> SearchPoint:
    """Map a point of the unit cube [len(space)] to settings."""
    return {
        name: _map_unit_value(sampler, float(share))
        for (name, sampler), share in zip(space.items(), unit_point, strict=True)
    }


def _map_unit_value(sampler: Any, fraction: float) -> Any:
    if isinstance(sampler, Categorical):
        return sampler.categories[int(fraction * len(sampler.categories))]
    kind = sampler.get_sampler()
    step = kind.q if isinstance(kind, Quantized) else None
    kind = kind.sampler if isinstance(kind, Quantized) else kind
    low, high = sampler.lower, sampler.upper
    if step:  # its bounds are both included
        value = low + int(fraction * (int((high - low) / step + 1e-9) + 1)) * step
        return float(value) if isinstance(sampler, Float) else int(value)
    if isinstance(kind, LogUniform):
        value = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
    else:
        value = low + fraction * (high - low)
    return float(min(value, high)) if isinstance(sampler, Float) else min(int(value), high - 1)
