"""HTML from text: every text is escaped where it enters an element."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Literal

from hrnet_ray.text import escape_control_chars
from hrnet_ray.visualization.drawing import infer_keypoint_color

PAGE_TEMPLATE = Path(__file__).with_name("page.html")


class HtmlMarkup(str):
    """Text that is markup already. All other text is escaped where it enters a tag."""


def render_element(name: str, *children: str, **attributes: str) -> HtmlMarkup:
    """An element with its children; `class_` stands for the attribute `class`."""
    given = "".join(
        f' {key.rstrip("_")}="{_escape_text(value)}"' for key, value in attributes.items() if value
    )
    return HtmlMarkup(f"<{name}{given}>{concat_markup(*children)}</{name}>")


def concat_markup(*parts: str) -> HtmlMarkup:
    """Elements and texts one after the other."""
    return HtmlMarkup(
        "".join(part if isinstance(part, HtmlMarkup) else _escape_text(part) for part in parts)
    )


def _escape_text(text: str) -> str:
    return escape(escape_control_chars(text))


def render_html_document(title: str, body: HtmlMarkup) -> str:
    """A whole page, complete in itself: no script, nothing from elsewhere."""
    page = Template(PAGE_TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=_escape_text(title), body=body)


def render_html_table(
    headers: Sequence[str], row_cells: Sequence[Sequence[HtmlMarkup]]
) -> HtmlMarkup:
    """A table whose cells are `td` elements already; on a narrow screen it scrolls by itself."""
    rows = (
        [render_element("tr", *(render_element("th", head) for head in headers))]
        if any(headers)
        else []
    )
    rows += [render_element("tr", *line) for line in row_cells]
    return render_element("div", render_element("table", *rows), class_="scrolls")


def render_bar_table(
    first_header: str,
    counts_by_split: Mapping[str, Mapping[str, int]],
    split_totals: Mapping[str, int],
    *,
    with_color_dots: bool = False,
) -> HtmlMarkup:
    """A table with a bar and a count for each split; a full bar is the split's whole."""
    lines = []
    for which in _trim_empty_ends(counts_by_split):
        cells = [
            render_element(
                "td", *([render_color_dot(which)] if with_color_dots else []), which, class_="what"
            )
        ]
        for name, counted in counts_by_split.items():
            cells.append(
                render_element(
                    "td",
                    _render_bar(name, counted[which] / max(1, split_totals[name])),
                    class_="wide",
                )
            )
            cells.append(render_element("td", f"{counted[which]:,}", class_="number"))
        lines.append(cells)
    return render_html_table(
        [first_header, *(head for name in counts_by_split for head in (name, ""))], lines
    )


def _render_bar(split: str, fraction: float) -> HtmlMarkup:
    if not fraction:
        return concat_markup()
    kind = "bar train" if split == "train" else "bar val"
    return render_element("div", class_=kind, style=f"width: {fraction:.1%}")


def _trim_empty_ends(counts_by_split: Mapping[str, Mapping[str, int]]) -> list[str]:
    rows = list(next(iter(counts_by_split.values())))
    filled = [
        at for at, which in enumerate(rows) if any(t[which] for t in counts_by_split.values())
    ]
    return rows[filled[0] : filled[-1] + 1] if filled else []


def render_figure_element(
    image_bytes: bytes, caption: str, *, image_format: Literal["jpeg", "png"] = "jpeg"
) -> HtmlMarkup:
    """A picture that is part of the page, and the line below it."""
    source = f"data:image/{image_format};base64,{b64encode(image_bytes).decode()}"
    img = HtmlMarkup(f'<img src="{source}" alt="{_escape_text(caption)}">')
    return render_element("figure", img, render_element("figcaption", caption))


def render_color_dot(keypoint: str) -> HtmlMarkup:
    """A dot in the colour of a keypoint's side."""
    red, green, blue = infer_keypoint_color(keypoint)
    return render_element("span", class_="dot", style=f"background: rgb({red}, {green}, {blue})")


def render_side_legend() -> HtmlMarkup:
    """Which colour is which side."""
    sides = {"left_": "left of the body", "right_": "right of the body", "": "middle"}
    dots = [
        render_element("span", render_color_dot(f"{side}point"), name)
        for side, name in sides.items()
    ]
    return render_element("p", *dots, class_="soft legend")
