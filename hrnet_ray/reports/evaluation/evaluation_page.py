"""An evaluation as one HTML page (templates/evaluation.html)."""

from collections.abc import Sequence
from pathlib import Path

from hrnet_ray.data.images import codec
from hrnet_ray.evaluation.model_evaluation import EvaluationResult
from hrnet_ray.reports.evaluation.formatting import (
    format_box_summary,
    format_decode_settings,
    format_header,
    format_primary_metric,
)
from hrnet_ray.reports.page_renderer import render_template

PLOT_JPEG_QUALITY = 90


def render_page(evaluation: EvaluationResult, plot_paths: Sequence[Path]) -> str:
    """Return the whole page; `plot_paths` are the three files of `figures.write_plots`."""
    model, metrics = evaluation.model_evaluation, evaluation.model_evaluation.metrics
    return render_template(
        "evaluation.html",
        title=f"{evaluation.dataset_name}: {model.name}",
        settings=[
            format_header(evaluation).splitlines()[0],
            f"boxes: {format_box_summary(evaluation)}. {format_decode_settings(model, evaluation)}.",
        ],
        notes=evaluation.notes,
        primary_lines="\n".join(format_primary_metric(evaluation)).splitlines(),
        pckh=metrics.mpii_pckh_table,
        oks=metrics.oks_by_sigma_set,
        oks_cells={
            name: [f"{value:.4f}" for value in values.values()]
            for name, values in (metrics.oks_by_sigma_set or {}).items()
        },
        metric_family=metrics.primary_metric.split("_")[0],
        keypoint_cells={
            name: [f"{score.score:.4f}", f"{score.epe_px:.2f}", f"{score.visible_count:,}"]
            for name, score in metrics.per_keypoint.items()
        },
        summary_cells={name: [f"{value:.4f}"] for name, value in metrics.summary.items()},
        plots=[codec.encode_jpeg(codec.read_image(path), quality=PLOT_JPEG_QUALITY) for path in plot_paths],
    )
