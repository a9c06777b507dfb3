"""`hrnet-ray doctor`."""

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
    """Look for what would trouble a run here, and give the command that puts each thing right.

    hrnet-ray doctor --config experiments/train_atrw.py --data data/atrw --cluster.storage-path /nfs/runs
    """

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """As a run gets it: the storage is written to, the address and the MLflow server are asked."""
    data: str | None = None
    """Prepared data set to look at, a folder or a URI; by default the one of --config."""
    config: Path | None = None
    """Experiment's page (experiments/X.py) or skeleton (X.yaml) to read."""
    test_gpu: bool = False
    """Also take training steps on the GPU, to see how many crops fit: seconds."""
    start_ray: bool = False
    """Also start a local Ray and stop it again, about 10 s."""
    json: bool = False
    """Print one JSON object instead, for programs."""


def run(args: DoctorArgs) -> int:
    """Print a line for each check, then the fixes and the count; 4 when something is wrong."""
    case = DiagnosticContext(
        cluster=args.cluster,
        dataset_uri=args.data,
        recipe_path=args.config,
        test_gpu=args.test_gpu,
        start_ray=args.start_ray,
    )
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    found: list[tuple[str, CheckResult]] = []
    for name, finding in run_diagnostics(case):
        found.append((name, finding))
        if not args.json:
            print(format_result(name, finding, use_color=colour), flush=True)
    print(to_json(found) if args.json else format_fixes(found))
    wrong = any(finding.state == "wrong" for _, finding in found)
    return ClusterError.exit_code if wrong else 0


def format_result(name: str, result: CheckResult, *, use_color: bool = False) -> str:
    """Its mark, its name, what was found."""
    mark = f"{STATE_LABELS[result.state]:<9}"
    if use_color:
        mark = f"\x1b[{STATE_COLORS[result.state]}m{mark}\x1b[0m"
    return f"{mark}{name:<{NAME_WIDTH}}  {escape_control_chars(result.detail)}"


def format_fixes(results: Iterable[tuple[str, CheckResult]]) -> str:
    """The fixes, each a command on a line of its own to be pasted, and the count."""
    results = list(results)
    fixes = [(name, finding) for name, finding in results if finding.fix]
    lines = ["", "To put it right:"] if fixes else []
    for name, finding in sorted(fixes, key=lambda one: one[1].state != "wrong"):
        lines += [f"  {name} ({finding.state})", f"    {escape_control_chars(finding.fix)}"]
    counts = count_states(results)
    said = f"{len(results)} checks: {counts['ok']} ok, {counts['careful']} careful, "
    said += f"{counts['wrong']} wrong"
    said += f", {counts['unasked']} not asked for" if counts["unasked"] else ""
    return "\n".join([*lines, "", said])


def count_states(results: Iterable[tuple[str, CheckResult]]) -> Counter[CheckState]:
    """How many checks ended how."""
    return Counter(finding.state for _, finding in results)


def to_json(results: Iterable[tuple[str, CheckResult]]) -> str:
    """The same for programs: `checks` in their order, and the counts."""
    results = list(results)
    checks = [{"name": name, **vars(finding)} for name, finding in results]
    counts = count_states(results)
    return json.dumps(
        {"checks": checks, **{state: counts[state] for state in STATE_LABELS}}, indent=2
    )
