"""`hrnet-ray check`."""

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
from hrnet_ray.pose.augmentation import AugmentationParams
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
"""Facts, not looks: with `--strict` they are an error."""


@dataclass(frozen=True)
class CheckArgs:
    """Compare a prepared data set with its checksums, and write a page that shows what is in it."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Folder that `hrnet-ray prepare` wrote, or its URI."""
    out: Path | None = None
    """Folder for report.html, its tables and its sheets of pictures; by default DATA/check."""
    input_hw: tuple[int, int] = (256, 256)
    """Height and width of the crops that are shown, as in `data.input_hw` of a run."""
    sigma: float = 2.0
    """Width of the heatmaps that are shown, as in `heatmap.sigma` of a run."""
    seed: int = 0
    """Whose first epoch is shown, as in `seed` of a run."""
    strict: bool = False
    """End with exit code 3 where pictures cannot be read or are in two splits, instances are
    labelled twice, or a keypoint is never visible."""


def run(args: CheckArgs) -> None:
    """Verify, count, draw; print the sums, what deserves a look, and where the page is."""
    manifest = read_manifest(args.data, "DATA")
    out = _resolve_output_dir(args, manifest)
    recipe, heatmap = _build_pipeline_config(args, manifest), HeatmapConfig(sigma=args.sigma)
    verify_checksums(manifest)
    counts = compute_statistics(
        manifest, progress=lambda split: make_progress_line(f"opened {split}")
    )
    print(format_summary(manifest, counts))
    page = write_dataset_report(
        manifest,
        out,
        pipeline_config=recipe,
        sigma=heatmap.sigma,
        quantize_center=heatmap.quantize_center,
        statistics=counts,
    )
    print(format_summary_line(counts, page))
    if args.strict:
        raise_on_errors(counts, page)


def _resolve_output_dir(args: CheckArgs, manifest: DatasetManifest) -> Path:
    if args.out:
        return args.out
    if not isinstance(manifest.root, Path):
        raise UsageError(
            "a report needs a folder of this machine",
            f"{manifest.root} is elsewhere",
            "add --out DIR",
        )
    return Path(args.data) / "check"


def format_summary(manifest: DatasetManifest, counts: DatasetStatistics) -> str:
    """The sums of each split, and what deserves a look in it, with a first example."""
    lines = [
        f"{manifest.name}: {len(manifest.skeleton)} keypoints, "
        f"version {manifest.digest[:12]}, all shards as they were written"
    ]
    for name, split in counts.splits.items():
        reasons = ", ".join(
            f"{number:,} {reason}" for reason, number in split.skip_reason_counts.items()
        )
        lines.append(
            f"  {name:<6}{split.rows_read:>8,} read = {split.rows_used:,} used + "
            f"{len(split.skipped_rows):,} skipped" + (f" ({reasons})" if reasons else "")
        )
    for kind in counts.count_issues():
        for name, split in counts.splits.items():
            if spots := split.issues[kind]:
                lines.append(f"  look: {name}, {_format_issue(kind, spots)}")
    lines += [f"  look: {doubt}" for doubt in counts.skeleton_warnings]
    return "\n".join(map(escape_control_chars, lines))


def _format_issue(issue_type: IssueType, issues: Sequence[DatasetIssue]) -> str:
    first = issues[0]
    return (
        f"{issue_type}: {len(issues):,} ({first.name}{': ' if first.detail else ''}{first.detail})"
    )


def raise_on_errors(counts: DatasetStatistics, report_path: Path) -> None:
    """Raise where there is what no data set should have.

    Raises:
        DataError: there is; it is named.
    """
    found = counts.count_issues()
    if grave := [f"{kind}: {found[kind]:,}" for kind in STRICT_ISSUE_TYPES if kind in found]:
        raise DataError(
            "--strict: " + "; ".join(grave),
            f"named in {report_path.with_name('issues.csv')}",
            "correct the annotations and prepare them again, or leave out --strict",
        )


def _build_pipeline_config(
    args: CheckArgs, manifest: DatasetManifest
) -> AugmentationPipelineConfig:
    data = DataConfig(root=args.data, input_hw=args.input_hw)
    return AugmentationPipelineConfig(
        skeleton=manifest.skeleton,
        input_hw=data.input_hw,
        padding=data.padding,
        augmentation=AugmentationParams(**vars(AugmentationConfig())),
        seed=args.seed,
    )
