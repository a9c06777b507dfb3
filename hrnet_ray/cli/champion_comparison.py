"""Candidate against champion: who wins, and the table that says why."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hrnet_ray.data.manifest import Manifest
from hrnet_ray.evaluation.model_evaluation import Evaluation, Judged

LONGEST = 5000  # characters of a description in MLflow


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate becomes the champion, and why."""

    promoted: bool
    why: str

    def __str__(self) -> str:
        return f"{'promoted' if self.promoted else 'not promoted'}: {self.why}"


def decide(evaluation: Evaluation, *, forced: bool) -> Verdict:
    """Better is who is better by more than the interval of the paired difference."""
    against = evaluation.against
    if against is None:
        value = evaluation.judged.assessment.value
        if value > 0 or forced:
            return Verdict(True, "there was no champion")
        return Verdict(False, "it finds nothing, and no champion is better than this one")
    sure = f"{100 * against.interval.confidence:g} % interval of the difference"
    if against.beyond_noise and against.interval.low > 0:
        return Verdict(True, f"better, the {sure} lies above 0")
    if against.interval.few:
        said = f"within noise, {len(evaluation.labelled.pictures):,} pictures are too few to tell"
        return Verdict(forced, f"forced, though {said}" if forced else said)
    worse = against.interval.high < 0
    said = f"worse, the {sure} lies below 0" if worse else f"within noise, the {sure} holds 0"
    return Verdict(forced, f"forced, though {said}" if forced else said)


def other_rows(manifest: Manifest, split: str, champion_tags: Mapping[str, str]) -> str:
    """What to know where the champion was chosen on other validation rows; else nothing."""
    before = champion_tags.get("val.digest", "")
    if before in ("", manifest.splits[split].digest):
        return ""
    return "the champion was chosen on other validation rows; both are judged on these"


Lines = list[tuple[str, str, str]]


def lines_of(
    verdict: Verdict, evaluation: Evaluation, names: tuple[str, str], note: str = ""
) -> Lines:
    """The table, line by line: what, candidate, champion. `names` are those of the versions."""
    judged, against = evaluation.judged, evaluation.against
    other = against.other if against else None
    main = judged.assessment.main
    lines: Lines = [
        ("version", *names),
        ("model", judged.name, other.name if other else ""),
        (main, *_both(_value, judged, other)),
        (_percent(judged), *_both(_interval, judged, other)),
    ]
    if against:
        low, high = against.interval.low, against.interval.high
        lines.append(("difference", f"{against.difference:+.4f} ({low:+.4f} to {high:+.4f})", ""))
    rows = f"{len(evaluation.labelled):,} rows, version {evaluation.digest[:12]}"
    lines.append(("data", f"{evaluation.data} {evaluation.question.split}, {rows}", ""))
    if note:
        lines.append(("note", note, ""))
    return [*lines, ("verdict", str(verdict), "")]


def as_table(lines: Lines) -> str:
    """For a terminal."""
    first = max(len(what) for what, _, _ in lines)
    second = max(len(one) for _, one, other in lines if other) if _paired(lines) else 0
    title = f"{'':<{first}}  {'candidate':<{second}}  {'champion' if _paired(lines) else ''}"
    body = [f"{what:<{first}}  {one:<{second}}  {other}" for what, one, other in lines]
    return "\n".join(line.rstrip() for line in [title, *body])


def as_markdown(lines: Lines, card: str) -> str:
    """For the page of the version in MLflow; its list of versions shows the first line."""
    verdict = next(said for what, said, _ in lines if what == "verdict")
    heads = [("", "candidate", "champion" if _paired(lines) else "")]
    table = [f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in [*heads, *lines]]
    text = "\n".join([f"{verdict}\n", table[0], "|---|---|---|", *table[1:], f"\n{card}"])
    return text[:LONGEST]


def tags_of(verdict: Verdict, evaluation: Evaluation, manifest: Manifest) -> dict[str, str]:
    """What a version's tags say of its contest."""
    judged, against = evaluation.judged, evaluation.against
    split = evaluation.question.split
    tags = {
        "promoted": "yes" if verdict.promoted else "no",
        "why": verdict.why,
        judged.assessment.main: _value(judged),
        "interval": _interval(judged),
        "difference": "",
        "against": "",
        "data.name": evaluation.data,
        "data.digest": evaluation.digest,
        "val.digest": manifest.splits[split].digest,
    }
    if against:
        low, high = against.interval.low, against.interval.high
        tags["difference"] = f"{against.difference:+.4f} ({low:+.4f} to {high:+.4f})"
        tags["against"] = against.other.name
    return {name: value for name, value in tags.items() if value}


def _both(tell: Callable[[Judged], str], judged: Judged, other: Judged | None) -> tuple[str, str]:
    return tell(judged), tell(other) if other else ""


def _value(judged: Judged) -> str:
    return f"{judged.assessment.value:.4f}"


def _interval(judged: Judged) -> str:
    return f"{judged.interval.low:.4f} to {judged.interval.high:.4f}"


def _percent(judged: Judged) -> str:
    return f"{100 * judged.interval.confidence:g} % interval"


def _paired(lines: Sequence[tuple[str, str, str]]) -> bool:
    return any(other for _, _, other in lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
