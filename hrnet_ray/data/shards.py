"""Instances to Parquet shards, and the manifest that says what is in them.

OUT/train/00000.parquet ...   regions, for training
OUT/val/00000.parquet ...     untouched files, for exact evaluation
OUT/manifest.json             skeleton, counts, sha256 of each shard, digest of the whole
OUT/skipped.csv               what was read and not used, and why
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hrnet_ray.data import pictures, rows
from hrnet_ray.data.labels import (
    Instance,
    Labels,
    Skipped,
    check_folder,
    make_folder,
    picture_path,
)
from hrnet_ray.data.manifest import Kind, Shard, Split, file_sha256
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.skeletons import Skeleton, to_dict

SHARD_ROWS = 256
ROW_GROUP_ROWS = 64
SHARD_NAMES = "[0-9]" * 5 + ".parquet"

Progress = Callable[[int, int], None]
"""Called with how many are done, of how many."""


def write_split(
    labels: Labels,
    *,
    images: Path,
    out: Path,
    split: str,
    kind: Kind,
    canvas_px: int = rows.CANVAS_PX,
    skip_missing: bool = False,
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> tuple[Split, list[Skipped]]:
    """Write the shards of one split, and say what was left out.

    Raises:
        DataError: pictures are missing or broken, unless they may be skipped; or nothing is left.
    """
    check_pictures(labels, images=images, skip_missing=skip_missing)
    present, missing = _sorted_out(labels.instances, images)
    broken: list[Skipped] = []
    made = _rows(present, images, kind, canvas_px, broken, progress)
    shards, digest = _write_shards(made, _emptied(out / split), labels.skeleton)
    if broken and not skip_broken:
        raise _are_broken(broken, images)
    skipped = [*labels.skipped, *missing, *broken]
    written = sum(shard.rows for shard in shards)
    if not written:
        raise _nothing_left(skipped, labels)
    assert labels.read == written + len(skipped), "an instance was lost on the way to its shard"
    made_split = Split(
        kind=kind,
        source=labels.source.name,
        read=labels.read,
        rows=written,
        skipped=len(skipped),
        digest=digest,
        shards=shards,
        notes=labels.notes,
    )
    return made_split, skipped


def check_pictures(labels: Labels, *, images: Path, skip_missing: bool = False) -> None:
    """Refuse labels whose pictures are not there, unless these may be skipped.

    Raises:
        DataError: the folder or some pictures are missing; the first few are named.
    """
    check_folder(images, "--images")
    _, missing = _sorted_out(labels.instances, images)
    if missing and not skip_missing:
        raise _are_missing(missing, labels, images)


def _are_missing(missing: list[Skipped], labels: Labels, images: Path) -> DataError:
    names = sorted({skipped.item for skipped in missing})
    named = {instance.image for instance in labels.instances}
    return DataError(
        f"{len(names):,} of {len(named):,} pictures are not there",
        f"{labels.source.name}: {shortened(names)} (below {images})",
        "check --images, or add --skip-missing to leave them out (listed in skipped.csv)",
    )


def _are_broken(broken: list[Skipped], images: Path) -> DataError:
    names = sorted({f"{skipped.item} ({skipped.detail})" for skipped in broken})
    return DataError(
        f"{len(names):,} pictures cannot be read",
        f"below {images}: {shortened(names)}",
        "replace them, or add --skip-broken to leave them out (listed in skipped.csv)",
    )


def _nothing_left(skipped: list[Skipped], labels: Labels) -> DataError:
    reasons = Counter(thing.reason for thing in skipped).most_common()
    return DataError(
        "nothing to learn or score",
        f"{labels.source}: {labels.read:,} instances read, none can be used "
        f"({', '.join(f'{count:,} {reason}' for reason, count in reasons) or 'it is empty'})",
        "give a file with labelled keypoints, and the folder with its pictures",
    )


def _emptied(folder: Path) -> Path:
    """The folder of a split, without the shards of an earlier time. Other files stay."""
    make_folder(folder, "--out")
    for old in folder.glob(SHARD_NAMES):
        old.unlink()
    return folder


def _sorted_out(
    instances: Iterable[Instance], images: Path
) -> tuple[list[Instance], list[Skipped]]:
    """Part the instances whose picture is there from those whose is not."""
    there: dict[str, bool] = {}
    present, missing = [], []
    for instance in instances:
        if instance.image not in there:
            there[instance.image] = os.path.isfile(picture_path(images, instance.image))
        if there[instance.image]:
            present.append(instance)
        else:
            missing.append(Skipped(instance.image, "missing picture", f"instance {instance.id}"))
    return present, missing


def _rows(
    instances: list[Instance],
    images: Path,
    kind: Kind,
    canvas_px: int,
    broken: list[Skipped],
    progress: Progress | None,
) -> Iterator[dict[str, Any]]:
    """Rows in the order of the annotations, made by all cores (OpenCV lets go of the GIL)."""

    def make(instance: Instance) -> dict[str, Any] | Skipped:
        try:
            data = picture_path(images, instance.image).read_bytes()
        except OSError as error:  # no right to read it, or gone since
            return Skipped(instance.image, "broken picture", str(error.strerror))
        picture = pictures.decode(data)
        if picture is None:
            return Skipped(instance.image, "broken picture", pictures.why_not(data))
        if kind == "exact":
            return rows.exact_row(instance, data)
        return rows.region_row(instance, data, picture, canvas_px=canvas_px)

    threads = os.cpu_count() or 1
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        waiting = iter(instances)
        while window := list(islice(waiting, 16 * threads)):  # bounds what waits in memory
            for made in pool.map(make, window):
                done += 1
                if progress:
                    progress(done, len(instances))
                if isinstance(made, Skipped):
                    broken.append(made)
                else:
                    yield made


def _write_shards(
    made: Iterator[dict[str, Any]], folder: Path, skeleton: Skeleton
) -> tuple[list[Shard], str]:
    shape = rows.schema(len(skeleton)).with_metadata({"skeleton": json.dumps(to_dict(skeleton))})
    digest, shards = hashlib.sha256(), []
    while batch := list(islice(made, SHARD_ROWS)):
        for row in batch:
            labels = {key: value for key, value in row.items() if key != "picture"}
            digest.update(json.dumps(labels, sort_keys=True).encode())
        path = folder / f"{len(shards):05d}.parquet"
        table = pa.Table.from_pylist(batch, schema=shape)
        # Pictures are compressed already; a column of JPEGs gains nothing from another pass.
        pq.write_table(table, path, compression="none", row_group_size=ROW_GROUP_ROWS)
        name = f"{folder.name}/{path.name}"
        shards.append(Shard(file=name, rows=len(batch), sha256=file_sha256(path)))
    return shards, digest.hexdigest()
