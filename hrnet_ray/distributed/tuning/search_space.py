"""A search space in words: `optim.lr=log(1e-4,3e-3)`."""

import re
from collections.abc import Iterable
from typing import Any

from ray import tune
from ray.tune.search.sample import Categorical, Integer, LogUniform, Quantized

from hrnet_ray.errors import UsageError

_ENTRY_PATTERN = re.compile(r"^([\w.]+)=(\w+)\((.*)\)$")


def parse_search_space(entries: Iterable[str]) -> dict[str, Any]:
    """Turn `SETTING=KIND(A,B,...)` into Tune's samplers; KIND is log, uniform, int or choice.

    Raises:
        UsageError: an entry is written otherwise, its bounds are the wrong way round, or a
            setting is there twice.
    """
    space: dict[str, Any] = {}
    for entry in entries:
        name, sampler = _parse_entry(entry)
        if name in space:
            first = f"{name}={format_sampler(space[name])}"
            raise UsageError(f"{name} is searched twice", f"--space {first} {entry}", "leave one of them out")
        space[name] = sampler
    return space


def format_sampler(sampler: Any) -> str:
    """The inverse: `log(0.0001,0.003)`. What has the same words draws the same."""
    if isinstance(sampler, Categorical):
        return f"choice({','.join(map(str, sampler.categories))})"
    how, step = sampler.get_sampler(), ""
    if isinstance(how, Quantized):
        how, step = how.get_sampler(), f",step={how.q:g}"
    kind = "int" if isinstance(sampler, Integer) else "uniform"
    if isinstance(how, LogUniform):
        kind = "log" if kind == "uniform" else "logint"
    return f"{kind}({sampler.lower:g},{sampler.upper:g}{step})"


def _parse_entry(entry: str) -> tuple[str, Any]:
    form = _ENTRY_PATTERN.match(entry.replace(" ", ""))
    if not form or form[2] not in _SAMPLER_KINDS:
        raise _make_parse_error(entry)
    name, kind, inside = form.groups()
    try:
        return name, _SAMPLER_KINDS[kind](inside.split(","))
    except (ValueError, TypeError) as error:
        raise _make_parse_error(entry) from error


def _parse_bounds(values: list[str], kind: type) -> tuple[Any, Any]:
    low, high = map(kind, values)
    if not low < high:
        raise ValueError(f"{low} is not below {high}")
    return low, high


def _parse_value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


_SAMPLER_KINDS = {
    "log": lambda values: tune.loguniform(*_parse_bounds(values, float)),
    "uniform": lambda values: tune.uniform(*_parse_bounds(values, float)),
    "int": lambda values: tune.randint(*_parse_bounds(values, int)),
    "choice": lambda values: tune.choice([_parse_value(value) for value in values]),
}


def _make_parse_error(entry: str) -> UsageError:
    return UsageError(
        "an entry of the search space that cannot be read",
        f"--space {entry}",
        "write SETTING=log(LOW,HIGH), uniform(LOW,HIGH), int(LOW,HIGH) or choice(A,B,...)",
    )
