"""`hrnet-ray prepare coco|yolo|dlc|atrw|mpii|synthetic`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import tyro

from hrnet_ray.cli.prepare_args import Atrw, Coco, Dlc, Mpii, Output, Synthetic, Yolo
from hrnet_ray.cli.prepare_sources import (
    converted,
    dlc_sources,
    downloaded,
    draw,
    noted,
    sources_of,
)
from hrnet_ray.data import records
from hrnet_ray.data.dataset_preparation import Make, make_here, prepare
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.data.shards import ShardReport, ShardTask, Tell
from hrnet_ray.data.splits import Source, shared_pictures
from hrnet_ray.data.storage import open_folder
from hrnet_ray.errors import UsageError
from hrnet_ray.runs.progress import counter
from hrnet_ray.skeletons import DEFAULT_OKS_SIGMA, SKELETONS, Skeleton
from hrnet_ray.text import printable

MANY = 2_000
"""Instances from which on Ray is worth its start."""

Args = (
    Annotated[Coco, tyro.conf.subcommand("coco")]
    | Annotated[Yolo, tyro.conf.subcommand("yolo")]
    | Annotated[Dlc, tyro.conf.subcommand("dlc")]
    | Annotated[Atrw, tyro.conf.subcommand("atrw")]
    | Annotated[Mpii, tyro.conf.subcommand("mpii")]
    | Annotated[Synthetic, tyro.conf.subcommand("synthetic")]
)


def run(args: Coco | Yolo | Dlc | Atrw | Mpii | Synthetic) -> None:
    """Write the data set and say what is in it."""
    if args.canvas < 1:
        raise UsageError(
            "a canvas without pixels", f"--canvas {args.canvas}", f"such as {records.CANVAS_PX}"
        )
    if isinstance(args, Synthetic):
        args = draw(args, progress=counter("drawn"))
    notes: list[str] = []
    if isinstance(args, Yolo):
        args, notes = converted(args, progress=counter("read"))
    if isinstance(args, Atrw):
        args = downloaded(args, progress=counter("unpacked"))
    if isinstance(args, Dlc):
        sources = dlc_sources(args, progress=counter("read"))
    else:
        sources = noted(sources_of(args, progress=counter("unpacked")), notes)
    manifest = prepare(
        sources,
        out=args.out,
        name=args.name or open_folder(args.out, "--out").name,
        canvas_px=args.canvas,
        shard_rows=args.shard_rows,
        exact=args.exact,
        skip_missing=args.skip_missing,
        skip_broken=args.skip_broken,
        make=_maker(args, sources),
        progress=counter,
        say=lambda said: print(f"  {said}"),
    )
    _tell(manifest, sources)


def _maker(args: Output, sources: Mapping[str, Source]) -> Make:
    """Who makes the shards: a cluster where one is named, Ray on this machine for large sets."""
    address = args.address or os.environ.get("RAY_ADDRESS")
    instances = sum(len(source.labels.instances) for source in sources.values())
    return _ray_maker(address) if address or instances > MANY else make_here


def _ray_maker(address: str | None) -> Make:
    """Starts Ray, or joins it, with the first shard: often all of them are there already."""
    where = ""

    def make(tasks: Sequence[ShardTask], tell: Tell) -> Iterable[ShardReport]:
        nonlocal where
        if not tasks:
            return ()
        from hrnet_ray.distributed.data.shard_tasks import connect_to, make_on_ray

        if not where:
            where = connect_to(address)
            print(f"  on Ray: {where}", flush=True)
        return make_on_ray(tasks, tell)

    return make


def _about_sigmas(skeleton: Skeleton) -> str:
    """By what OKS will measure, where that was not asked for by name."""
    known = next((one for one in SKELETONS.values() if one.keypoints == skeleton.keypoints), None)
    if known and known.oks_sigmas == skeleton.oks_sigmas:
        taken = known.oks_sigmas and known.name != skeleton.name
        return f"its keypoints are those of {known.name!r}: OKS uses their sigmas" if taken else ""
    if skeleton.oks_sigmas:
        return ""
    return (
        f"no sigmas are given: OKS uses {DEFAULT_OKS_SIGMA:g} for each keypoint (a --skeleton in "
        "YAML may have `oks_sigmas`)"
    )


def _tell(manifest: Manifest, sources: dict[str, Source]) -> None:
    print(f"{manifest.name}: {len(manifest.skeleton)} keypoints, version {manifest.digest[:12]}")
    for name, split in manifest.splits.items():
        print(
            f"  {name:<6}{split.read:,} read = {split.rows:,} used + {split.skipped:,} skipped"
            + (" (see skipped.csv)" if split.skipped else "")
        )
        for note in split.notes:
            print(f"  note: {printable(note)}")
    if note := _about_sigmas(manifest.skeleton):
        print(f"  note: {note}")
    if both := shared_pictures(sources["train"], sources["val"]):
        print(f"  note: {len(both):,} pictures are in both splits; scores on them say little")
    aside = "" if manifest.folder.is_local else f" --out runs/check-{manifest.name}"
    print(f"next: hrnet-ray check {manifest.root}{aside}")
