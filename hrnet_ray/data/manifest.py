"""What a prepared data set is: its manifest, and how its shards are read and vouched for."""

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from hrnet_ray.data.labels import Skipped
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.skeletons import Skeleton, from_dict, to_dict

FORMAT = 1

Kind = Literal["region", "exact"]
"""What a row holds: the region around its instance, or the untouched file."""


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
            elif file_sha256(path) != shard.sha256:
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


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
