"""`hrnet-ray doctor`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.errors import ClusterError
from hrnet_ray.runtime.doctor import Finding, examine

WORDS = {True: "ok", None: "warn", False: "FIX"}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Look for what would trouble a run on this machine, and say how to put it right."""

    storage: Path = Path("runs")
    """Folder for runs and checkpoints, as in `cluster.storage` of a run."""
    tracking_uri: str | None = None
    """MLflow server to ask; without one, nothing is asked over the network."""
    start_ray: bool = False
    """Also start a local Ray and stop it again, about 10 s."""


def run(args: Args) -> int:
    """Print a line for each finding; 4 when something is broken."""
    findings = examine(args.storage, args.tracking_uri, start_ray=args.start_ray)
    print(as_lines(findings))
    return 0 if all(finding.ok is not False for finding in findings) else ClusterError.exit_code


def as_lines(findings: Sequence[Finding]) -> str:
    """`ok`, `warn` or `FIX`, the name, what was found; the fix below."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{WORDS[finding.ok]:<6}{finding.name:<{width}}  {finding.detail}")
        if finding.ok is not True and finding.fix:
            lines.append(f"{'':<6}{'':<{width}}  fix: {finding.fix}")
    return "\n".join(lines)
