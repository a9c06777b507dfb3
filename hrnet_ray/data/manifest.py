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
from hrnet_ray.data.annotations import SkippedItem
from hrnet_ray.data.storage import (
    PathOrUri,
    StorageDir,
    format_error_message,
    make_storage_error,
    open_storage_dir,
)
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton, from_dict, to_dict
from hrnet_ray.text import escape_csv_cell

FORMAT_VERSION = 2
SKIPPED_COLUMNS = ("split", "item", "reason", "detail")
"""Columns of skipped.csv, a data set's and a run's."""

RowKind = Literal["region", "exact"]
"""What a row holds: the region around its instance, or the untouched file."""

_SHARD_PATH_PATTERN = re.compile(r"[\w-]+/\d{5,}\.parquet")
_SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One Parquet file, by its path below the data set's folder."""

    file: str
    rows: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not _SHARD_PATH_PATTERN.fullmatch(self.file) or not _SHA256_PATTERN.fullmatch(self.sha256):
            raise ValueError(f"no shard: {self.file!r:.80}")
        if not all(type(count) is int and count > 0 for count in (self.rows, self.bytes)):
            raise ValueError(f"{self.file}: {self.rows!r:.20} rows in {self.bytes!r:.20} bytes")


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """The rows of `train` or `val`."""

    kind: RowKind
    source: str
    read: int
    rows: int
    skipped: int
    digest: str
    shards: list[ShardInfo]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rows != sum(shard.rows for shard in self.shards):
            raise ValueError(f"{self.rows!r:.20} rows, and other counts in its shards")


@dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """What a prepared data set is. `digest` is its version."""

    root: PathOrUri
    """A folder of this machine, or the URI of one elsewhere."""
    name: str
    skeleton: Skeleton
    canvas_px: int
    splits: dict[str, SplitInfo]

    @cached_property
    def folder(self) -> StorageDir:
        """Where it lies, to be read."""
        return open_storage_dir(self.root, "--data.root")

    @property
    def digest(self) -> str:
        """Changes with any image or label, not with shard sizes or where it lies."""
        parts = [json.dumps(to_dict(self.skeleton), sort_keys=True), str(self.canvas_px)]
        parts += [f"{name}:{split.digest}" for name, split in sorted(self.splits.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def get_shards(self, split: str) -> list[ShardInfo]:
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

    def get_shard_uris(self, split: str) -> list[str]:
        """Absolute paths or URIs of a split's shards, on the file system `self.folder.files`.

        Raises:
            DataError: there is no such split.
        """
        return [self.folder.get_uri(shard.file) for shard in self.get_shards(split)]


def write_manifest(manifest: DatasetManifest, skipped: Iterable[tuple[str, SkippedItem]]) -> None:
    """Write `manifest.json` and `skipped.csv`; the manifest comes last, so it vouches for all."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(SKIPPED_COLUMNS)
    for split, thing in skipped:
        table.writerow([split, *map(escape_csv_cell, (thing.item, thing.reason, thing.detail))])
    manifest.folder.write_bytes("skipped.csv", text.getvalue().encode())
    document = {
        "format": FORMAT_VERSION,
        "name": manifest.name,
        "digest": manifest.digest,
        "canvas_px": manifest.canvas_px,
        "skeleton": to_dict(manifest.skeleton),
        "splits": {name: asdict(split) for name, split in manifest.splits.items()},
    }
    manifest.folder.write_bytes("manifest.json", json.dumps(document, indent=2).encode())


def read_manifest(root: PathOrUri, flag: str = "--data.root") -> DatasetManifest:
    """Read what `hrnet-ray prepare` wrote, from a local folder or a URI that `flag` named.

    Raises:
        DataError: `root` holds no prepared data set.
        ClusterError: the storage does not answer.
    """
    folder = open_storage_dir(root, flag)
    where = folder.get_uri("manifest.json")
    if folder.get_file_size("manifest.json") is None:
        raise _make_not_prepared_error(folder, flag)
    try:
        document = json.loads(folder.read_bytes("manifest.json"))
        if document["format"] != FORMAT_VERSION:
            raise ValueError(f"format {document['format']}, this program writes {FORMAT_VERSION}")
        return DatasetManifest(
            root=folder.root,
            name=document["name"],
            skeleton=from_dict(document["skeleton"], where=where),
            canvas_px=int(document["canvas_px"]),
            splits={name: _parse_split_info(split) for name, split in document["splits"].items()},
        )
    except OSError as error:
        raise make_storage_error(where, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            "a manifest that cannot be read",
            f"{where}: {type(error).__name__}: {error}",
            "prepare the data set again",
        ) from error


def _make_not_prepared_error(folder: StorageDir, flag: str) -> DataError:
    name, found = folder.name, folder.get_file_type()
    is_what = "is a file" if found == FileType.File else "has no manifest.json"
    return DataError(
        "no such folder" if found == FileType.NotFound else f"no prepared data set: {name} {is_what}",
        f"{flag} {folder.root}",
        "write it with `hrnet-ray prepare coco|yolo|dlc|atrw|mpii|synthetic --out DIR`",
    )


def _parse_split_info(document: dict[str, Any]) -> SplitInfo:
    shards = [ShardInfo(**shard) for shard in document["shards"]]
    return SplitInfo(**{**document, "shards": shards})


@contextmanager
def open_shard(manifest: DatasetManifest, shard: ShardInfo) -> Iterator[pq.ParquetFile]:
    """Open a shard; errors while reading are translated.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with manifest.folder.open_file(shard.file) as file:
            opened = pq.ParquetFile(file)
            if not opened.schema_arrow.equals(records.build_arrow_schema(len(manifest.skeleton))):
                raise ValueError("it has other columns than ours")
            yield opened
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            "a shard that cannot be read",
            f"{manifest.folder.get_uri(shard.file)}: {format_error_message(error)}",
            "copy it again, or prepare the data set again",
        ) from error


def hash_shard(folder: StorageDir, name: str) -> str:
    """Hash a file as it is read. OSError where that cannot be."""
    told = hashlib.sha256()
    with folder.open_file(name) as file:
        while part := file.read(2**20):
            told.update(part)
    return told.hexdigest()


def read_split(manifest: DatasetManifest, split: str, *, columns: list[str] | None = None) -> pa.Table:
    """All rows of a split (or some columns) in memory, without Ray.

    Raises:
        DataError: there is no such split, or a shard is missing or damaged.
    """
    parts = []
    for shard in manifest.get_shards(split):
        with open_shard(manifest, shard) as file:
            parts.append(file.read(columns=columns))
            parts[-1].validate(full=True)  # offsets and text that damage has made impossible
    return pa.concat_tables(parts)


def read_first_rows(manifest: DatasetManifest, split: str, count: int) -> pa.Table:
    """The first `count` rows of a split.

    Raises:
        DataError: there is no such split, or a shard is missing or damaged.
    """
    parts, missing = [], count
    for shard in manifest.get_shards(split):
        with open_shard(manifest, shard) as file:
            parts.append(next(file.iter_batches(missing)))
        missing -= parts[-1].num_rows
        if missing <= 0:
            break
    return pa.Table.from_batches(parts)
