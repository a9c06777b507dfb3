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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from hrnet_ray.data import pictures, rows
from hrnet_ray.data.labels import Instance, Labels, Skipped, check_folder, picture_path
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.skeletons import Skeleton, from_dict, to_dict

FORMAT = 1
SHARD_ROWS = 256
ROW_GROUP_ROWS = 64

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

    kind: Literal["region", "exact"]
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
    kind: Literal["region", "exact"],
    canvas_px: int = rows.CANVAS_PX,
    skip_missing: bool = False,
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> tuple[Split, list[Skipped]]:
    """Write the shards of one split; each picture file is read once for all its instances.

    Raises:
        DataError: pictures are missing or broken (all are named), unless they may be skipped.
    """
    check_folder(images, "--images")
    present, missing = _sorted_out(labels.instances, images)
    if missing and not skip_missing:
        names = sorted({skipped.item for skipped in missing})
        raise DataError(
            f"{len(names):,} of {len({i.image for i in labels.instances}):,} pictures are not there",
            f"{labels.source.name}: {shortened(names)} (below {images})",
            "check --images, or add --skip-missing to leave them out (listed in skipped.csv)",
        )
    broken: list[Skipped] = []
    folder = out / split
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.parquet"):
        old.unlink()
    made = _rows(present, images, kind, canvas_px, broken, progress)
    shards, digest = _write_shards(made, folder, labels.skeleton)
    if broken and not skip_broken:
        raise DataError(
            f"{len(broken):,} pictures cannot be read",
            f"below {images}: " + shortened([f"{s.item} ({s.detail})" for s in broken]),
            "replace them, or add --skip-broken to leave them out (listed in skipped.csv)",
        )
    skipped = [*labels.skipped, *missing, *broken]
    written = sum(shard.rows for shard in shards)
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


def _sorted_out(
    instances: Iterable[Instance], images: Path
) -> tuple[list[Instance], list[Skipped]]:
    """Part the instances whose picture is there from those whose is not."""
    there: dict[str, bool] = {}
    present, missing = [], []
    for instance in instances:
        if instance.image not in there:
            there[instance.image] = picture_path(images, instance.image).is_file()
        if there[instance.image]:
            present.append(instance)
        else:
            missing.append(Skipped(instance.image, "missing picture", f"instance {instance.id}"))
    return present, missing


def _rows(
    instances: list[Instance],
    images: Path,
    kind: Literal["region", "exact"],
    canvas_px: int,
    broken: list[Skipped],
    progress: Progress | None,
) -> Iterator[dict[str, Any]]:
    """Rows in the order of the annotations, made by all cores (OpenCV lets go of the GIL)."""

    def make(instance: Instance) -> dict[str, Any] | Skipped:
        data = picture_path(images, instance.image).read_bytes()
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
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


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
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "a manifest that cannot be read",
            f"{path}: {type(error).__name__}: {error}",
            "prepare the data set again",
        ) from error


def _split(document: dict[str, Any]) -> Split:
    return Split(**document | {"shards": [Shard(**shard) for shard in document["shards"]]})


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
        parts.append(next(pq.ParquetFile(path).iter_batches(missing)))
        missing -= parts[-1].num_rows
        if missing <= 0:
            break
    return pa.Table.from_batches(parts)
