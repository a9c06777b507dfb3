"""The data report as one HTML page: no script, nothing from elsewhere, every text escaped."""

from collections.abc import Mapping, Sequence

from hrnet_ray.data.batch import Recipe
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.reports.dataset.issues import Kind, Spot
from hrnet_ray.reports.dataset.left_right_swaps import FEWEST_POSES
from hrnet_ray.reports.dataset.sample_grids import Tile
from hrnet_ray.reports.dataset.statistics import Counts, PairCounts, SkippedItem, SplitCounts
from hrnet_ray.visualization.html import (
    Html,
    bars,
    document,
    dot,
    figure,
    joined,
    legend,
    table,
    tag,
)

EXAMPLES = 12
"""So many of a kind are named on the page; the tables beside it name all."""

MEANINGS = {
    Kind.UNREADABLE: "Training skips them. Prepare the data set again from whole files.",
    Kind.IN_BOTH: "By their bytes. Scores on them say little: keep them in one split.",
    Kind.TWINS: "Two poses of one picture, point on point. Delete one of the annotations.",
    Kind.EXCHANGED: "Told by what the other poses agree on; legs do cross. See the sheet below.",
    Kind.COPIES: "By their bytes. They count double.",
    Kind.LIKE_OTHER: "A look, not a verdict: the next frame of a film, a copy in another size.",
    Kind.ALIKE: "The same within a split: harmless, but not as many pictures as it seems.",
    Kind.NEVER: "Nothing to learn, nothing to score.",
    Kind.OUTSIDE_PICTURE: "A slip of the pen, or a pose that ends beyond the frame.",
    Kind.OUTSIDE_BOX: "Some are usual. Many, or far ones, make crops that miss a limb.",
    Kind.FEW: "They teach little and score by luck.",
}


def page(
    manifest: Manifest,
    counts: Counts,
    sheets: Mapping[str, Sequence[Tile]],
    recipe: Recipe,
    sigma: float,
) -> str:
    """The whole page; `sheets` are the tiles of samples, samples_augmented and suspects."""
    body = joined(
        _header(manifest),
        tag("div", *(_sum(*item) for item in counts.splits.items()), class_="cards sums"),
        _skipped(counts),
        tag("h2", "Worth a look"),
        _findings(counts),
        _suspects(sheets["suspects"]),
        tag("h2", "As stored"),
        _soft(
            "Training instances at equal distances through the set: pose, box, and what else is "
            "kept of the picture."
        ),
        legend(),
        _grid(sheets["samples"]),
        tag("h2", "As the model meets them"),
        _soft(_how(recipe, sigma)),
        legend(),
        _grid(sheets["samples_augmented"], wide=True),
        tag("h2", "Keypoints"),
        _keypoints(counts),
        tag("h2", "Left and right"),
        _sides(counts),
        tag("h2", "Boxes"),
        _boxes(counts),
    )
    return document(f"{manifest.name} - data report", body)


def _soft(text: str) -> Html:
    return tag("p", text, class_="soft")


def _link(file: str) -> Html:
    return tag("a", file, href=file)


def _header(manifest: Manifest) -> Html:
    skeleton = manifest.skeleton
    facts = f"{len(skeleton)} keypoints ({skeleton.name}), {manifest.canvas_px} px canvases, "
    version = tag("code", manifest.digest[:12], title=manifest.digest)
    files = joined(
        ". All figures: ", _link("counts.csv"), ", all suspects: ", _link("suspects.csv"), "."
    )
    heads = (tag("h1", manifest.name), tag("p", facts, "version ", version, files, class_="soft"))
    return joined(*heads)


def _sum(name: str, split: SplitCounts) -> Html:
    skipped = len(split.skipped)
    lines = [
        f"{split.pictures:,} pictures, {split.points / split.used:.1f} keypoints a pose",
        *split.notes,
    ]
    sums = f"{split.read:,} read = {split.used:,} used + {skipped:,} skipped"
    return tag(
        "div",
        tag("div", name, class_="name"),
        tag("div", sums, class_="sum"),
        tag("ul", *(tag("li", line) for line in lines)),
        class_="card",
    )


def _skipped(counts: Counts) -> Html:
    """How many were left out for which reason, and the first of them by name."""
    splits = counts.splits
    reasons = list(dict.fromkeys(reason for split in splits.values() for reason in split.reasons))
    if not reasons:
        return joined()
    lines = [
        [
            tag("td", reason, class_="what"),
            *(tag("td", f"{s.reasons.get(reason, 0):,}", class_="number") for s in splits.values()),
        ]
        for reason in reasons
    ]
    named = [
        _named(f"{name}: {reason}", [_said(t) for t in split.skipped if t.reason == reason])
        for name, split in splits.items()
        for reason in split.reasons
    ]
    return joined(
        tag("h2", "Left out"),
        tag("p", "Read, and not used. All by name: ", _link("skipped.csv"), ".", class_="soft"),
        tag("div", table(["reason", *splits], lines), *named, class_="card findings"),
    )


def _said(thing: SkippedItem) -> str:
    return f"{thing.item}: {thing.detail}" if thing.detail else thing.item


