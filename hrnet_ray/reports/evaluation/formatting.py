"""An evaluation in words and in JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hrnet_ray.errors import format_list
from hrnet_ray.evaluation.model_evaluation import EvaluationResult, ModelComparison, ModelEvaluation
from hrnet_ray.metrics.bootstrap import ConfidenceInterval
from hrnet_ray.metrics.pckh_table import PCKH_TABLE_COLUMNS

SCORES_FORMAT_VERSION = 1
"""Of scores.json: keys are added, never renamed."""

MAX_SKIPPED_NAMES = 10  # skipped rows in the text; scores.json names all


def format_report(evaluation: EvaluationResult) -> str:
    """Blocks for a terminal: what was asked, the tables, and how sure the main figure is."""
    assessment = evaluation.model_evaluation.metrics
    blocks = [format_header(evaluation)]
    if assessment.mpii_pckh_table:
        blocks += [format_pckh_table(assessment.mpii_pckh_table)]
    if assessment.oks_by_sigma_set:
        blocks.append(_format_oks_table(assessment.oks_by_sigma_set))
    blocks += [
        _format_keypoint_table(evaluation),
        _format_remaining_metrics(evaluation),
        *format_primary_metric(evaluation),
    ]
    return "\n\n".join(blocks)


def format_header(evaluation: EvaluationResult) -> str:
    """What was scored, on what, and how."""
    judged, used = evaluation.model_evaluation, len(evaluation.ground_truth)
    skipped = judged.split_poses.skipped_rows
    lines = [
        f"{evaluation.dataset_name} {evaluation.eval_spec.split}: {evaluation.rows_read:,} read = "
        f"{used:,} used + {len(skipped):,} skipped, in {len(evaluation.ground_truth.image_names):,} "
        f"pictures; version {evaluation.dataset_digest[:12]}",
        f"boxes: {format_box_summary(evaluation)}",
        f"{judged.name}: {format_decode_settings(judged, evaluation)}",
    ]
    if skipped:
        named = [f"{image} #{row}" for row, image in skipped]
        lines.append(f"skipped: {format_list(named, max_items=MAX_SKIPPED_NAMES)}")
    return "\n".join([*lines, *(f"note: {note}" for note in evaluation.notes)])


def format_box_summary(evaluation: EvaluationResult) -> str:
    """Whose boxes, and what became of them."""
    boxes = evaluation.detections
    if boxes is None:
        return "true boxes"
    left_out = "".join(f" + {count:,} of {why}" for why, count in boxes.skipped_counts.items())
    return (
        f"a detector's, {evaluation.eval_spec.detections_path}: {boxes.num_read:,} read = "
        f"{len(boxes.score):,} used{left_out or ' + 0 left out'}"
    )


def format_decode_settings(model_evaluation: ModelEvaluation, evaluation: EvaluationResult) -> str:
    """How a model's heatmaps were read, and what was done with its poses."""
    spec, assessment = model_evaluation.spec, model_evaluation.metrics
    said = f"decode {spec.decode}, flip test {'on' if spec.flip_test else 'off'}"
    if assessment.primary_metric == "OKS_AP":
        said += (
            f", OKS-NMS {evaluation.eval_spec.nms_oks:g} "
            f"({assessment.num_nms_dropped:,} of {len(model_evaluation.split_poses.poses):,} poses dropped), "
            "score = box x mean height of keypoints above 0.2"
        )
    return said


def format_primary_metric(evaluation: EvaluationResult) -> list[str]:
    """The main figure with its interval, and the comparison."""
    judged, question = evaluation.model_evaluation, evaluation.eval_spec
    percent, main = f"{100 * question.confidence:g} %", judged.metrics.primary_metric
    lines = [
        f"{main} {judged.metrics.primary_value:.4f}, {percent} interval "
        f"{judged.interval.low:.4f} to {judged.interval.high:.4f} "
        f"({question.resamples:,} draws of {len(evaluation.ground_truth.image_names):,} pictures)"
    ]
    if evaluation.comparison:
        lines.append(format_comparison(evaluation.comparison, evaluation))
    return lines


