"""HTML from text: every text is escaped where it enters an element."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Literal

from hrnet_ray.text import printable
from hrnet_ray.visualization.drawing import side_colour

TEMPLATE = Path(__file__).with_name("page.html")


class Html(str):
    """Text that is markup already. All other text is escaped where it enters a tag."""


def tag(name: str, *inside: str, **attributes: str) -> Html:
    """An element with its children; `class_` stands for the attribute `class`."""
    given = "".join(
        f' {key.rstrip("_")}="{_escaped(value)}"' for key, value in attributes.items() if value
    )
    return Html(f"<{name}{given}>{joined(*inside)}</{name}>")


def joined(*parts: str) -> Html:
    """Elements and texts one after the other."""
    return Html("".join(part if isinstance(part, Html) else _escaped(part) for part in parts))


def _escaped(text: str) -> str:
    return escape(printable(text))


def document(title: str, body: Html) -> str:
    """A whole page, complete in itself: no script, nothing from elsewhere."""
    page = Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=_escaped(title), body=body)


def table(heads: Sequence[str], lines: Sequence[Sequence[Html]]) -> Html:
    """A table whose cells are `td` elements already; on a narrow screen it scrolls by itself."""
    rows = [tag("tr", *(tag("th", head) for head in heads))] if any(heads) else []
    rows += [tag("tr", *line) for line in lines]
    return tag("div", tag("table", *rows), class_="scrolls")


def bars(
    first: str,
    tables: Mapping[str, Mapping[str, int]],
    wholes: Mapping[str, int],
    *,
    dots: bool = False,
) -> Html:
    """A table with a bar and a count for each split; a full bar is the split's whole."""
    lines = []
    for which in _without_empty_ends(tables):
        cells = [tag("td", *([dot(which)] if dots else []), which, class_="what")]
        for name, counted in tables.items():
            cells.append(
                tag("td", _bar(name, counted[which] / max(1, wholes[name])), class_="wide")
            )
            cells.append(tag("td", f"{counted[which]:,}", class_="number"))
        lines.append(cells)
    return table([first, *(head for name in tables for head in (name, ""))], lines)


def _bar(split: str, share: float) -> Html:
    if not share:
        return joined()
    kind = "bar train" if split == "train" else "bar val"
    return tag("div", class_=kind, style=f"width: {share:.1%}")


def _without_empty_ends(tables: Mapping[str, Mapping[str, int]]) -> list[str]:
    rows = list(next(iter(tables.values())))
    filled = [at for at, which in enumerate(rows) if any(t[which] for t in tables.values())]
    return rows[filled[0] : filled[-1] + 1] if filled else []


def figure(picture: bytes, caption: str, *, kind: Literal["jpeg", "png"] = "jpeg") -> Html:
    """A picture that is part of the page, and the line below it."""
    source = f"data:image/{kind};base64,{b64encode(picture).decode()}"
    img = Html(f'<img src="{source}" alt="{_escaped(caption)}">')
    return tag("figure", img, tag("figcaption", caption))


def dot(keypoint: str) -> Html:
    """A dot in the colour of a keypoint's side."""
    red, green, blue = side_colour(keypoint)
    return tag("span", class_="dot", style=f"background: rgb({red}, {green}, {blue})")


def legend() -> Html:
    """Which colour is which side."""
    sides = {"left_": "left of the body", "right_": "right of the body", "": "middle"}
    dots = [tag("span", dot(f"{side}point"), name) for side, name in sides.items()]
    return tag("p", *dots, class_="soft legend")
