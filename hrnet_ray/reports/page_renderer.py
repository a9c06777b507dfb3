"""Render a report page from a Jinja2 template: autoescaped, no script, no external resources."""

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hrnet_ray.text import escape_control_chars
from hrnet_ray.visualization.drawing import infer_keypoint_color

TEMPLATES_DIR = Path(__file__).parent / "templates"


def render_template(name: str, **context: Any) -> str:
    """Render `templates/<name>`; HTML and control characters of every value are escaped."""
    return _get_environment().get_template(name).render(context)


@cache
def _get_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES_DIR),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escape_value,
    )
    environment.filters |= {
        "fmt": format,
        "base64": lambda data: b64encode(data).decode(),
        "side_color": infer_keypoint_color,
        "trim_empty_ends": _trim_empty_ends,
        "sentence_case": lambda text: text[:1].upper() + text[1:],
    }
    return environment


def _escape_value(value: Any) -> Any:
    # Markup, a subclass of str, is the output of a macro: its values are escaped already.
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return escape_control_chars(value) if is_text else value


def _trim_empty_ends(counts_by_split: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Rows of a bar table from the first to the last one with a count in any split."""
    rows = list(next(iter(counts_by_split.values())))
    filled = [index for index, row in enumerate(rows) if any(counts[row] for counts in counts_by_split.values())]
    return rows[filled[0] : filled[-1] + 1] if filled else []
