"""`hrnet-ray check`: verify a prepared dataset and write a report of its contents."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hrnet_ray.config import AugmentationConfig, DataConfig, HeatmapConfig
from hrnet_ray.data.batch import AugmentationPipelineConfig
from hrnet_ray.data.integrity import verify_checksums
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.reports.dataset.dataset_report import format_summary_line, write_dataset_report
from hrnet_ray.reports.dataset.issues import DatasetIssue, IssueType
from hrnet_ray.reports.dataset.statistics import DatasetStatistics, compute_statistics
from hrnet_ray.runs.progress import make_progress_line
from hrnet_ray.text import escape_control_chars

STRICT_ISSUE_TYPES = (
    IssueType.UNREADABLE_IMAGE,
    IssueType.IMAGE_IN_OTHER_SPLIT,
    IssueType.DUPLICATE_INSTANCE,
    IssueType.KEYPOINT_NEVER_VISIBLE,
)
"""The issue types that are errors under `--strict`."""


@dataclass(frozen=True)
class CheckArgs:
    """Verify the checksums of a prepared dataset and write a report of its contents."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Folder or URI of a dataset that `hrnet-ray prepare` wrote."""
    out: Path | None = None
    """Folder for report.html, its tables and its image grids; by default DATA/check."""
    input_hw: tuple[int, int] = (256, 256)
    """Height and width of the crops in the report, as `data.input_hw` of a run."""
    sigma: float = 2.0
    """Heatmap sigma of the targets in the report, as `heatmap.sigma` of a run."""
    seed: int = 0
    """Seed of the augmented samples in the report, as `seed` of a run."""
    strict: bool = False
    """End with exit code 3 if an image is unreadable or in two splits, an instance is labelled
    twice, or a keypoint is never visible."""


def run(args: CheckArgs) -> None:
    """Verify the checksums, print counts and issues, and write the report."""
    manifest = read_manifest(args.data, "DATA")
    out = _resolve_output_dir(args, manifest)
    pipeline, heatmap = _build_pipeline_config(args, manifest), HeatmapConfig(sigma=args.sigma)
    verify_checksums(manifest)
    statistics = compute_statistics(manifest, progress=lambda split: make_progress_line(f"opened {split}"))
    print(format_summary(manifest, statistics))
    report_path = write_dataset_report(
        manifest,
        out,
        pipeline_config=pipeline,
        sigma=heatmap.sigma,
        quantize_center=heatmap.quantize_center,
        statistics=statistics,
    )
    print(format_summary_line(statistics, report_path))
    if args.strict:
        raise_on_errors(statistics, report_path)


def _resolve_output_dir(args: CheckArgs, manifest: DatasetManifest) -> Path:
    if args.out:
        return args.out
    if not isinstance(manifest.root, Path):
        raise UsageError(
            "--out must be given for a dataset in remote storage",
            f"DATA {manifest.root}",
            "add --out DIR with a local folder",
        )
    return Path(args.data) / "check"


def format_summary(manifest: DatasetManifest, statistics: DatasetStatistics) -> str:
    """Format the row counts of each split and its issues, each with a first example."""
    lines = [
        f"{manifest.name}: {len(manifest.skeleton)} keypoints, version {manifest.digest[:12]}, all checksums match"
    ]
    for name, split in statistics.splits.items():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in split.skip_reason_counts.items())
        lines.append(
            f"  {name:<6}{split.rows_read:>8,} read = {split.rows_used:,} used + "
            f"{len(split.skipped_rows):,} skipped" + (f" ({reasons})" if reasons else "")
        )
    for issue_type in statistics.count_issues():
        for name, split in statistics.splits.items():
            if issues := split.issues[issue_type]:
                lines.append(f"  issue: {name}, {_format_issue(issue_type, issues)}")
    lines += [f"  issue: {warning}" for warning in statistics.skeleton_warnings]
    return "\n".join(map(escape_control_chars, lines))


def _format_issue(issue_type: IssueType, issues: Sequence[DatasetIssue]) -> str:
    first = issues[0]
    return f"{issue_type}: {len(issues):,} ({first.name}{': ' if first.detail else ''}{first.detail})"


def raise_on_errors(statistics: DatasetStatistics, report_path: Path) -> None:
    """Raise if the dataset has issues that `--strict` forbids.

    Raises:
        DataError: the dataset has such issues; the message names and counts them.
    """
    counts = statistics.count_issues()
    if errors := [f"{kind}: {counts[kind]:,}" for kind in STRICT_ISSUE_TYPES if kind in counts]:
        raise DataError(
            "--strict: " + "; ".join(errors),
            f"listed in {report_path.with_name('issues.csv')}",
            "correct the annotations and prepare them again, or omit --strict",
        )


def _build_pipeline_config(args: CheckArgs, manifest: DatasetManifest) -> AugmentationPipelineConfig:
    data = DataConfig(root=args.data, input_hw=args.input_hw)
    return AugmentationPipelineConfig(
        skeleton=manifest.skeleton,
        input_hw=data.input_hw,
        padding=data.padding,
        augmentation=AugmentationConfig(),
        seed=args.seed,
    )
