"""Instances to Parquet shards, and the manifest that says what is in them.

OUT/train/00000.parquet ...   regions, for training
OUT/val/00000.parquet ...     untouched files, for exact evaluation
OUT/manifest.json             skeleton, counts, sha256 of each shard, digest of the whole
OUT/skipped.csv               what was read and not used, and why
"""

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

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
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.skeletons import Skeleton, from_dict, to_dict

FORMAT = 1
SHARD_ROWS = 256
ROW_GROUP_ROWS = 64
SHARD_NAMES = "[0-9]" * 5 + ".parquet"

Kind = Literal["region", "exact"]
"""What a row holds: the region around its instance, or the untouched file."""

Progress = Callable[[int, int], None]
"""Called with how many are done, of how many."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file, by its path below the data set's folder."""

    file: str
    rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Split:
    """The rows of `train` or `val`."""

    kind: Kind
    source: str
    read: int
    rows: int
    skipped: int
    digest: str
    shards: list[Shard]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared data set is. `digest` is its version."""

    root: Path
    name: str
    skeleton: Skeleton
    canvas_px: int
    splits: dict[str, Split]

    @property
    def digest(self) -> str:
        """Changes with any picture or label, not with shard sizes or where it lies."""
        parts = [json.dumps(to_dict(self.skeleton), sort_keys=True), str(self.canvas_px)]
        parts += [f"{name}:{split.digest}" for name, split in sorted(self.splits.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def files(self, split: str) -> list[str]:
        """Absolute paths of a split's shards.

        Raises:
            DataError: there is no such split.
        """
        if split not in self.splits:
            raise DataError(
                f"no split {split!r}",
                f"{self.root} has {', '.join(self.splits)}",
                f"prepare it with a {split} annotation file",
            )
        return [str(self.root / shard.file) for shard in self.splits[split].shards]


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
        shards.append(Shard(file=name, rows=len(batch), sha256=_file_sha256(path)))
    return shards, digest.hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(manifest: Manifest, skipped: Iterable[tuple[str, Skipped]]) -> None:
    """Write `manifest.json` and `skipped.csv`; the manifest comes last, so it vouches for all."""
    with (manifest.root / "skipped.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["split", "item", "reason", "detail"])
        for split, thing in skipped:
            table.writerow([split, *map(_cell, (thing.item, thing.reason, thing.detail))])
    document = {
        "format": FORMAT,
        "name": manifest.name,
        "digest": manifest.digest,
        "canvas_px": manifest.canvas_px,
        "skeleton": to_dict(manifest.skeleton),
        "splits": {name: asdict(split) for name, split in manifest.splits.items()},
    }
    (manifest.root / "manifest.json").write_text(json.dumps(document, indent=2), encoding="utf-8")


def _cell(text: str) -> str:
    """A spreadsheet would run a cell that starts like a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def read_manifest(root: str | Path) -> Manifest:
    """Read what `hrnet-ray prepare` wrote.

    Raises:
        DataError: `root` holds no prepared data set.
    """
    root = Path(root).absolute()
    path = root / "manifest.json"
    if not path.is_file():
        is_what = "is a file" if root.is_file() else "has no manifest.json"
        raise DataError(
            f"no prepared data set: {root.name} {is_what}" if root.exists() else "no such folder",
            f"--data.root {root}",
            "write it with `hrnet-ray prepare coco|mpii|synthetic --out DIR`",
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}, this program writes {FORMAT}")
        return Manifest(
            root=root,
            name=document["name"],
            skeleton=from_dict(document["skeleton"], where=str(path)),
            canvas_px=int(document["canvas_px"]),
            splits={name: _split(split) for name, split in document["splits"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "a manifest that cannot be read",
            f"{path}: {type(error).__name__}: {error}",
            "prepare the data set again",
        ) from error


def _split(document: dict[str, Any]) -> Split:
    shards = [Shard(**shard) for shard in document["shards"]]
    return Split(**{**document, "shards": shards})


def verify(manifest: Manifest) -> None:
    """Compare every shard with the manifest's sha256.

    Raises:
        DataError: shards are missing or changed (all are named).
    """
    wrong = []
    for split in manifest.splits.values():
        for shard in split.shards:
            path = manifest.root / shard.file
            if not path.is_file():
                wrong.append(f"{shard.file} (missing)")
            elif _file_sha256(path) != shard.sha256:
                wrong.append(f"{shard.file} (changed)")
    if wrong:
        raise DataError(
            f"{len(wrong):,} shards are not as they were written",
            f"{manifest.root}: {shortened(wrong)}",
            "copy them again, or prepare the data set again",
        )


def read_table(manifest: Manifest, split: str, *, columns: list[str] | None = None) -> pa.Table:
    """All rows of a split (or some columns) in memory, without Ray."""
    return pa.concat_tables(
        [pq.read_table(path, columns=columns) for path in manifest.files(split)]
    )


def read_head(manifest: Manifest, split: str, count: int) -> pa.Table:
    """The first `count` rows of a split."""
    parts, missing = [], count
    for path in manifest.files(split):
        with pq.ParquetFile(path) as file:
            parts.append(next(file.iter_batches(missing)))
        missing -= parts[-1].num_rows
        if missing <= 0:
            break
    return pa.Table.from_batches(parts)
