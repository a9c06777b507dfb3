"""An evaluation in words and in JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hrnet_ray.errors import shortened
from hrnet_ray.evaluation.model_evaluation import Comparison, Evaluation, Judged
from hrnet_ray.metrics.bootstrap import Interval
from hrnet_ray.metrics.pckh_table import COLUMNS

FORMAT = 1
"""Of scores.json: keys are added, never renamed."""

NAMED = 10  # skipped rows in the text; scores.json names all


def as_text(evaluation: Evaluation) -> str:
    """Blocks for a terminal: what was asked, the tables, and how sure the main figure is."""
    assessment = evaluation.judged.assessment
    blocks = [head(evaluation)]
    if assessment.published:
        blocks += [published_table(assessment.published)]
    if assessment.oks:
        blocks.append(_oks_table(assessment.oks))
    blocks += [_keypoints(evaluation), _rest(evaluation), *verdict(evaluation)]
    return "\n\n".join(blocks)


def head(evaluation: Evaluation) -> str:
    """What was scored, on what, and how."""
    judged, used = evaluation.judged, len(evaluation.labelled)
    skipped = judged.seen.skipped
    lines = [
        f"{evaluation.data} {evaluation.question.split}: {evaluation.read:,} read = "
        f"{used:,} used + {len(skipped):,} skipped, in {len(evaluation.labelled.pictures):,} "
        f"pictures; version {evaluation.digest[:12]}",
        f"boxes: {boxes_said(evaluation)}",
        f"{judged.name}: {how(judged, evaluation)}",
    ]
    if skipped:
        named = [f"{image} #{row}" for row, image in skipped]
        lines.append(f"skipped: {shortened(named, most=NAMED)}")
    return "\n".join([*lines, *(f"note: {note}" for note in evaluation.notes)])


def boxes_said(evaluation: Evaluation) -> str:
    """Whose boxes, and what became of them."""
    boxes = evaluation.boxes
    if boxes is None:
        return "true boxes"
    left_out = "".join(f" + {count:,} of {why}" for why, count in boxes.left_out.items())
    return (
        f"a detector's, {evaluation.question.boxes}: {boxes.read:,} read = "
        f"{len(boxes.score):,} used{left_out or ' + 0 left out'}"
    )


def how(judged: Judged, evaluation: Evaluation) -> str:
    """How a model's heatmaps were read, and what was done with its poses."""
    spec, assessment = judged.spec, judged.assessment
    said = f"decode {spec.decode}, flip test {'on' if spec.flip_test else 'off'}"
    if assessment.main == "OKS_AP":
        said += (
            f", OKS-NMS {evaluation.question.nms_oks:g} "
            f"({assessment.dropped:,} of {len(judged.seen.poses):,} poses dropped), "
            "score = box x mean height of keypoints above 0.2"
        )
    return said


def verdict(evaluation: Evaluation) -> list[str]:
    """The main figure with its interval, and the comparison."""
    judged, question = evaluation.judged, evaluation.question
    percent, main = f"{100 * question.confidence:g} %", judged.assessment.main
    lines = [
        f"{main} {judged.assessment.value:.4f}, {percent} interval "
        f"{judged.interval.low:.4f} to {judged.interval.high:.4f} "
        f"({question.resamples:,} draws of {len(evaluation.labelled.pictures):,} pictures)"
    ]
    if evaluation.against:
        lines.append(comparison(evaluation.against, evaluation))
    return lines


def comparison(against: Comparison, evaluation: Evaluation) -> str:
    """Both models in two lines, and whether one is better."""
    other, low, high = against.other, against.interval.low, against.interval.high
    percent, main = f"{100 * against.interval.confidence:g} %", evaluation.judged.assessment.main
    better = "better" if against.difference > 0 else "worse"
    sentence = (
        f"beyond noise: {evaluation.judged.name} is {better}"
        if against.beyond_noise
        else "within noise: these pictures cannot tell the two apart"
    )
    return (
        f"against {other.name} ({how(other, evaluation)}):\n"
        f"{main} {other.assessment.value:.4f}, difference {against.difference:+.4f}, {percent} "
        f"interval {low:+.4f} to {high:+.4f}\n{sentence}"
    )


