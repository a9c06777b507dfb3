"""`hrnet-ray check`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hrnet_ray.config import AugmentConfig, DataConfig, HeatmapConfig
from hrnet_ray.data.batch import Recipe
from hrnet_ray.data.integrity import verify
from hrnet_ray.data.manifest import Manifest, read_manifest
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.pose.augmentation import Augmentation
from hrnet_ray.reports.dataset.dataset_report import closing, write_report
from hrnet_ray.reports.dataset.issues import Kind, Spot
from hrnet_ray.reports.dataset.statistics import Counts, count
from hrnet_ray.runs.progress import counter
from hrnet_ray.text import printable

GRAVE = (Kind.UNREADABLE, Kind.IN_BOTH, Kind.TWINS, Kind.NEVER)
"""Facts, not looks: with `--strict` they are an error."""


@dataclass(frozen=True)
class Args:
    """Compare a prepared data set with its checksums, and write a page that shows what is in it."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Folder that `hrnet-ray prepare` wrote, or its URI."""
    out: Path | None = None
    """Folder for check.html, its tables and its sheets of pictures; by default DATA/check."""
    input_hw: tuple[int, int] = (256, 256)
    """Height and width of the crops that are shown, as in `data.input_hw` of a run."""
    sigma: float = 2.0
    """Width of the heatmaps that are shown, as in `heatmap.sigma` of a run."""
    seed: int = 0
    """Whose first epoch is shown, as in `seed` of a run."""
    strict: bool = False
    """End with exit code 3 where pictures cannot be read or are in two splits, instances are
    labelled twice, or a keypoint is never visible."""


def run(args: Args) -> None:
    """Verify, count, draw; print the sums, what deserves a look, and where the page is."""
    manifest = read_manifest(args.data, "DATA")
    out = _out(args, manifest)
    recipe, heatmap = _recipe(args, manifest), HeatmapConfig(sigma=args.sigma)
    verify(manifest)
    counts = count(manifest, progress=lambda split: counter(f"opened {split}"))
    print(as_table(manifest, counts))
    page = write_report(
        manifest, out, recipe=recipe, sigma=heatmap.sigma, rounded=heatmap.rounded, counts=counts
    )
    print(closing(counts, page))
    if args.strict:
        refuse_grave(counts, page)


def _out(args: Args, manifest: Manifest) -> Path:
    if args.out:
        return args.out
    if not isinstance(manifest.root, Path):
        raise UsageError(
            "a report needs a folder of this machine",
            f"{manifest.root} is elsewhere",
            "add --out DIR",
        )
    return Path(args.data) / "check"


def as_table(manifest: Manifest, counts: Counts) -> str:
    """The sums of each split, and what deserves a look in it, with a first example."""
    lines = [
        f"{manifest.name}: {len(manifest.skeleton)} keypoints, "
        f"version {manifest.digest[:12]}, all shards as they were written"
    ]
    for name, split in counts.splits.items():
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in split.reasons.items())
        lines.append(
            f"  {name:<6}{split.read:>8,} read = {split.used:,} used + "
            f"{len(split.skipped):,} skipped" + (f" ({reasons})" if reasons else "")
        )
    for kind in counts.worth_a_look():
        for name, split in counts.splits.items():
            if spots := split.findings[kind]:
                lines.append(f"  look: {name}, {_look(kind, spots)}")
    lines += [f"  look: {doubt}" for doubt in counts.doubts]
    return "\n".join(map(printable, lines))


def _look(kind: Kind, spots: Sequence[Spot]) -> str:
    first = spots[0]
    return f"{kind}: {len(spots):,} ({first.name}{': ' if first.detail else ''}{first.detail})"


def refuse_grave(counts: Counts, page: Path) -> None:
    """Raise where there is what no data set should have.

    Raises:
        DataError: there is; it is named.
    """
    found = counts.worth_a_look()
    if grave := [f"{kind}: {found[kind]:,}" for kind in GRAVE if kind in found]:
        raise DataError(
            "--strict: " + "; ".join(grave),
            f"named in {page.with_name('suspects.csv')}",
            "correct the annotations and prepare them again, or leave out --strict",
        )


def _recipe(args: Args, manifest: Manifest) -> Recipe:
    data = DataConfig(root=args.data, input_hw=args.input_hw)
    return Recipe(
        skeleton=manifest.skeleton,
        input_hw=data.input_hw,
        padding=data.padding,
        augmentation=Augmentation(**vars(AugmentConfig())),
        seed=args.seed,
    )
