"""Labels and pictures in, a prepared data set out."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hrnet_ray.data import rows
from hrnet_ray.data.labels import Labels, make_folder
from hrnet_ray.data.manifest import Kind, Manifest, write_manifest
from hrnet_ray.data.shards import Progress, check_pictures, write_split
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton

KINDS: dict[str, Kind] = {"train": "region", "val": "exact", "test": "exact"}


@dataclass(frozen=True)
class Source:
    """Where one split comes from."""

    labels: Labels
    images: Path


def prepare(
    sources: Mapping[str, Source],
    *,
    out: Path,
    name: str,
    canvas_px: int = rows.CANVAS_PX,
    skip_missing: bool = False,
    skip_broken: bool = False,
    progress: Callable[[str], Progress] | None = None,
) -> Manifest:
    """Write `train` as regions and `val` as untouched files, then the manifest.

    Raises:
        DataError: pictures are missing or broken, or the splits are of different skeletons.
    """
    if out.is_file():
        raise DataError("a file where a folder is wanted", f"--out {out}", "give a folder")
    skeleton = _shared_skeleton(sources)
    for source in sources.values():  # before anything that is there already is touched
        check_pictures(source.labels, images=source.images, skip_missing=skip_missing)
    make_folder(out, "--out")
    (out / "manifest.json").unlink(missing_ok=True)  # until the new one vouches, nothing does
    splits, skipped = {}, []
    for split, source in sources.items():
        splits[split], left_out = write_split(
            source.labels,
            images=source.images,
            out=out,
            split=split,
            kind=KINDS[split],
            canvas_px=canvas_px,
            skip_missing=skip_missing,
            skip_broken=skip_broken,
            progress=progress(split) if progress else None,
        )
        skipped += [(split, thing) for thing in left_out]
    manifest = Manifest(
        root=out.absolute(), name=name, skeleton=skeleton, canvas_px=canvas_px, splits=splits
    )
    write_manifest(manifest, skipped)
    return manifest


def _shared_skeleton(sources: Mapping[str, Source]) -> Skeleton:
    skeleton = sources["train"].labels.skeleton
    for split, source in sources.items():
        if source.labels.skeleton.keypoints != skeleton.keypoints:
            raise DataError(
                "the splits have different keypoints",
                f"{split}: {', '.join(source.labels.skeleton.keypoints)}",
                f"they must all be {', '.join(skeleton.keypoints)}",
            )
    return skeleton


def split_by_picture(labels: Labels, *, val_share: float, seed: int = 0) -> tuple[Labels, Labels]:
    """Part one file in two; all instances of a picture go to the same side.

    Raises:
        DataError: there are too few pictures to have both.
    """
    images = sorted({instance.image for instance in labels.instances})
    random.Random(seed).shuffle(images)
    count = max(1, round(len(images) * val_share))
    if len(images) < 2 or count >= len(images):
        raise DataError(
            f"{len(images)} pictures cannot be parted into training and validation",
            str(labels.source),
            "add pictures, or name both files: --annotations and --val-annotations",
        )
    val = set(images[:count])
    # What the reader skipped belongs to no side; it is counted with training.
    return (
        replace(labels, instances=[i for i in labels.instances if i.image not in val]),
        replace(labels, instances=[i for i in labels.instances if i.image in val], skipped=[]),
    )


def shared_pictures(train: Source, val: Source) -> list[str]:
    """Names of files that are in both splits: a score on them says little."""
    if train.images.resolve() != val.images.resolve():
        return []
    return sorted(
        {i.image for i in train.labels.instances} & {i.image for i in val.labels.instances}
    )
