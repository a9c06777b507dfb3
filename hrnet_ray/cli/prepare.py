"""`hrnet-ray prepare coco|yolo|dlc|atrw|mpii|synthetic`: convert labelled images to a dataset."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import tyro

from hrnet_ray.cli.prepare_args import (
    AtrwArgs,
    CocoArgs,
    DeepLabCutArgs,
    MpiiArgs,
    OutputArgs,
    SyntheticArgs,
    YoloArgs,
)
from hrnet_ray.cli.prepare_sources import (
    convert_yolo_to_coco,
    generate_synthetic,
    load_deeplabcut_splits,
    load_splits,
    unpack_atrw,
    with_notes,
)
from hrnet_ray.data import records
from hrnet_ray.data.dataset_preparation import ShardsWriter, prepare_dataset, write_shards_locally
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.data.shards import DoneCallback, ShardResult, ShardTask
from hrnet_ray.data.splits import SplitSource, find_shared_images
from hrnet_ray.data.storage import open_storage_dir
from hrnet_ray.errors import UsageError
from hrnet_ray.runs.progress import make_progress_line
from hrnet_ray.skeletons import DEFAULT_OKS_SIGMA, SKELETONS, Skeleton
from hrnet_ray.text import escape_control_chars

MIN_INSTANCES_FOR_RAY = 2_000
"""Number of instances above which the speed-up by Ray exceeds its start-up time."""

PrepareArgs = (
    Annotated[CocoArgs, tyro.conf.subcommand("coco")]
    | Annotated[YoloArgs, tyro.conf.subcommand("yolo")]
    | Annotated[DeepLabCutArgs, tyro.conf.subcommand("dlc")]
    | Annotated[AtrwArgs, tyro.conf.subcommand("atrw")]
    | Annotated[MpiiArgs, tyro.conf.subcommand("mpii")]
    | Annotated[SyntheticArgs, tyro.conf.subcommand("synthetic")]
)


def run(args: CocoArgs | YoloArgs | DeepLabCutArgs | AtrwArgs | MpiiArgs | SyntheticArgs) -> None:
    """Write the dataset and print a summary of it."""
    if args.max_image_size < 1:
        raise UsageError(
            f"--max-image-size must be at least 1, got {args.max_image_size}",
            "hrnet-ray prepare",
            f"give a size in pixels, such as {records.CANVAS_PX}",
        )
    if isinstance(args, SyntheticArgs):
        args = generate_synthetic(args, progress=make_progress_line("generated"))
    notes: list[str] = []
    if isinstance(args, YoloArgs):
        args, notes = convert_yolo_to_coco(args, progress=make_progress_line("read"))
    if isinstance(args, AtrwArgs):
        args = unpack_atrw(args, progress=make_progress_line("unpacked"))
    if isinstance(args, DeepLabCutArgs):
        sources = load_deeplabcut_splits(args, progress=make_progress_line("read"))
    else:
        sources = with_notes(load_splits(args, progress=make_progress_line("unpacked")), notes)
    manifest = prepare_dataset(
        sources,
        out=args.out,
        name=args.name or open_storage_dir(args.out, "--out").name,
        canvas_px=args.max_image_size,
        rows_per_shard=args.rows_per_shard,
        store_full_images=args.store_full_images,
        skip_missing=args.skip_missing,
        skip_corrupt=args.skip_corrupt,
        write_shards=_select_shard_writer(args, sources),
        make_progress=make_progress_line,
        log_message=lambda message: print(f"  {message}"),
    )
    _print_summary(manifest, sources)


def _select_shard_writer(args: OutputArgs, sources: Mapping[str, SplitSource]) -> ShardsWriter:
    """Select the writer: a named Ray cluster, local Ray for large datasets, or this process."""
    address = args.ray_address or os.environ.get("RAY_ADDRESS")
    num_instances = sum(len(source.labels.instances) for source in sources.values())
    if address or num_instances > MIN_INSTANCES_FOR_RAY:
        return _build_ray_shard_writer(address)
    return write_shards_locally


def _build_ray_shard_writer(ray_address: str | None) -> ShardsWriter:
    """Return a writer that starts or joins Ray only if at least one shard is missing."""
    cluster_name = ""

    def write_shards(tasks: Sequence[ShardTask], on_progress: DoneCallback) -> Iterable[ShardResult]:
        nonlocal cluster_name
        if not tasks:
            return ()
        from hrnet_ray.distributed.data.shard_tasks import init_ray_for_prepare, write_shards_ray

        if not cluster_name:
            cluster_name = init_ray_for_prepare(ray_address)
            print(f"  on Ray: {cluster_name}", flush=True)
        return write_shards_ray(tasks, on_progress)

    return write_shards


def _format_sigma_note(skeleton: Skeleton) -> str:
    """Format a note on the OKS sigmas, unless the skeleton or its name define them."""
    known = next((k for k in SKELETONS.values() if k.keypoints == skeleton.keypoints), None)
    if known and known.oks_sigmas == skeleton.oks_sigmas:
        is_inferred = known.oks_sigmas and known.name != skeleton.name
        note = f"the keypoints match the skeleton {known.name!r}: OKS uses its sigmas"
        return note if is_inferred else ""
    if skeleton.oks_sigmas:
        return ""
    return (
        f"no OKS sigmas given: OKS uses {DEFAULT_OKS_SIGMA:g} for each keypoint (a --skeleton in "
        "YAML may define `oks_sigmas`)"
    )


def _print_summary(manifest: DatasetManifest, sources: dict[str, SplitSource]) -> None:
    print(f"{manifest.name}: {len(manifest.skeleton)} keypoints, version {manifest.digest[:12]}")
    for name, split in manifest.splits.items():
        print(
            f"  {name:<6}{split.read:,} read = {split.rows:,} used + {split.skipped:,} skipped"
            + (" (see skipped.csv)" if split.skipped else "")
        )
        for note in split.notes:
            print(f"  note: {escape_control_chars(note)}")
    if note := _format_sigma_note(manifest.skeleton):
        print(f"  note: {note}")
    if shared := find_shared_images(sources["train"], sources["val"]):
        print(f"  note: {len(shared):,} images are in both splits, which inflates the scores")
    out_flag = "" if manifest.folder.is_local else f" --out runs/check-{manifest.name}"
    print(f"next: hrnet-ray check {manifest.root}{out_flag}")
