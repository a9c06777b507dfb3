"""An evaluation as one HTML page: no script, nothing from elsewhere, every text escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hrnet_ray.data.images import codec
from hrnet_ray.evaluation.model_evaluation import Evaluation
from hrnet_ray.reports.evaluation.formatting import boxes_said, head, how, verdict
from hrnet_ray.visualization.html import Html, document, figure, joined, table, tag

CAPTIONS = ("how strict one may be", "which keypoints are found")
WORST = "the instances that went worst: the truth is thin and white, the prediction thick"


def page(evaluation: Evaluation, plots: Sequence[Path]) -> str:
    """The whole page; `plots` are the files of `evaluation_plots.draw`."""
    judged, assessment = evaluation.judged, evaluation.judged.assessment
    title = f"{evaluation.data}: {judged.name}"
    *charts, worst = plots
    body = joined(
        tag("h1", title),
        tag("p", head(evaluation).splitlines()[0], class_="soft"),
        tag("p", f"boxes: {boxes_said(evaluation)}. {how(judged, evaluation)}.", class_="soft"),
        *(tag("p", f"note: {note}", class_="look") for note in evaluation.notes),
        tag("h2", "The figure"),
        *(tag("p", line) for block in verdict(evaluation) for line in block.splitlines()),
        *_published(evaluation),
        *_oks(evaluation),
        tag("h2", "Curve and keypoints"),
        tag("div", *map(_plot, charts, CAPTIONS), class_="cards pair"),
        tag("h2", "The worst"),
        _plot(worst, WORST),
        tag("h2", "All figures"),
        tag("div", _keypoints(evaluation), _summary(assessment.summary), class_="cards pair"),
    )
    return document(title, body)


def _published(evaluation: Evaluation) -> list[Html]:
    columns = evaluation.judged.assessment.published
    if not columns:
        return []
    said = "Percent, in the columns of the papers; Mean@0.1 is taken at 0.11, as published."
    cells = {"": [f"{value:.3f}" for value in columns.values()]}
    return [
        tag("h2", "PCKh"),
        tag("p", said, class_="soft"),
        tag("div", _numbers(["", *columns], cells), class_="card"),
    ]


def _oks(evaluation: Evaluation) -> list[Html]:
    sets = evaluation.judged.assessment.oks
    if not sets:
        return []
    heads = ["sigmas", *next(iter(sets.values()))]
    cells = {name: [f"{value:.4f}" for value in of.values()] for name, of in sets.items()}
    said = "-1: there is no instance of that size."
    return [
        tag("h2", "OKS"),
        tag("p", said, class_="soft"),
        tag("div", _numbers(heads, cells), class_="card"),
    ]


def _keypoints(evaluation: Evaluation) -> Html:
    assessment = evaluation.judged.assessment
    cells = {
        name: [f"{score.value:.4f}", f"{score.epe_px:.2f}", f"{score.count:,}"]
        for name, score in assessment.per_keypoint.items()
    }
    kind = assessment.main.split("_")[0]
    return tag("div", _numbers(["", kind, "EPE px", "count"], cells), class_="card")


def _summary(summary: Mapping[str, float]) -> Html:
    cells = {name: [f"{value:.4f}"] for name, value in summary.items()}
    return tag("div", _numbers(["", "value"], cells), class_="card")


def _numbers(heads: Sequence[str], lines: dict[str, list[str]]) -> Html:
    return table(
        heads,
        [
            [tag("td", name, class_="what"), *(tag("td", cell) for cell in cells)]
            for name, cells in lines.items()
        ],
    )


def _plot(path: Path, caption: str) -> Html:
    return figure(codec.encode_jpeg(codec.read(path), quality=90), caption)
