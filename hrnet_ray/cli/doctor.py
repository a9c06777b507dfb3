"""`hrnet-ray doctor`."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hrnet_ray.config import Cluster
from hrnet_ray.doctor.registry import CHECKS, Case, examine
from hrnet_ray.doctor.result import Finding, State
from hrnet_ray.errors import ClusterError
from hrnet_ray.text import printable

MARKS: dict[State, str] = {"ok": "ok", "careful": "careful", "wrong": "wrong", "unasked": "-"}
COLOURS: dict[State, str] = {"ok": "32", "careful": "33", "wrong": "31;1", "unasked": "2"}
NAMES = max(len(check.name) for check in CHECKS)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Look for what would trouble a run here, and give the command that puts each thing right.

    hrnet-ray doctor --config experiments/train_atrw.py --data data/atrw --cluster.storage /nfs/runs
    """

    cluster: Cluster = field(default_factory=Cluster)
    """As a run gets it: the storage is written to, the address and the MLflow server are asked."""
    data: str | None = None
    """Prepared data set to look at, a folder or a URI; by default the one of --config."""
    config: Path | None = None
    """Experiment's page (experiments/X.py) or skeleton (X.yaml) to read."""
    gpu: bool = False
    """Also take training steps on the GPU, to see how many crops fit: seconds."""
    start_ray: bool = False
    """Also start a local Ray and stop it again, about 10 s."""
    json: bool = False
    """Print one JSON object instead, for programs."""


def run(args: Args) -> int:
    """Print a line for each check, then the fixes and the count; 4 when something is wrong."""
    case = Case(
        cluster=args.cluster,
        data=args.data,
        config=args.config,
        try_gpu=args.gpu,
        start_ray=args.start_ray,
    )
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    found: list[tuple[str, Finding]] = []
    for name, finding in examine(case):
        found.append((name, finding))
        if not args.json:
            print(line(name, finding, colour=colour), flush=True)
    print(as_json(found) if args.json else ending(found))
    wrong = any(finding.state == "wrong" for _, finding in found)
    return ClusterError.exit_code if wrong else 0


def line(name: str, finding: Finding, *, colour: bool = False) -> str:
    """Its mark, its name, what was found."""
    mark = f"{MARKS[finding.state]:<9}"
    if colour:
        mark = f"\x1b[{COLOURS[finding.state]}m{mark}\x1b[0m"
    return f"{mark}{name:<{NAMES}}  {printable(finding.detail)}"


def ending(found: Iterable[tuple[str, Finding]]) -> str:
    """The fixes, each a command on a line of its own to be pasted, and the count."""
    found = list(found)
    fixes = [(name, finding) for name, finding in found if finding.fix]
    lines = ["", "To put it right:"] if fixes else []
    for name, finding in sorted(fixes, key=lambda one: one[1].state != "wrong"):
        lines += [f"  {name} ({finding.state})", f"    {printable(finding.fix)}"]
    counts = count(found)
    said = f"{len(found)} checks: {counts['ok']} ok, {counts['careful']} careful, "
    said += f"{counts['wrong']} wrong"
    said += f", {counts['unasked']} not asked for" if counts["unasked"] else ""
    return "\n".join([*lines, "", said])


def count(found: Iterable[tuple[str, Finding]]) -> Counter[State]:
    """How many checks ended how."""
    return Counter(finding.state for _, finding in found)


def as_json(found: Iterable[tuple[str, Finding]]) -> str:
    """The same for programs: `checks` in their order, and the counts."""
    found = list(found)
    checks = [{"name": name, **vars(finding)} for name, finding in found]
    counts = count(found)
    return json.dumps({"checks": checks, **{state: counts[state] for state in MARKS}}, indent=2)
