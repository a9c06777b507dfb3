"""Evaluation as text and as JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hrnet_ray.errors import format_list
from hrnet_ray.evaluation.model_evaluation import EvaluationResult, ModelComparison, ModelEvaluation
from hrnet_ray.metrics.bootstrap import ConfidenceInterval
from hrnet_ray.metrics.pckh_table import PCKH_TABLE_COLUMNS

SCORES_FORMAT_VERSION = 1
"""Format version of scores.json; keys may be added, but are never renamed."""

MAX_SKIPPED_NAMES = 10
"""Number of skipped rows that the text lists; scores.json lists all."""


def format_report(evaluation: EvaluationResult) -> str:
    """Format the evaluation for a terminal: settings, tables, and the primary metric."""
    metrics = evaluation.model_evaluation.metrics
    blocks = [format_header(evaluation)]
    if metrics.mpii_pckh_table:
        blocks += [format_pckh_table(metrics.mpii_pckh_table)]
    if metrics.oks_by_sigma_set:
        blocks.append(_format_oks_table(metrics.oks_by_sigma_set))
    blocks += [
        _format_keypoint_table(evaluation),
        _format_remaining_metrics(evaluation),
        *format_primary_metric(evaluation),
    ]
    return "\n\n".join(blocks)


def format_header(evaluation: EvaluationResult) -> str:
    """Format the split, the boxes, the decoding, skipped rows and notes."""
    model, used = evaluation.model_evaluation, len(evaluation.ground_truth)
    skipped = model.split_poses.skipped_rows
    lines = [
        f"{evaluation.dataset_name} {evaluation.eval_spec.split}: {evaluation.rows_read:,} read = "
        f"{used:,} used + {len(skipped):,} skipped, "
        f"in {len(evaluation.ground_truth.image_names):,} images; "
        f"version {evaluation.dataset_digest[:12]}",
        f"boxes: {format_box_summary(evaluation)}",
        f"{model.name}: {format_decode_settings(model, evaluation)}",
    ]
    if skipped:
        named = [f"{image} #{row}" for row, image in skipped]
        lines.append(f"skipped: {format_list(named, max_items=MAX_SKIPPED_NAMES)}")
    return "\n".join([*lines, *(f"note: {note}" for note in evaluation.notes)])


def format_box_summary(evaluation: EvaluationResult) -> str:
    """Format the source of the boxes and their counts."""
    boxes = evaluation.detections
    if boxes is None:
        return "ground truth"
    skipped = "".join(f" + {count:,} {reason}" for reason, count in boxes.skipped_counts.items())
    return (
        f"detections from {evaluation.eval_spec.detections_path}: {boxes.num_read:,} read = "
        f"{len(boxes.score):,} used{skipped or ' + 0 skipped'}"
    )


def format_decode_settings(model_evaluation: ModelEvaluation, evaluation: EvaluationResult) -> str:
    """Format the decoding, and the NMS and score of OKS metrics."""
    spec, metrics = model_evaluation.spec, model_evaluation.metrics
    text = f"decode {spec.decode}, flip test {'on' if spec.flip_test else 'off'}"
    if metrics.primary_metric == "OKS_AP":
        num_poses = len(model_evaluation.split_poses.poses)
        text += (
            f", OKS-NMS {evaluation.eval_spec.nms_oks:g} "
            f"({metrics.num_nms_dropped:,} of {num_poses:,} poses dropped), "
            "score = box score x mean of keypoint scores above 0.2"
        )
    return text


def format_primary_metric(evaluation: EvaluationResult) -> list[str]:
    """Format the primary metric with its interval, and the comparison."""
    model, eval_spec = evaluation.model_evaluation, evaluation.eval_spec
    percent, main = f"{100 * eval_spec.confidence:g} %", model.metrics.primary_metric
    lines = [
        f"{main} {model.metrics.primary_value:.4f}, {percent} interval "
        f"{model.interval.low:.4f} to {model.interval.high:.4f} "
        f"({eval_spec.resamples:,} resamples of "
        f"{len(evaluation.ground_truth.image_names):,} images)"
    ]
    if evaluation.comparison:
        lines.append(format_comparison(evaluation.comparison, evaluation))
    return lines


def format_comparison(comparison: ModelComparison, evaluation: EvaluationResult) -> str:
    """Format the baseline, the difference, and whether it is significant."""
    other, low, high = comparison.baseline, comparison.interval.low, comparison.interval.high
    percent, main = (
        f"{100 * comparison.interval.confidence:g} %",
        evaluation.model_evaluation.metrics.primary_metric,
    )
    better = "better" if comparison.difference > 0 else "worse"
    sentence = (
        f"beyond noise: {evaluation.model_evaluation.name} is {better}"
        if comparison.is_significant
        else "within noise: these images do not separate the two models"
    )
    return (
        f"compared to {other.name} ({format_decode_settings(other, evaluation)}):\n"
        f"{main} {other.metrics.primary_value:.4f}, difference {comparison.difference:+.4f}, "
        f"{percent} interval {low:+.4f} to {high:+.4f}\n{sentence}"
    )


def format_pckh_table(table: Mapping[str, float]) -> str:
    """Format PCKh in percent, in the columns of the papers."""
    names = [*PCKH_TABLE_COLUMNS, "Mean", "Mean@0.1"]
    widths = [max(len(name), 5) for name in names]
    heads = " | ".join(name.rjust(width) for name, width in zip(names, widths, strict=True))
    cells = " | ".join(f"{table[name]:.3f}".rjust(width) for name, width in zip(names, widths, strict=True))
    rule = "-|-".join("-" * width for width in widths)
    return (
        "PCKh in percent, in the published columns (Mean@0.1 is measured at 0.11, as published)\n"
        f"| {heads} |\n|-{rule}-|\n| {cells} |"
    )


def _format_oks_table(metrics_by_sigma_set: Mapping[str, Mapping[str, float]]) -> str:
    figures = list(next(iter(metrics_by_sigma_set.values())))
    lines = [f"{'OKS sigmas':<14}" + "".join(f"{figure:>8}" for figure in figures)]
    for name, values in metrics_by_sigma_set.items():
        lines.append(f"{name:<14}" + "".join(f"{values[figure]:>8.4f}" for figure in figures))
    if any(value == -1 for values in metrics_by_sigma_set.values() for value in values.values()):
        lines.append("-1: there is no instance of that size (M: 32 to 96 px, L: larger)")
    return "\n".join(lines)


def _format_keypoint_table(evaluation: EvaluationResult) -> str:
    metrics = evaluation.model_evaluation.metrics
    scores = metrics.per_keypoint
    width = max(len("keypoint"), *map(len, scores))
    kind = metrics.primary_metric.split("_")[0]
    title = f"{'keypoint':<{width}}{kind:>9}{'EPE px':>9}{'count':>8}"
    if "instances_matched" in metrics.summary:
        title += (
            f"   (of {metrics.summary['instances_matched']:,.0f} of "
            f"{len(evaluation.ground_truth):,} instances that match at OKS 0.5)"
        )
    lines = [
        f"{name:<{width}}{score.score:>9.4f}{score.epe_px:>9.2f}{score.visible_count:>8,}"
        for name, score in scores.items()
    ]
    return "\n".join([title, *lines])


def _format_remaining_metrics(evaluation: EvaluationResult) -> str:
    """Format the metrics that no table shows."""
    prefixes = ("PCK", "EPE", "OKS_AP_without")
    summary = evaluation.model_evaluation.metrics.summary
    named = {name: value for name, value in summary.items() if name.startswith(prefixes)}
    return "\n".join(f"{name:<20}{value:>9.4f}" for name, value in named.items())


def to_json_dict(evaluation: EvaluationResult) -> dict[str, Any]:
    """Build scores.json; docs/evaluate.md explains the keys. NaN and Inf become null."""
    model, against = evaluation.model_evaluation, evaluation.comparison
    eval_spec, boxes = evaluation.eval_spec, evaluation.detections
    document = {
        "format": SCORES_FORMAT_VERSION,
        "data": {
            "name": evaluation.dataset_name,
            "digest": evaluation.dataset_digest,
            "split": eval_spec.split,
        },
        "read": evaluation.rows_read,
        "used": len(evaluation.ground_truth),
        "skipped": [{"id": row, "image": image} for row, image in model.split_poses.skipped_rows],
        "pictures": len(evaluation.ground_truth.image_names),
        "boxes": {
            "kind": "true" if boxes is None else "detections",
            "file": str(eval_spec.detections_path) if boxes is not None else None,
            "read": boxes.num_read if boxes is not None else len(evaluation.ground_truth),
            "used": len(boxes.score) if boxes is not None else len(evaluation.ground_truth),
            "left_out": dict(boxes.skipped_counts) if boxes is not None else {},
        },
        "resamples": eval_spec.resamples,
        "seed": eval_spec.seed,
        "nms_oks": eval_spec.nms_oks,
        "notes": evaluation.notes,
        **_build_model_entry(model),
        "against": None,
    }
    if against:
        document["against"] = {
            **_build_model_entry(against.baseline),
            "difference": against.difference,
            "difference_interval": _build_interval_entry(against.interval),
            "beyond_noise": against.is_significant,
        }
    return _replace_nan_with_none(document)


def _build_model_entry(model_evaluation: ModelEvaluation) -> dict[str, Any]:
    spec, metrics = model_evaluation.spec, model_evaluation.metrics
    return {
        "model": model_evaluation.name,
        "decode": spec.decode,
        "flip_test": spec.flip_test,
        "nms_dropped": metrics.num_nms_dropped,
        "main": metrics.primary_metric,
        "value": metrics.primary_value,
        "interval": _build_interval_entry(model_evaluation.interval),
        "summary": metrics.summary,
        "pckh_table": metrics.mpii_pckh_table,
        "oks": metrics.oks_by_sigma_set,
        "per_keypoint": {
            name: {"value": score.score, "epe_px": score.epe_px, "count": score.visible_count}
            for name, score in metrics.per_keypoint.items()
        },
        "curve": metrics.metric_curve,
    }


def _replace_nan_with_none(value: Any) -> Any:
    """Replace NaN and Inf, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _replace_nan_with_none(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_replace_nan_with_none(inner) for inner in value]
    return value


def _build_interval_entry(interval: ConfidenceInterval) -> dict[str, float]:
    return {name: getattr(interval, name) for name in ("low", "high", "confidence")}
