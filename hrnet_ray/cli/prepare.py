"""`hrnet-ray prepare coco|mpii|synthetic`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hrnet_ray import skeletons
from hrnet_ray.data import rows
from hrnet_ray.data.coco import read_coco
from hrnet_ray.data.labels import Labels, check_file, check_folder
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.data.mpii import read_mpii
from hrnet_ray.data.prepare import prepare
from hrnet_ray.data.shards import Progress
from hrnet_ray.data.sources import Source, shared_pictures, split_by_picture
from hrnet_ray.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Output:
    """What all sources have in common."""

    out: Path
    """Folder to write: train/, val/, manifest.json, skipped.csv."""
    name: str | None = None
    """Name of the data set; by default the folder's."""
    canvas: int = rows.CANVAS_PX
    """Longest side of a stored training picture, in pixels."""
    skip_missing: bool = False
    """Leave out pictures that are not there (they are listed in skipped.csv)."""
    skip_broken: bool = False
    """Leave out pictures that cannot be read (they are listed in skipped.csv)."""


@dataclass(frozen=True, kw_only=True)
class Coco(Output):
    """COCO keypoints: COCO, ATRW, AP-10K, exports of CVAT and Label Studio."""

    images: Path
    """Folder that the file names in the annotations start from."""
    annotations: Path
    skeleton: str | None = None
    """mpii, atrw, coco, or a YAML file; by default the annotations' own category."""
    val_annotations: Path | None = None
    """Without it, `val_share` of the pictures are kept for validation."""
    val_images: Path | None = None
    """By default the same folder as `images`."""
    val_share: float = 0.1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Mpii(Output):
    """MPII as the HRNet authors ship it: train.json, valid.json, gt_valid.mat."""

    images: Path
    annotations: Path
    val_annotations: Path | None = None
    gt_valid: Path | None = None
    """Truth and head sizes of the published evaluation, for `val_annotations`."""
    val_images: Path | None = None
    val_share: float = 0.1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Synthetic(Output):
    """Drawn tigers or people: to try things out without any data."""

    kind: Literal["tigers", "people"] = "tigers"
    train: int = 400
    """Training pictures; a picture of tigers has one to three."""
    val: int = 80
    seed: int = 0


Args = (
    Annotated[Coco, tyro.conf.subcommand("coco")]
    | Annotated[Mpii, tyro.conf.subcommand("mpii")]
    | Annotated[Synthetic, tyro.conf.subcommand("synthetic")]
)


def run(args: Coco | Mpii | Synthetic) -> None:
    """Write the data set and say what is in it."""
    if args.canvas < 1:
        raise UsageError(
            "a canvas without pixels", f"--canvas {args.canvas}", f"such as {rows.CANVAS_PX}"
        )
    if isinstance(args, Synthetic):
        args = draw(args)
    sources = _sources(args)
    manifest = prepare(
        sources,
        out=args.out,
        name=args.name or args.out.resolve().name,
        canvas_px=args.canvas,
        skip_missing=args.skip_missing,
        skip_broken=args.skip_broken,
        progress=counter,
    )
    _tell(manifest, sources)


def draw(args: Synthetic) -> Coco | Mpii:
    """Draw pictures in the layout of ATRW or MPII; the same readers take them from there."""
    from hrnet_ray.data.synthetic import write_people, write_tigers

    raw = args.out / "pictures"
    common = {field: getattr(args, field) for field in ("out", "name", "canvas")}
    count = counter("drawn")
    if args.kind == "tigers":
        write_tigers(raw, train=args.train, val=args.val, seed=args.seed, progress=count)
        return Coco(
            images=raw / "images" / "train",
            annotations=raw / "annotations" / "keypoint_train.json",
            val_images=raw / "images" / "val",
            val_annotations=raw / "annotations" / "keypoint_val.json",
            skeleton="atrw",
            **common,
        )
    write_people(raw, train=args.train, val=args.val, seed=args.seed, progress=count)
    return Mpii(
        images=raw / "images",
        annotations=raw / "annot" / "train.json",
        val_annotations=raw / "annot" / "valid.json",
        gt_valid=raw / "annot" / "gt_valid.mat",
        **common,
    )


def counter(what: str) -> Progress:
    """A progress line: on a terminal it counts in place, elsewhere it speaks now and then."""
    started = spoke = time.monotonic()

    def count(done: int, total: int) -> None:
        nonlocal spoke
        now = time.monotonic()
        last, live = done == total, sys.stdout.isatty()
        if not last and now - spoke < (0.2 if live else 10):
            return
        spoke = now
        rate = done / max(1e-9, now - started)
        line = f"{what:<6} {done:>6,}/{total:,}  {rate:.0f}/s  {(total - done) / rate:.0f} s left"
        print(f"\r\033[K{line}" if live else line, end="\n" if last or not live else "", flush=True)

    return count


def _sources(args: Coco | Mpii) -> dict[str, Source]:
    _check(args)
    val_images = args.val_images or args.images
    train, val = _read_both(args)
    if val is None:
        train, val = split_by_picture(train, val_share=args.val_share, seed=args.seed)
    return {"train": Source(train, args.images), "val": Source(val, val_images)}


def _check(args: Coco | Mpii) -> None:
    """Refuse what does not go together, by the flags' own names."""
    check_folder(args.images, "--images")
    if args.val_annotations is not None:
        check_file(args.val_annotations, "--val-annotations")
        check_folder(args.val_images or args.images, "--val-images")
        return
    gt_valid = args.gt_valid if isinstance(args, Mpii) else None
    for flag, given in (("--val-images", args.val_images), ("--gt-valid", gt_valid)):
        if given is not None:
            raise UsageError(
                f"{flag} without --val-annotations", f"{flag} {given}", "name both, or neither"
            )
    if not 0 < args.val_share < 1:
        raise UsageError(
            "a share that leaves nothing to learn or nothing to score",
            f"--val-share {args.val_share}",
            "give a number between 0 and 1, such as 0.1",
        )


def _read_both(args: Coco | Mpii) -> tuple[Labels, Labels | None]:
    if isinstance(args, Mpii):
        if args.val_annotations is None:
            return read_mpii(args.annotations), None
        return read_mpii(args.annotations), read_mpii(args.val_annotations, gt_valid=args.gt_valid)
    skeleton = skeletons.named(args.skeleton) if args.skeleton else None
    train = read_coco(args.annotations, skeleton=skeleton)
    if args.val_annotations is None:
        return train, None
    return train, read_coco(args.val_annotations, skeleton=skeleton or train.skeleton)


def _tell(manifest: Manifest, sources: dict[str, Source]) -> None:
    print(f"{manifest.name}: {len(manifest.skeleton)} keypoints, version {manifest.digest[:12]}")
    for name, split in manifest.splits.items():
        print(
            f"  {name:<6}{split.read:,} read = {split.rows:,} used + {split.skipped:,} skipped"
            + (" (see skipped.csv)" if split.skipped else "")
        )
        for note in split.notes:
            print(f"  note: {note}")
    if both := shared_pictures(sources["train"], sources["val"]):
        print(f"  note: {len(both):,} pictures are in both splits; scores on them say little")
    print(f"next: hrnet-ray check {manifest.root}")
