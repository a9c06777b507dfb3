"""The data report as one HTML page: no script, nothing from elsewhere, every text escaped."""

from collections.abc import Mapping, Sequence

from hrnet_ray.data.batch import AugmentationPipelineConfig
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.reports.dataset.issues import DatasetIssue, IssueType
from hrnet_ray.reports.dataset.left_right_swaps import MIN_POSES
from hrnet_ray.reports.dataset.sample_grids import ReportTile
from hrnet_ray.reports.dataset.statistics import (
    DatasetStatistics,
    LeftRightStatistics,
    SkippedRow,
    SplitStatistics,
)
from hrnet_ray.visualization.html import (
    HtmlMarkup,
    concat_markup,
    render_bar_table,
    render_color_dot,
    render_element,
    render_figure_element,
    render_html_document,
    render_html_table,
    render_side_legend,
)

MAX_EXAMPLES = 12
"""So many of a kind are named on the page; the tables beside it name all."""

ISSUE_EXPLANATIONS = {
    IssueType.UNREADABLE_IMAGE: "Training skips them. Prepare the data set again from whole files.",
    IssueType.IMAGE_IN_OTHER_SPLIT: "By their bytes. Scores on them say little: keep them in one split.",
    IssueType.DUPLICATE_INSTANCE: "Two poses of one picture, point on point. Delete one of the annotations.",
    IssueType.LEFT_RIGHT_SWAP: "Told by what the other poses agree on; legs do cross. See the sheet below.",
    IssueType.DUPLICATE_IMAGE: "By their bytes. They count double.",
    IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT: "A look, not a verdict: the next frame of a film, a copy in another size.",
    IssueType.NEAR_DUPLICATE_IMAGE: "The same within a split: harmless, but not as many pictures as it seems.",
    IssueType.KEYPOINT_NEVER_VISIBLE: "Nothing to learn, nothing to score.",
    IssueType.KEYPOINT_OUTSIDE_IMAGE: "A slip of the pen, or a pose that ends beyond the frame.",
    IssueType.KEYPOINT_OUTSIDE_BOX: "Some are usual. Many, or far ones, make crops that miss a limb.",
    IssueType.FEW_VISIBLE_KEYPOINTS: "They teach little and score by luck.",
}


def render_page(
    manifest: DatasetManifest,
    statistics: DatasetStatistics,
    tiles_by_grid: Mapping[str, Sequence[ReportTile]],
    pipeline_config: AugmentationPipelineConfig,
    sigma: float,
) -> str:
    """The whole page; `sheets` are the tiles of samples, samples_augmented and suspects."""
    body = concat_markup(
        _render_header(manifest),
        render_element(
            "div",
            *(_render_split_card(*item) for item in statistics.splits.items()),
            class_="cards sums",
        ),
        _render_skipped_rows(statistics),
        render_element("h2", "Worth a look"),
        _render_issue_table(statistics),
        _render_issue_samples(tiles_by_grid["issues"]),
        render_element("h2", "As stored"),
        _render_muted_text(
            "Training instances at equal distances through the set: pose, box, and what else is "
            "kept of the picture."
        ),
        render_side_legend(),
        _render_tile_grid(tiles_by_grid["samples"]),
        render_element("h2", "As the model meets them"),
        _render_muted_text(_describe_augmented_samples(pipeline_config, sigma)),
        render_side_legend(),
        _render_tile_grid(tiles_by_grid["samples_augmented"], wide=True),
        render_element("h2", "Keypoints"),
        _render_keypoint_charts(statistics),
        render_element("h2", "Left and right"),
        _render_left_right_section(statistics),
        render_element("h2", "Boxes"),
        _render_box_charts(statistics),
    )
    return render_html_document(f"{manifest.name} - data report", body)


def _render_muted_text(text: str) -> HtmlMarkup:
    return render_element("p", text, class_="soft")


def _render_file_link(file: str) -> HtmlMarkup:
    return render_element("a", file, href=file)


def _render_header(manifest: DatasetManifest) -> HtmlMarkup:
    skeleton = manifest.skeleton
    facts = f"{len(skeleton)} keypoints ({skeleton.name}), {manifest.canvas_px} px canvases, "
    version = render_element("code", manifest.digest[:12], title=manifest.digest)
    files = concat_markup(
        ". All figures: ",
        _render_file_link("counts.csv"),
        ", all suspects: ",
        _render_file_link("issues.csv"),
        ".",
    )
    heads = (
        render_element("h1", manifest.name),
        render_element("p", facts, "version ", version, files, class_="soft"),
    )
    return concat_markup(*heads)


