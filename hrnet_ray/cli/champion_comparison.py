"""Comparison of a candidate with the champion: the decision, its table and its tags."""

from collections.abc import Mapping
from dataclasses import dataclass

from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.evaluation.model_evaluation import EvaluationResult, ModelComparison, ModelEvaluation

MAX_DESCRIPTION_CHARS = 5000
"""Characters that MLflow allows in the description of a version."""


@dataclass(frozen=True)
class PromotionDecision:
    """Whether the candidate becomes the champion, with the reason."""

    promoted: bool
    reason: str

    def __str__(self) -> str:
        return f"{'promoted' if self.promoted else 'not promoted'}: {self.reason}"


def decide_promotion(evaluation: EvaluationResult, *, force: bool) -> PromotionDecision:
    """Promote the candidate if the interval of the paired difference lies above 0.

    Without a champion, any score above 0 is enough. `force` promotes the candidate in any case.
    """
    comparison = evaluation.comparison
    if comparison is None:
        if evaluation.model_evaluation.metrics.primary_value > 0 or force:
            return PromotionDecision(True, "there was no champion")
        return PromotionDecision(False, "its score is 0, and there is no champion to replace")
    interval = comparison.interval
    label = f"{100 * interval.confidence:g} % interval of the difference"
    if comparison.is_significant and interval.low > 0:
        return PromotionDecision(True, f"better, the {label} lies above 0")
    if interval.has_too_few_images:
        num_images = len(evaluation.ground_truth.image_names)
        reason = f"within noise, {num_images:,} images are too few to decide"
    elif interval.high < 0:
        reason = f"worse, the {label} lies below 0"
    else:
        reason = f"within noise, the {label} contains 0"
    return PromotionDecision(force, f"forced, although {reason}" if force else reason)


def format_validation_set_note(manifest: DatasetManifest, split: str, champion_tags: Mapping[str, str]) -> str:
    """Format a note if the champion was promoted on other validation rows; else return ""."""
    champion_digest = champion_tags.get("val.digest", "")
    if champion_digest in ("", manifest.splits[split].digest):
        return ""
    return "the champion was promoted on other validation rows; both are scored on these"


ComparisonRows = list[tuple[str, str, str]]


def build_comparison_rows(
    decision: PromotionDecision,
    evaluation: EvaluationResult,
    version_names: tuple[str, str],
    note: str = "",
) -> ComparisonRows:
    """Build the rows of the comparison: label, candidate, champion."""
    candidate, comparison = evaluation.model_evaluation, evaluation.comparison
    champion = comparison.baseline if comparison else None
    rows: ComparisonRows = [
        ("version", *version_names),
        ("model", candidate.name, champion.name if champion else ""),
        (candidate.metrics.primary_metric, _format_score(candidate), _format_score(champion)),
        (
            f"{100 * candidate.interval.confidence:g} % interval",
            _format_interval(candidate),
            _format_interval(champion),
        ),
    ]
    if comparison:
        rows.append(("difference", _format_difference(comparison), ""))
    num_rows = f"{len(evaluation.ground_truth):,} rows, version {evaluation.dataset_digest[:12]}"
    rows.append(("data", f"{evaluation.dataset_name} {evaluation.eval_spec.split}, {num_rows}", ""))
    if note:
        rows.append(("note", note, ""))
    return [*rows, ("decision", str(decision), "")]


def format_markdown(rows: ComparisonRows, model_card: str) -> str:
    """Format the description of the version in MLflow, whose first line its list shows."""
    decision = next(candidate for label, candidate, _ in rows if label == "decision")
    has_champion = any(champion for _, _, champion in rows)
    header = ("", "candidate", "champion" if has_champion else "")
    table = [f"| {' | '.join(_escape_markdown_cell(cell) for cell in row)} |" for row in [header, *rows]]
    text = "\n".join([f"{decision}\n", table[0], "|---|---|---|", *table[1:], f"\n{model_card}"])
    return text[:MAX_DESCRIPTION_CHARS]


def build_decision_tags(
    decision: PromotionDecision, evaluation: EvaluationResult, manifest: DatasetManifest
) -> dict[str, str]:
    """Build the tags of a version that record its comparison with the champion."""
    candidate, comparison = evaluation.model_evaluation, evaluation.comparison
    split = evaluation.eval_spec.split
    tags = {
        "promoted": "yes" if decision.promoted else "no",
        "why": decision.reason,
        candidate.metrics.primary_metric: _format_score(candidate),
        "interval": _format_interval(candidate),
        "difference": _format_difference(comparison) if comparison else "",
        "against": comparison.baseline.name if comparison else "",
        "data.name": evaluation.dataset_name,
        "data.digest": evaluation.dataset_digest,
        "val.digest": manifest.splits[split].digest,
    }
    return {name: value for name, value in tags.items() if value}


def _format_score(evaluation: ModelEvaluation | None) -> str:
    return f"{evaluation.metrics.primary_value:.4f}" if evaluation else ""


def _format_interval(evaluation: ModelEvaluation | None) -> str:
    interval = evaluation.interval if evaluation else None
    return f"{interval.low:.4f} to {interval.high:.4f}" if interval else ""


def _format_difference(comparison: ModelComparison) -> str:
    low, high = comparison.interval.low, comparison.interval.high
    return f"{comparison.difference:+.4f} ({low:+.4f} to {high:+.4f})"


def _escape_markdown_cell(cell: str) -> str:
    return cell.replace("|", "\\|")
