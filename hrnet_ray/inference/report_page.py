"""The data report as one HTML page: no script, nothing from elsewhere, every text escaped."""

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template

from hrnet_ray.data.drawing import side_colour
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.inference.report_counts import FEW_KEYPOINTS, Counts, SplitCounts, Suspects
from hrnet_ray.learning.batch import Recipe

TEMPLATE = Path(__file__).with_name("report.html")


class Html(str):
    """Text that is markup already. All other text is escaped where it enters a tag."""


def tag(name: str, *inside: str, **attributes: str) -> Html:
    """An element with its children; `class_` stands for the attribute `class`."""
    given = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{_joined(*inside)}</{name}>")


def _joined(*parts: str) -> Html:
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def page(
    manifest: Manifest,
    counts: Counts,
    sheets: Mapping[str, bytes],
    recipe: Recipe,
    sigma: float,
) -> str:
    """The whole page; `sheets` are JPEGs for `samples.png` and `samples_augmented.png`."""
    body = _joined(
        _header(manifest),
        _sums(counts),
        tag("h2", "Worth a look"),
        _findings(counts),
        tag("h2", "As stored"),
        tag(
            "p",
            "Training instances at equal distances through the set: pose, box, and what ",
            "else is kept of the picture.",
            class_="soft",
        ),
        _sides(),
        _picture(sheets["samples.png"], "training instances with their poses"),
        tag("h2", "As the model meets them"),
        tag("p", _how(recipe, sigma), class_="soft"),
        _sides(),
        _picture(sheets["samples_augmented.png"], "the same instances augmented, with heatmaps"),
        tag("h2", "Keypoints"),
        tag("p", "Share of the poses in which each is visible.", class_="soft"),
        _keypoints(counts),
        tag("h2", "Boxes"),
        _boxes(counts),
    )
    title = escape(f"{manifest.name} - data report")
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=title, body=body)


def _header(manifest: Manifest) -> Html:
    skeleton = manifest.skeleton
    facts = f"{len(skeleton)} keypoints ({skeleton.name}), {manifest.canvas_px} px canvases, "
    version = tag("code", manifest.digest[:12], title=manifest.digest)
    return _joined(tag("h1", manifest.name), tag("p", facts, "version ", version, class_="soft"))


def _sums(counts: Counts) -> Html:
    return tag("div", *(_sum(*item) for item in counts.splits.items()), class_="sums")


def _sum(name: str, split: SplitCounts) -> Html:
    skipped = sum(split.skipped.values())
    lines = [f"{number:,} skipped: {reason}" for reason, number in split.skipped.items()]
    lines.append(f"{split.pictures:,} pictures, {split.points / split.used:.1f} keypoints a pose")
    return tag(
        "div",
        tag("div", name, class_="name"),
        tag(
            "div", f"{split.read:,} read = {split.used:,} used + {skipped:,} skipped", class_="sum"
        ),
        tag("ul", *(tag("li", line) for line in [*lines, *split.notes])),
        class_="card",
    )


def _findings(counts: Counts) -> Html:
    """A table of how many, and below it the first ones by name."""
    found = {name: _suspects(split, counts.in_both) for name, split in counts.splits.items()}
    lines = [tag("tr", tag("th", ""), *(tag("th", name) for name in found))]
    for what in next(iter(found.values())):
        cells = [_how_many(suspects[what]) for suspects in found.values()]
        lines.append(tag("tr", tag("td", what), *cells))
    named = [
        _named(f"{name}: {what[0].lower()}{what[1:]}", suspect)
        for name, suspects in found.items()
        for what, suspect in suspects.items()
        if suspect.count
    ]
    return tag("div", tag("table", *lines), *named, class_="card findings")


def _suspects(split: SplitCounts, in_both: Suspects) -> dict[str, Suspects]:
    never = [name for name, shown in split.shown.items() if not shown]
    return {
        "Pictures that are in another split, too (scores on them say little)": in_both,
        "Stored pictures that cannot be read": split.unreadable,
        "Keypoints that are never visible": Suspects(len(never), never),
        f"Poses with {FEW_KEYPOINTS} visible keypoints or fewer": split.few_keypoints,
        "Points outside their box": split.outside_box,
        "Points outside the picture, or too far from the box to be stored": split.outside_picture,
    }


def _how_many(suspects: Suspects) -> Html:
    kind = "look" if suspects.count else "good"
    return tag("td", f"{suspects.count:,}" if suspects.count else "none", class_=kind)


def _named(title: str, suspects: Suspects) -> Html:
    more = suspects.count - len(suspects.examples)
    names = [*suspects.examples, *([f"and {more:,} more"] if more else [])]
    return tag("details", tag("summary", title), tag("ul", *(tag("li", name) for name in names)))


def _sides() -> Html:
    sides = {"left_": "left", "right_": "right", "": "middle"}
    dots = [tag("span", _dot(f"{side}point"), name) for side, name in sides.items()]
    return tag("p", *dots, class_="soft legend")


def _dot(keypoint: str) -> Html:
    red, green, blue = side_colour(keypoint)
    return tag("span", class_="dot", style=f"background: rgb({red}, {green}, {blue})")


def _how(recipe: Recipe, sigma: float) -> str:
    height, width = recipe.input_hw
    return (
        f"The same instances in epoch 0 of a run with seed {recipe.seed}: crops of {width} x "
        f"{height} pixels, and what the model has to answer: heatmaps with a "
        f"sigma of {sigma:g} cells. Warm is the left of the body "
        "as the crop shows it, of a mirrored one, too: a mirror that forgot to exchange the sides "
        "would show here. Turns count counter-clockwise."
    )


def _picture(jpeg: bytes, alt: str) -> Html:
    source = f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"
    return Html(f'<img src="{source}" alt="{escape(alt)}">')


def _keypoints(counts: Counts) -> Html:
    shown = {name: split.shown for name, split in counts.splits.items()}
    return tag("div", _bars(counts, shown, "keypoint", dots=True), class_="card")


def _boxes(counts: Counts) -> Html:
    sides = {name: split.box_px for name, split in counts.splits.items()}
    aspects = {name: split.aspect for name, split in counts.splits.items()}
    cards = (("Longer side, in pixels of the picture", sides, "pixels"),)
    cards += (("Width / height", aspects, "ratio"),)
    return tag(
        "div",
        *(
            tag("div", tag("h3", title), _bars(counts, tables, first), class_="card")
            for title, tables, first in cards
        ),
        class_="pair",
    )


def _bars(
    counts: Counts, tables: Mapping[str, Mapping[str, int]], first: str, *, dots: bool = False
) -> Html:
    """A table with a bar and a count for each split; a full bar is all of the split's poses."""
    heads = [tag("th", name, colspan="2") for name in tables]
    lines = [tag("tr", tag("th", first), *heads)]
    for which in _without_empty_ends(tables):
        cells = [tag("td", *([_dot(which)] if dots else []), which)]
        for name, table in tables.items():
            share = table[which] / counts.splits[name].used
            kind = name if name in ("train", "val") else "other"
            bar = tag("div", class_=f"bar {kind}", style=f"width: {share:.1%}")
            cells += [
                tag("td", bar, class_="wide"),
                tag("td", f"{table[which]:,}", class_="number"),
            ]
        lines.append(tag("tr", *cells))
    return tag("table", *lines)


def _without_empty_ends(tables: Mapping[str, Mapping[str, int]]) -> list[str]:
    rows = list(next(iter(tables.values())))
    filled = [at for at, which in enumerate(rows) if any(t[which] for t in tables.values())]
    return rows[filled[0] : filled[-1] + 1]
