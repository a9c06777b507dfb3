"""An evaluation as one HTML page: no script, nothing from elsewhere, every text escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hrnet_ray.data.images import codec
from hrnet_ray.evaluation.model_evaluation import EvaluationResult
from hrnet_ray.reports.evaluation.formatting import (
    format_box_summary,
    format_decode_settings,
    format_header,
    format_primary_metric,
)
from hrnet_ray.visualization.html import (
    HtmlMarkup,
    concat_markup,
    render_element,
    render_figure_element,
    render_html_document,
    render_html_table,
)

CHART_CAPTIONS = ("how strict one may be", "which keypoints are found")
WORST_CAPTION = "the instances that went worst: the truth is thin and white, the prediction thick"


def render_page(evaluation: EvaluationResult, plot_paths: Sequence[Path]) -> str:
    """The whole page; `plots` are the files of `evaluation_plots.draw`."""
    judged, assessment = evaluation.model_evaluation, evaluation.model_evaluation.metrics
    title = f"{evaluation.dataset_name}: {judged.name}"
    *charts, worst = plot_paths
    body = concat_markup(
        render_element("h1", title),
        render_element("p", format_header(evaluation).splitlines()[0], class_="soft"),
        render_element(
            "p",
            f"boxes: {format_box_summary(evaluation)}. {format_decode_settings(judged, evaluation)}.",
            class_="soft",
        ),
        *(render_element("p", f"note: {note}", class_="look") for note in evaluation.notes),
        render_element("h2", "The figure"),
        *(
            render_element("p", line)
            for block in format_primary_metric(evaluation)
            for line in block.splitlines()
        ),
        *_render_pckh_section(evaluation),
        *_render_oks_section(evaluation),
        render_element("h2", "Curve and keypoints"),
        render_element(
            "div", *map(_render_plot_image, charts, CHART_CAPTIONS), class_="cards pair"
        ),
        render_element("h2", "The worst"),
        _render_plot_image(worst, WORST_CAPTION),
        render_element("h2", "All figures"),
        render_element(
            "div",
            _render_keypoint_table(evaluation),
            _render_summary_table(assessment.summary),
            class_="cards pair",
        ),
    )
    return render_html_document(title, body)


def _render_pckh_section(evaluation: EvaluationResult) -> list[HtmlMarkup]:
    columns = evaluation.model_evaluation.metrics.mpii_pckh_table
    if not columns:
        return []
    said = "Percent, in the columns of the papers; Mean@0.1 is taken at 0.11, as published."
    cells = {"": [f"{value:.3f}" for value in columns.values()]}
    return [
        render_element("h2", "PCKh"),
        render_element("p", said, class_="soft"),
        render_element("div", _render_number_table(["", *columns], cells), class_="card"),
    ]


def _render_oks_section(evaluation: EvaluationResult) -> list[HtmlMarkup]:
    sets = evaluation.model_evaluation.metrics.oks_by_sigma_set
    if not sets:
        return []
    heads = ["sigmas", *next(iter(sets.values()))]
    cells = {name: [f"{value:.4f}" for value in of.values()] for name, of in sets.items()}
    said = "-1: there is no instance of that size."
    return [
        render_element("h2", "OKS"),
        render_element("p", said, class_="soft"),
        render_element("div", _render_number_table(heads, cells), class_="card"),
    ]


def _render_keypoint_table(evaluation: EvaluationResult) -> HtmlMarkup:
    assessment = evaluation.model_evaluation.metrics
    cells = {
        name: [f"{score.score:.4f}", f"{score.epe_px:.2f}", f"{score.visible_count:,}"]
        for name, score in assessment.per_keypoint.items()
    }
    kind = assessment.primary_metric.split("_")[0]
    return render_element(
        "div", _render_number_table(["", kind, "EPE px", "count"], cells), class_="card"
    )


def _render_summary_table(summary: Mapping[str, float]) -> HtmlMarkup:
    cells = {name: [f"{value:.4f}"] for name, value in summary.items()}
    return render_element("div", _render_number_table(["", "value"], cells), class_="card")


def _render_number_table(
    column_names: Sequence[str], cells_by_row: dict[str, list[str]]
) -> HtmlMarkup:
    return render_html_table(
        column_names,
        [
            [
                render_element("td", name, class_="what"),
                *(render_element("td", cell) for cell in cells),
            ]
            for name, cells in cells_by_row.items()
        ],
    )


def _render_plot_image(path: Path, caption: str) -> HtmlMarkup:
    return render_figure_element(codec.encode_jpeg(codec.read_image(path), quality=90), caption)
