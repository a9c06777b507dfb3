"""Candidate against champion: who wins, and the table that says why."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.evaluation.model_evaluation import EvaluationResult, ModelEvaluation

MAX_DESCRIPTION_CHARS = 5000  # characters of a description in MLflow


@dataclass(frozen=True)
class PromotionDecision:
    """Whether the candidate becomes the champion, and why."""

    promoted: bool
    reason: str

    def __str__(self) -> str:
        return f"{'promoted' if self.promoted else 'not promoted'}: {self.reason}"


def decide_promotion(evaluation: EvaluationResult, *, force: bool) -> PromotionDecision:
    """Better is who is better by more than the interval of the paired difference."""
    against = evaluation.comparison
    if against is None:
        value = evaluation.model_evaluation.metrics.primary_value
        if value > 0 or force:
            return PromotionDecision(True, "there was no champion")
        return PromotionDecision(False, "it finds nothing, and no champion is better than this one")
    sure = f"{100 * against.interval.confidence:g} % interval of the difference"
    if against.is_significant and against.interval.low > 0:
        return PromotionDecision(True, f"better, the {sure} lies above 0")
    if against.interval.has_too_few_images:
        said = f"within noise, {len(evaluation.ground_truth.image_names):,} pictures are too few to tell"
        return PromotionDecision(force, f"forced, though {said}" if force else said)
    worse = against.interval.high < 0
    said = f"worse, the {sure} lies below 0" if worse else f"within noise, the {sure} holds 0"
    return PromotionDecision(force, f"forced, though {said}" if force else said)


def format_validation_set_note(
    manifest: DatasetManifest, split: str, champion_tags: Mapping[str, str]
) -> str:
    """What to know where the champion was chosen on other validation rows; else nothing."""
    before = champion_tags.get("val.digest", "")
    if before in ("", manifest.splits[split].digest):
        return ""
    return "the champion was chosen on other validation rows; both are judged on these"


ComparisonRows = list[tuple[str, str, str]]


def build_comparison_rows(
    decision: PromotionDecision,
    evaluation: EvaluationResult,
    version_names: tuple[str, str],
    note: str = "",
) -> ComparisonRows:
    """The table, line by line: what, candidate, champion. `names` are those of the versions."""
    judged, against = evaluation.model_evaluation, evaluation.comparison
    other = against.baseline if against else None
    main = judged.metrics.primary_metric
    lines: ComparisonRows = [
        ("version", *version_names),
        ("model", judged.name, other.name if other else ""),
        (main, *_format_both(_format_score, judged, other)),
        (_format_confidence_label(judged), *_format_both(_format_interval, judged, other)),
    ]
    if against:
        low, high = against.interval.low, against.interval.high
        lines.append(("difference", f"{against.difference:+.4f} ({low:+.4f} to {high:+.4f})", ""))
    rows = f"{len(evaluation.ground_truth):,} rows, version {evaluation.dataset_digest[:12]}"
    lines.append(("data", f"{evaluation.dataset_name} {evaluation.eval_spec.split}, {rows}", ""))
    if note:
        lines.append(("note", note, ""))
    return [*lines, ("verdict", str(decision), "")]


def format_table(rows: ComparisonRows) -> str:
    """For a terminal."""
    first = max(len(what) for what, _, _ in rows)
    second = max(len(one) for _, one, other in rows if other) if _has_champion(rows) else 0
    title = f"{'':<{first}}  {'candidate':<{second}}  {'champion' if _has_champion(rows) else ''}"
    body = [f"{what:<{first}}  {one:<{second}}  {other}" for what, one, other in rows]
    return "\n".join(line.rstrip() for line in [title, *body])


def format_markdown(rows: ComparisonRows, model_card: str) -> str:
    """For the page of the version in MLflow; its list of versions shows the first line."""
    verdict = next(said for what, said, _ in rows if what == "verdict")
    heads = [("", "candidate", "champion" if _has_champion(rows) else "")]
    table = [
        f"| {' | '.join(_escape_markdown_cell(cell) for cell in line)} |"
        for line in [*heads, *rows]
    ]
    text = "\n".join([f"{verdict}\n", table[0], "|---|---|---|", *table[1:], f"\n{model_card}"])
    return text[:MAX_DESCRIPTION_CHARS]


def build_decision_tags(
    decision: PromotionDecision, evaluation: EvaluationResult, manifest: DatasetManifest
) -> dict[str, str]:
    """What a version's tags say of its contest."""
    judged, against = evaluation.model_evaluation, evaluation.comparison
    split = evaluation.eval_spec.split
    tags = {
        "promoted": "yes" if decision.promoted else "no",
        "why": decision.reason,
        judged.metrics.primary_metric: _format_score(judged),
        "interval": _format_interval(judged),
        "difference": "",
        "against": "",
        "data.name": evaluation.dataset_name,
        "data.digest": evaluation.dataset_digest,
        "val.digest": manifest.splits[split].digest,
    }
    if against:
        low, high = against.interval.low, against.interval.high
        tags["difference"] = f"{against.difference:+.4f} ({low:+.4f} to {high:+.4f})"
        tags["against"] = against.baseline.name
    return {name: value for name, value in tags.items() if value}


def _format_both(
    formatter: Callable[[ModelEvaluation], str],
    candidate: ModelEvaluation,
    champion: ModelEvaluation | None,
) -> tuple[str, str]:
    return formatter(candidate), formatter(champion) if champion else ""


def _format_score(model_evaluation: ModelEvaluation) -> str:
    return f"{model_evaluation.metrics.primary_value:.4f}"


def _format_interval(model_evaluation: ModelEvaluation) -> str:
    return f"{model_evaluation.interval.low:.4f} to {model_evaluation.interval.high:.4f}"


def _format_confidence_label(model_evaluation: ModelEvaluation) -> str:
    return f"{100 * model_evaluation.interval.confidence:g} % interval"


def _has_champion(rows: Sequence[tuple[str, str, str]]) -> bool:
    return any(other for _, _, other in rows)


def _escape_markdown_cell(cell: str) -> str:
    return cell.replace("|", "\\|")