def _render_split_card(split_name: str, split: SplitStatistics) -> HtmlMarkup:
    skipped = len(split.skipped_rows)
    lines = [
        f"{split.num_images:,} pictures, {split.num_visible_keypoints / split.rows_used:.1f} keypoints a pose",
        *split.notes,
    ]
    sums = f"{split.rows_read:,} read = {split.rows_used:,} used + {skipped:,} skipped"
    return render_element(
        "div",
        render_element("div", split_name, class_="name"),
        render_element("div", sums, class_="sum"),
        render_element("ul", *(render_element("li", line) for line in lines)),
        class_="card",
    )


def _render_skipped_rows(statistics: DatasetStatistics) -> HtmlMarkup:
    """How many were left out for which reason, and the first of them by name."""
    splits = statistics.splits
    reasons = list(
        dict.fromkeys(reason for split in splits.values() for reason in split.skip_reason_counts)
    )
    if not reasons:
        return concat_markup()
    lines = [
        [
            render_element("td", reason, class_="what"),
            *(
                render_element("td", f"{s.skip_reason_counts.get(reason, 0):,}", class_="number")
                for s in splits.values()
            ),
        ]
        for reason in reasons
    ]
    named = [
        _render_example_list(
            f"{name}: {reason}",
            [_format_skipped_row(t) for t in split.skipped_rows if t.reason == reason],
        )
        for name, split in splits.items()
        for reason in split.skip_reason_counts
    ]
    return concat_markup(
        render_element("h2", "Left out"),
        render_element(
            "p",
            "Read, and not used. All by name: ",
            _render_file_link("skipped.csv"),
            ".",
            class_="soft",
        ),
        render_element(
            "div", render_html_table(["reason", *splits], lines), *named, class_="card findings"
        ),
    )


def _format_skipped_row(skipped_row: SkippedRow) -> str:
    return f"{skipped_row.item}: {skipped_row.detail}" if skipped_row.detail else skipped_row.item


def _render_issue_table(statistics: DatasetStatistics) -> HtmlMarkup:
    """A table of how many, and below it the first ones by name."""
    found = list(statistics.count_issues())
    lines = [
        [
            render_element(
                "td",
                _convert_to_sentence_case(kind),
                render_element("div", ISSUE_EXPLANATIONS[kind], class_="soft"),
                class_="kind",
            ),
            *(_render_issue_count(split.issues[kind]) for split in statistics.splits.values()),
        ]
        for kind in found
    ]
    named = [
        _render_example_list(
            f"{name}: {kind}", [_format_issue(spot) for spot in split.issues[kind]]
        )
        for kind in found
        for name, split in statistics.splits.items()
        if split.issues[kind]
    ]
    clear = "; ".join(kind for kind in IssueType if kind not in found)
    without = [_render_muted_text(f"Looked for, and not found: {clear}.")] if clear else []
    heads = ["", *statistics.splits]
    shown = [render_html_table(heads, lines), *named] if lines else []
    return render_element("div", *shown, *without, class_="card findings")


def _convert_to_sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def _format_issue(issue: DatasetIssue) -> str:
    return f"{issue.name}: {issue.detail}" if issue.detail else issue.name


def _render_issue_count(issues: Sequence[DatasetIssue]) -> HtmlMarkup:
    said = f"{len(issues):,}" if issues else "none"
    return render_element("td", said, class_="number look" if issues else "number good")


def _render_example_list(title: str, names: Sequence[str]) -> HtmlMarkup:
    more = len(names) - MAX_EXAMPLES
    shown = [*names[:MAX_EXAMPLES], *([f"and {more:,} more"] if more > 0 else [])]
    return render_element(
        "details",
        render_element("summary", title),
        render_element("ul", *(render_element("li", name) for name in shown)),
    )


def _render_issue_samples(tiles: Sequence[ReportTile]) -> HtmlMarkup:
    if not tiles:
        return concat_markup()
    return concat_markup(
        render_element("h3", "Some of them"),
        _render_muted_text("Points in question have a ring. Two pictures on one tile are alike."),
        render_side_legend(),
        _render_tile_grid(tiles),
    )