def format_comparison(comparison: ModelComparison, evaluation: EvaluationResult) -> str:
    """Both models in two lines, and whether one is better."""
    other, low, high = comparison.baseline, comparison.interval.low, comparison.interval.high
    percent, main = (
        f"{100 * comparison.interval.confidence:g} %",
        evaluation.model_evaluation.metrics.primary_metric,
    )
    better = "better" if comparison.difference > 0 else "worse"
    sentence = (
        f"beyond noise: {evaluation.model_evaluation.name} is {better}"
        if comparison.is_significant
        else "within noise: these pictures cannot tell the two apart"
    )
    return (
        f"against {other.name} ({format_decode_settings(other, evaluation)}):\n"
        f"{main} {other.metrics.primary_value:.4f}, difference {comparison.difference:+.4f}, {percent} "
        f"interval {low:+.4f} to {high:+.4f}\n{sentence}"
    )


def format_pckh_table(table: Mapping[str, float]) -> str:
    """PCKh in percent, in the columns of the papers."""
    names = [*PCKH_TABLE_COLUMNS, "Mean", "Mean@0.1"]
    widths = [max(len(name), 5) for name in names]
    heads = " | ".join(name.rjust(width) for name, width in zip(names, widths, strict=True))
    cells = " | ".join(
        f"{table[name]:.3f}".rjust(width) for name, width in zip(names, widths, strict=True)
    )
    rule = "-|-".join("-" * width for width in widths)
    return (
        "PCKh in percent, in the published columns (Mean@0.1 is taken at 0.11, as published)\n"
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
    assessment = evaluation.model_evaluation.metrics
    scores = assessment.per_keypoint
    width = max(len("keypoint"), *map(len, scores))
    kind = assessment.primary_metric.split("_")[0]
    title = f"{'keypoint':<{width}}{kind:>9}{'EPE px':>9}{'count':>8}"
    if "instances_matched" in assessment.summary:
        title += (
            f"   (of {assessment.summary['instances_matched']:,.0f} of "
            f"{len(evaluation.ground_truth):,} instances that match at OKS 0.5)"
        )
    lines = [
        f"{name:<{width}}{score.score:>9.4f}{score.epe_px:>9.2f}{score.visible_count:>8,}"
        for name, score in scores.items()
    ]
    return "\n".join([title, *lines])


def _format_remaining_metrics(evaluation: EvaluationResult) -> str:
    """What no table has shown."""
    told = ("PCK", "EPE", "OKS_AP_without")
    summary = evaluation.model_evaluation.metrics.summary
    named = {name: value for name, value in summary.items() if name.startswith(told)}
    return "\n".join(f"{name:<20}{value:>9.4f}" for name, value in named.items())


def to_json_dict(evaluation: EvaluationResult) -> dict[str, Any]:
    """scores.json; docs/evaluate.md says what the keys mean. NaN is null."""
    judged, against = evaluation.model_evaluation, evaluation.comparison
    question, boxes = evaluation.eval_spec, evaluation.detections
    document = {
        "format": SCORES_FORMAT_VERSION,
        "data": {
            "name": evaluation.dataset_name,
            "digest": evaluation.dataset_digest,
            "split": question.split,
        },
        "read": evaluation.rows_read,
        "used": len(evaluation.ground_truth),
        "skipped": [{"id": row, "image": image} for row, image in judged.split_poses.skipped_rows],
        "pictures": len(evaluation.ground_truth.image_names),
        "boxes": {
            "kind": "true" if boxes is None else "detections",
            "file": str(question.detections_path) if boxes is not None else None,
            "read": boxes.num_read if boxes is not None else len(evaluation.ground_truth),
            "used": len(boxes.score) if boxes is not None else len(evaluation.ground_truth),
            "left_out": dict(boxes.skipped_counts) if boxes is not None else {},
        },
        "resamples": question.resamples,
        "seed": question.seed,
        "nms_oks": question.nms_oks,
        "notes": evaluation.notes,
        **_build_model_entry(judged),
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
    spec, assessment = model_evaluation.spec, model_evaluation.metrics
    return {
        "model": model_evaluation.name,
        "decode": spec.decode,
        "flip_test": spec.flip_test,
        "nms_dropped": assessment.num_nms_dropped,
        "main": assessment.primary_metric,
        "value": assessment.primary_value,
        "interval": _build_interval_entry(model_evaluation.interval),
        "summary": assessment.summary,
        "pckh_table": assessment.mpii_pckh_table,
        "oks": assessment.oks_by_sigma_set,
        "per_keypoint": {name: vars(score) for name, score in assessment.per_keypoint.items()},
        "curve": assessment.metric_curve,
    }


def _replace_nan_with_none(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _replace_nan_with_none(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_replace_nan_with_none(inner) for inner in value]
    return value


def _build_interval_entry(interval: ConfidenceInterval) -> dict[str, float]:
    return {name: getattr(interval, name) for name in ("low", "high", "confidence")}
