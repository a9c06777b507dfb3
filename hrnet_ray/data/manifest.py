"""What a prepared data set is: its manifest, and how its rows are read without Ray.

OUT/train/00000.parquet ...   regions (or untouched files), for training
OUT/val/00000.parquet ...     untouched files, for exact evaluation
OUT/manifest.json             skeleton, counts, sha256 of each shard, digest of the whole
OUT/skipped.csv               what was read and not used, and why
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileType

from hrnet_ray.data import records
from hrnet_ray.data.annotations import Skipped
from hrnet_ray.data.storage import Folder, Place, message_of, open_folder, storage_error
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton, from_dict, to_dict
from hrnet_ray.text import cell

FORMAT = 2
SKIPPED = ("split", "item", "reason", "detail")
"""Columns of skipped.csv, a data set's and a run's."""

Kind = Literal["region", "exact"]
"""What a row holds: the region around its instance, or the untouched file."""

_SHARD = re.compile(r"[\w-]+/\d{5,}\.parquet")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file, by its path below the data set's folder."""

    file: str
    rows: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not _SHARD.fullmatch(self.file) or not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"no shard: {self.file!r:.80}")
        if not all(type(count) is int and count > 0 for count in (self.rows, self.bytes)):
            raise ValueError(f"{self.file}: {self.rows!r:.20} rows in {self.bytes!r:.20} bytes")


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

    def __post_init__(self) -> None:
        if self.rows != sum(shard.rows for shard in self.shards):
            raise ValueError(f"{self.rows!r:.20} rows, and other counts in its shards")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared data set is. `digest` is its version."""

    root: Place
    """A folder of this machine, or the URI of one elsewhere."""
    name: str
    skeleton: Skeleton
    canvas_px: int
    splits: dict[str, Split]

    @cached_property
    def folder(self) -> Folder:
        """Where it lies, to be read."""
        return open_folder(self.root, "--data.root")

    @property
    def digest(self) -> str:
        """Changes with any picture or label, not with shard sizes or where it lies."""
        parts = [json.dumps(to_dict(self.skeleton), sort_keys=True), str(self.canvas_px)]
        parts += [f"{name}:{split.digest}" for name, split in sorted(self.splits.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def shards(self, split: str) -> list[Shard]:
        """The shards of a split, in the order of its rows.

        Raises:
            DataError: there is no such split.
        """
        if split not in self.splits:
            raise DataError(
                f"no split {split!r}",
                f"{self.root} has {', '.join(self.splits)}",
                f"prepare it with a {split} annotation file",
            )
        return self.splits[split].shards

    def files(self, split: str) -> list[str]:
        """Absolute paths or URIs of a split's shards, on the file system `self.folder.files`.

        Raises:
            DataError: there is no such split.
        """
        return [self.folder.uri(shard.file) for shard in self.shards(split)]


def write_manifest(manifest: Manifest, skipped: Iterable[tuple[str, Skipped]]) -> None:
    """Write `manifest.json` and `skipped.csv`; the manifest comes last, so it vouches for all."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(SKIPPED)
    for split, thing in skipped:
        table.writerow([split, *map(cell, (thing.item, thing.reason, thing.detail))])
    manifest.folder.write_bytes("skipped.csv", text.getvalue().encode())
    document = {
        "format": FORMAT,
        "name": manifest.name,
        "digest": manifest.digest,
        "canvas_px": manifest.canvas_px,
        "skeleton": to_dict(manifest.skeleton),
        "splits": {name: asdict(split) for name, split in manifest.splits.items()},
    }
    manifest.folder.write_bytes("manifest.json", json.dumps(document, indent=2).encode())


def read_manifest(root: Place, flag: str = "--data.root") -> Manifest:
    """Read what `hrnet-ray prepare` wrote, from a local folder or a URI that `flag` named.

    Raises:
        DataError: `root` holds no prepared data set.
        ClusterError: the storage does not answer.
    """
    folder = open_folder(root, flag)
    where = folder.uri("manifest.json")
    if folder.size("manifest.json") is None:
        raise _not_prepared(folder, flag)
    try:
        document = json.loads(folder.read_bytes("manifest.json"))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}, this program writes {FORMAT}")
        return Manifest(
            root=folder.root,
            name=document["name"],
            skeleton=from_dict(document["skeleton"], where=where),
            canvas_px=int(document["canvas_px"]),
            splits={name: _split(split) for name, split in document["splits"].items()},
        )
    except OSError as error:
        raise storage_error(where, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            "a manifest that cannot be read",
            f"{where}: {type(error).__name__}: {error}",
            "prepare the data set again",
        ) from error


def _not_prepared(folder: Folder, flag: str) -> DataError:
    name, found = folder.name, folder.type()
    is_what = "is a file" if found == FileType.File else "has no manifest.json"
    return DataError(
        "no such folder"
        if found == FileType.NotFound
        else f"no prepared data set: {name} {is_what}",
        f"{flag} {folder.root}",
        "write it with `hrnet-ray prepare coco|yolo|dlc|atrw|mpii|synthetic --out DIR`",
    )


def _split(document: dict[str, Any]) -> Split:
    shards = [Shard(**shard) for shard in document["shards"]]
    return Split(**{**document, "shards": shards})


@contextmanager
def open_shard(manifest: Manifest, shard: Shard) -> Iterator[pq.ParquetFile]:
    """Open a shard; errors while it is read from are told as what they are.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with manifest.folder.open(shard.file) as file:
            opened = pq.ParquetFile(file)
            if not opened.schema_arrow.equals(records.schema(len(manifest.skeleton))):
                raise ValueError("it has other columns than ours")
            yield opened
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            "a shard that cannot be read",
            f"{manifest.folder.uri(shard.file)}: {message_of(error)}",
            "copy it again, or prepare the data set again",
        ) from error


def file_sha256(folder: Folder, name: str) -> str:
    """Hash a file as it is read. OSError where that cannot be."""
    told = hashlib.sha256()
    with folder.open(name) as file:
        while part := file.read(2**20):
            told.update(part)
    return told.hexdigest()


def read_table(manifest: Manifest, split: str, *, columns: list[str] | None = None) -> pa.Table:
    """All rows of a split (or some columns) in memory, without Ray.

    Raises:
        DataError: there is no such split, or a shard is missing or damaged.
    """
    parts = []
    for shard in manifest.shards(split):
        with open_shard(manifest, shard) as file:
            parts.append(file.read(columns=columns))
            parts[-1].validate(full=True)  # offsets and text that damage has made impossible
    return pa.concat_tables(parts)


def read_head(manifest: Manifest, split: str, count: int) -> pa.Table:
    """The first `count` rows of a split.

    Raises:
        DataError: there is no such split, or a shard is missing or damaged.
    """
    parts, missing = [], count
    for shard in manifest.shards(split):
        with open_shard(manifest, shard) as file:
            parts.append(next(file.iter_batches(missing)))
        missing -= parts[-1].num_rows
        if missing <= 0:
            break
    return pa.Table.from_batches(parts)