def published_table(table: Mapping[str, float]) -> str:
    """PCKh in percent, in the columns of the papers."""
    names = [*COLUMNS, "Mean", "Mean@0.1"]
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


def _oks_table(sets: Mapping[str, Mapping[str, float]]) -> str:
    figures = list(next(iter(sets.values())))
    lines = [f"{'OKS sigmas':<14}" + "".join(f"{figure:>8}" for figure in figures)]
    for name, values in sets.items():
        lines.append(f"{name:<14}" + "".join(f"{values[figure]:>8.4f}" for figure in figures))
    if any(value == -1 for values in sets.values() for value in values.values()):
        lines.append("-1: there is no instance of that size (M: 32 to 96 px, L: larger)")
    return "\n".join(lines)


def _keypoints(evaluation: Evaluation) -> str:
    assessment = evaluation.judged.assessment
    scores = assessment.per_keypoint
    width = max(len("keypoint"), *map(len, scores))
    kind = assessment.main.split("_")[0]
    title = f"{'keypoint':<{width}}{kind:>9}{'EPE px':>9}{'count':>8}"
    if "instances_matched" in assessment.summary:
        title += (
            f"   (of {assessment.summary['instances_matched']:,.0f} of "
            f"{len(evaluation.labelled):,} instances that match at OKS 0.5)"
        )
    lines = [
        f"{name:<{width}}{score.value:>9.4f}{score.epe_px:>9.2f}{score.count:>8,}"
        for name, score in scores.items()
    ]
    return "\n".join([title, *lines])


def _rest(evaluation: Evaluation) -> str:
    """What no table has shown."""
    told = ("PCK", "EPE", "OKS_AP_without")
    summary = evaluation.judged.assessment.summary
    named = {name: value for name, value in summary.items() if name.startswith(told)}
    return "\n".join(f"{name:<20}{value:>9.4f}" for name, value in named.items())


def as_document(evaluation: Evaluation) -> dict[str, Any]:
    """scores.json; docs/evaluate.md says what the keys mean. NaN is null."""
    judged, against = evaluation.judged, evaluation.against
    question, boxes = evaluation.question, evaluation.boxes
    document = {
        "format": FORMAT,
        "data": {"name": evaluation.data, "digest": evaluation.digest, "split": question.split},
        "read": evaluation.read,
        "used": len(evaluation.labelled),
        "skipped": [{"id": row, "image": image} for row, image in judged.seen.skipped],
        "pictures": len(evaluation.labelled.pictures),
        "boxes": {
            "kind": "true" if boxes is None else "detections",
            "file": str(question.boxes) if boxes is not None else None,
            "read": boxes.read if boxes is not None else len(evaluation.labelled),
            "used": len(boxes.score) if boxes is not None else len(evaluation.labelled),
            "left_out": dict(boxes.left_out) if boxes is not None else {},
        },
        "resamples": question.resamples,
        "seed": question.seed,
        "nms_oks": question.nms_oks,
        "notes": evaluation.notes,
        **_model(judged),
        "against": None,
    }
    if against:
        document["against"] = {
            **_model(against.other),
            "difference": against.difference,
            "difference_interval": _bounds(against.interval),
            "beyond_noise": against.beyond_noise,
        }
    return _without_nan(document)


def _model(judged: Judged) -> dict[str, Any]:
    spec, assessment = judged.spec, judged.assessment
    return {
        "model": judged.name,
        "decode": spec.decode,
        "flip_test": spec.flip_test,
        "nms_dropped": assessment.dropped,
        "main": assessment.main,
        "value": assessment.value,
        "interval": _bounds(judged.interval),
        "summary": assessment.summary,
        "pckh_table": assessment.published,
        "oks": assessment.oks,
        "per_keypoint": {name: vars(score) for name, score in assessment.per_keypoint.items()},
        "curve": assessment.curve,
    }


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_nan(inner) for inner in value]
    return value


def _bounds(interval: Interval) -> dict[str, float]:
    return {name: getattr(interval, name) for name in ("low", "high", "confidence")}