def _findings(counts: Counts) -> Html:
    """A table of how many, and below it the first ones by name."""
    found = list(counts.worth_a_look())
    lines = [
        [
            tag("td", _capital(kind), tag("div", MEANINGS[kind], class_="soft"), class_="kind"),
            *(_how_many(split.findings[kind]) for split in counts.splits.values()),
        ]
        for kind in found
    ]
    named = [
        _named(f"{name}: {kind}", [_spot(spot) for spot in split.findings[kind]])
        for kind in found
        for name, split in counts.splits.items()
        if split.findings[kind]
    ]
    clear = "; ".join(kind for kind in Kind if kind not in found)
    without = [_soft(f"Looked for, and not found: {clear}.")] if clear else []
    heads = ["", *counts.splits]
    shown = [table(heads, lines), *named] if lines else []
    return tag("div", *shown, *without, class_="card findings")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _spot(spot: Spot) -> str:
    return f"{spot.name}: {spot.detail}" if spot.detail else spot.name


def _how_many(spots: Sequence[Spot]) -> Html:
    said = f"{len(spots):,}" if spots else "none"
    return tag("td", said, class_="number look" if spots else "number good")


def _named(title: str, names: Sequence[str]) -> Html:
    more = len(names) - EXAMPLES
    shown = [*names[:EXAMPLES], *([f"and {more:,} more"] if more > 0 else [])]
    return tag("details", tag("summary", title), tag("ul", *(tag("li", name) for name in shown)))


def _suspects(tiles: Sequence[Tile]) -> Html:
    if not tiles:
        return joined()
    return joined(
        tag("h3", "Some of them"),
        _soft("Points in question have a ring. Two pictures on one tile are alike."),
        legend(),
        _grid(tiles),
    )


def _grid(tiles: Sequence[Tile], *, wide: bool = False) -> Html:
    figures = [figure(codec.encode_jpeg(t.picture, quality=88), t.caption) for t in tiles]
    return tag("div", *figures, class_="grid wide" if wide else "grid")


def _how(recipe: Recipe, sigma: float) -> str:
    height, width = recipe.input_hw
    return (
        f"The same instances in epoch 0 of a run with seed {recipe.seed}: crops of {width} x "
        f"{height} pixels, and what the model has to answer: heatmaps with a "
        f"sigma of {sigma:g} cells. Warm is the left of the body "
        "as the crop shows it, of a mirrored one, too: a mirror that forgot to exchange the sides "
        "would show here. Turns count counter-clockwise."
    )


def _keypoints(counts: Counts) -> Html:
    used = {name: split.used for name, split in counts.splits.items()}
    shown = {name: split.shown for name, split in counts.splits.items()}
    per_pose = {name: split.per_pose for name, split in counts.splits.items()}
    cards = (
        ("In how many poses each is visible", bars("keypoint", shown, used, dots=True)),
        ("Visible keypoints a pose", bars("keypoints", per_pose, used)),
    )
    return _cards(cards)


def _boxes(counts: Counts) -> Html:
    used = {name: split.used for name, split in counts.splits.items()}
    sides = {name: split.box_px for name, split in counts.splits.items()}
    aspects = {name: split.aspect for name, split in counts.splits.items()}
    cards = (
        ("Longer side, in pixels of the picture", bars("pixels", sides, used)),
        ("Width / height", bars("ratio", aspects, used)),
    )
    return _cards(cards)


def _cards(cards: Sequence[tuple[str, Html]]) -> Html:
    filled = (tag("div", tag("h3", title), inside, class_="card") for title, inside in cards)
    return tag("div", *filled, class_="cards pair")


def _sides(counts: Counts) -> Html:
    """How well each pair's sides can be told, and what speaks against the skeleton."""
    if not counts.pairs:
        return _soft("This skeleton has no left and no right.")
    about = _soft(
        "A pair is told when the rest of the pose leaves no doubt which of the two is the left "
        "one, going by all training poses: whatever way they face, turned or mirrored. Only then "
        "can an exchange be noticed; paws that step freely cannot be told by their place alone."
    )
    heads = ["pair", "shown whole", "told", "", "look exchanged"]
    lines = [_pair(pair) for pair in counts.pairs]
    warnings = [tag("p", _capital(doubt), ".", class_="look") for doubt in counts.doubts]
    return joined(about, tag("div", *warnings, table(heads, lines), class_="card"))


def _pair(pair: PairCounts) -> list[Html]:
    left, _, right = pair.name.partition(" / ")
    names = tag("td", dot(left), left, " / ", dot(right), right, class_="what")
    whole = tag("td", f"{pair.whole:,}", class_="number")
    if pair.told is None:
        why = f"shown in fewer than {FEWEST_POSES} training poses: not judged"
        return [names, whole, tag("td", why, class_="soft", colspan="3")]
    share = pair.told / max(1, pair.whole)
    bar = tag("td", tag("div", class_="bar train", style=f"width: {share:.1%}"), class_="wide")
    kind = "number look" if pair.exchanged else "number good"
    found = tag("td", f"{pair.exchanged:,}" if pair.exchanged else "none", class_=kind)
    return [names, whole, bar, tag("td", f"{share:.0%}", class_="number"), found]