def _render_tile_grid(tiles: Sequence[ReportTile], *, wide: bool = False) -> HtmlMarkup:
    figures = [
        render_figure_element(codec.encode_jpeg(t.image, quality=88), t.caption) for t in tiles
    ]
    return render_element("div", *figures, class_="grid wide" if wide else "grid")


def _describe_augmented_samples(pipeline_config: AugmentationPipelineConfig, sigma: float) -> str:
    height, width = pipeline_config.input_hw
    return (
        f"The same instances in epoch 0 of a run with seed {pipeline_config.seed}: crops of {width} x "
        f"{height} pixels, and what the model has to answer: heatmaps with a "
        f"sigma of {sigma:g} cells. Warm is the left of the body "
        "as the crop shows it, of a mirrored one, too: a mirror that forgot to exchange the sides "
        "would show here. Turns count counter-clockwise."
    )


def _render_keypoint_charts(statistics: DatasetStatistics) -> HtmlMarkup:
    used = {name: split.rows_used for name, split in statistics.splits.items()}
    shown = {name: split.visible_per_keypoint for name, split in statistics.splits.items()}
    per_pose = {name: split.poses_per_visible_count for name, split in statistics.splits.items()}
    cards = (
        (
            "In how many poses each is visible",
            render_bar_table("keypoint", shown, used, with_color_dots=True),
        ),
        ("Visible keypoints a pose", render_bar_table("keypoints", per_pose, used)),
    )
    return _render_chart_cards(cards)


def _render_box_charts(statistics: DatasetStatistics) -> HtmlMarkup:
    used = {name: split.rows_used for name, split in statistics.splits.items()}
    sides = {name: split.box_size_px_histogram for name, split in statistics.splits.items()}
    aspects = {name: split.aspect_ratio_histogram for name, split in statistics.splits.items()}
    cards = (
        ("Longer side, in pixels of the picture", render_bar_table("pixels", sides, used)),
        ("Width / height", render_bar_table("ratio", aspects, used)),
    )
    return _render_chart_cards(cards)


def _render_chart_cards(cards: Sequence[tuple[str, HtmlMarkup]]) -> HtmlMarkup:
    filled = (
        render_element("div", render_element("h3", title), inside, class_="card")
        for title, inside in cards
    )
    return render_element("div", *filled, class_="cards pair")


def _render_left_right_section(statistics: DatasetStatistics) -> HtmlMarkup:
    """How well each pair's sides can be told, and what speaks against the skeleton."""
    if not statistics.left_right_pairs:
        return _render_muted_text("This skeleton has no left and no right.")
    about = _render_muted_text(
        "A pair is told when the rest of the pose leaves no doubt which of the two is the left "
        "one, going by all training poses: whatever way they face, turned or mirrored. Only then "
        "can an exchange be noticed; paws that step freely cannot be told by their place alone."
    )
    heads = ["pair", "shown whole", "told", "", "look exchanged"]
    lines = [_render_pair_row(pair) for pair in statistics.left_right_pairs]
    warnings = [
        render_element("p", _convert_to_sentence_case(doubt), ".", class_="look")
        for doubt in statistics.skeleton_warnings
    ]
    return concat_markup(
        about, render_element("div", *warnings, render_html_table(heads, lines), class_="card")
    )


def _render_pair_row(pair: LeftRightStatistics) -> list[HtmlMarkup]:
    left, _, right = pair.name.partition(" / ")
    names = render_element(
        "td", render_color_dot(left), left, " / ", render_color_dot(right), right, class_="what"
    )
    whole = render_element("td", f"{pair.num_complete:,}", class_="number")
    if pair.num_decided is None:
        why = f"shown in fewer than {MIN_POSES} training poses: not judged"
        return [names, whole, render_element("td", why, class_="soft", colspan="3")]
    share = pair.num_decided / max(1, pair.num_complete)
    bar = render_element(
        "td", render_element("div", class_="bar train", style=f"width: {share:.1%}"), class_="wide"
    )
    kind = "number look" if pair.num_swapped else "number good"
    found = render_element(
        "td", f"{pair.num_swapped:,}" if pair.num_swapped else "none", class_=kind
    )
    return [names, whole, bar, render_element("td", f"{share:.0%}", class_="number"), found]
