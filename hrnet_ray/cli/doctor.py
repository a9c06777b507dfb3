"""`hrnet-ray doctor`: check whether this machine or cluster is ready for a run."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hrnet_ray.config import ClusterConfig
from hrnet_ray.doctor.registry import CHECKS, DiagnosticContext, run_diagnostics
from hrnet_ray.doctor.result import CheckResult, CheckState
from hrnet_ray.errors import ClusterError
from hrnet_ray.text import escape_control_chars

STATE_LABELS: dict[CheckState, str] = {
    "ok": "ok",
    "careful": "careful",
    "wrong": "wrong",
    "unasked": "-",
}
STATE_COLORS: dict[CheckState, str] = {"ok": "32", "careful": "33", "wrong": "31;1", "unasked": "2"}
NAME_WIDTH = max(len(check.name) for check in CHECKS)


@dataclass(frozen=True, kw_only=True)
class DoctorArgs:
    """Check whether this machine or cluster is ready for a run, and print a fix for each problem.

    hrnet-ray doctor --config experiments/train_atrw.py --data data/atrw
    """

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Cluster settings of the run to check; its storage and its servers are tested."""
    data: str | None = None
    """Folder or URI of a prepared dataset to check; by default the one of --config."""
    config: Path | None = None
    """Experiment page (experiments/X.py) or skeleton (X.yaml) to check."""
    test_gpu: bool = False
    """Run training steps on the GPU for some seconds, to find how many crops fit."""
    start_ray: bool = False
    """Start a local Ray and stop it again, in about 10 s."""
    json: bool = False
    """Print one JSON object instead of text."""


def run(args: DoctorArgs) -> int:
    """Print a line per check, then fixes and counts; return 4 if a check found a problem."""
    context = DiagnosticContext(
        cluster=args.cluster,
        dataset_uri=args.data,
        recipe_path=args.config,
        test_gpu=args.test_gpu,
        start_ray=args.start_ray,
    )
    use_color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    results: list[tuple[str, CheckResult]] = []
    for name, result in run_diagnostics(context):
        results.append((name, result))
        if not args.json:
            print(format_result(name, result, use_color=use_color), flush=True)
    print(to_json(results) if args.json else format_fixes(results))
    is_wrong = any(result.state == "wrong" for _, result in results)
    return ClusterError.exit_code if is_wrong else 0


def format_result(name: str, result: CheckResult, *, use_color: bool = False) -> str:
    """Format one check as a line: state, name, detail."""
    label = f"{STATE_LABELS[result.state]:<9}"
    if use_color:
        label = f"\x1b[{STATE_COLORS[result.state]}m{label}\x1b[0m"
    return f"{label}{name:<{NAME_WIDTH}}  {escape_control_chars(result.detail)}"


def format_fixes(results: Iterable[tuple[str, CheckResult]]) -> str:
    """Format the fixes, each as a command on its own line, problems first, then the counts."""
    results = list(results)
    fixes = [(name, result) for name, result in results if result.fix]
    lines = ["", "Fixes:"] if fixes else []
    for name, result in sorted(fixes, key=lambda entry: entry[1].state != "wrong"):
        lines += [f"  {name} ({result.state})", f"    {escape_control_chars(result.fix)}"]
    counts = count_states(results)
    summary = f"{len(results)} checks: {counts['ok']} ok, {counts['careful']} careful, "
    summary += f"{counts['wrong']} wrong"
    summary += f", {counts['unasked']} not run" if counts["unasked"] else ""
    return "\n".join([*lines, "", summary])


def count_states(results: Iterable[tuple[str, CheckResult]]) -> Counter[CheckState]:
    """Count the checks by state."""
    return Counter(result.state for _, result in results)


def to_json(results: Iterable[tuple[str, CheckResult]]) -> str:
    """Format the results as JSON: `checks` in their order, and the count of each state."""
    results = list(results)
    checks = [{"name": name, **vars(result)} for name, result in results]
    counts = count_states(results)
    return json.dumps({"checks": checks, **{state: counts[state] for state in STATE_LABELS}}, indent=2)
