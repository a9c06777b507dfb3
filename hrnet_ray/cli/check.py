"""`hrnet-ray check`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from hrnet_ray.config import AugmentConfig, DataConfig, HeatmapConfig
from hrnet_ray.data.manifest import Manifest, read_manifest
from hrnet_ray.data.vouch import verify
from hrnet_ray.inference.report import write_report
from hrnet_ray.inference.report_counts import FEW_KEYPOINTS, Counts, SplitCounts, count
from hrnet_ray.learning.batch import Recipe
from hrnet_ray.pose.augment import Augmentation


@dataclass(frozen=True)
class Args:
    """Compare a prepared data set with its checksums, and write a page that shows what is in it."""

    data: tyro.conf.Positional[Path]
    """Folder that `hrnet-ray prepare` wrote."""
    out: Path | None = None
    """Folder for check.html, counts.csv and two sheets of pictures; by default DATA/check."""
    input_hw: tuple[int, int] = (256, 256)
    """Height and width of the crops that are shown, as in `data.input_hw` of a run."""
    sigma: float = 2.0
    """Width of the heatmaps that are shown, as in `heatmap.sigma` of a run."""
    seed: int = 0
    """Whose first epoch is shown, as in `seed` of a run."""


def run(args: Args) -> None:
    """Verify, count, draw; print the sums and where the page is."""
    manifest = read_manifest(args.data)
    recipe, heatmap = _recipe(args, manifest), HeatmapConfig(sigma=args.sigma)
    verify(manifest)
    counts = count(manifest)
    print(as_table(manifest, counts))
    page = write_report(
        manifest,
        args.out or args.data / "check",
        recipe=recipe,
        sigma=heatmap.sigma,
        rounded=heatmap.rounded,
        counts=counts,
    )
    print(f"page: {page}")


def as_table(manifest: Manifest, counts: Counts) -> str:
    """The sums of each split, and what deserves a look."""
    lines = [
        f"{manifest.name}: {len(manifest.skeleton)} keypoints, version {manifest.digest[:12]}, "
        "all shards as they were written",
    ]
    for name, split in counts.splits.items():
        skipped = sum(split.skipped.values())
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in split.skipped.items())
        lines.append(
            f"  {name:<6}{split.read:>8,} read = {split.used:,} used + {skipped:,} skipped"
            + (f" ({reasons})" if reasons else "")
        )
    for name, split in counts.splits.items():
        lines += [f"  look: {name}, {said}" for said in _looks(split)]
    if counts.in_both.count:
        lines.append(f"  look: pictures in more than one split: {counts.in_both.count:,}")
    return "\n".join(lines)


def _looks(split: SplitCounts) -> list[str]:
    suspects = {
        "stored pictures that cannot be read": split.unreadable,
        "points outside the picture": split.outside_picture,
        "points outside their box": split.outside_box,
        f"poses with {FEW_KEYPOINTS} visible keypoints or fewer": split.few_keypoints,
    }
    return [f"{what}: {found.count:,}" for what, found in suspects.items() if found.count]


def _recipe(args: Args, manifest: Manifest) -> Recipe:
    data = DataConfig(root=str(args.data), input_hw=args.input_hw)
    return Recipe(
        skeleton=manifest.skeleton,
        input_hw=data.input_hw,
        padding=data.padding,
        augmentation=Augmentation(**vars(AugmentConfig())),
        seed=args.seed,
    )
