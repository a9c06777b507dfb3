"""Whether the shards of a data set are those that were written, before anything relies on them.

`check_shards` reads footers only: cheap enough for every start. `verify` reads every byte. A row
that changed inside a sound file passes the first: training skips it by name, and goes on.
"""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from hrnet_ray.data import records
from hrnet_ray.data.manifest import DatasetManifest, ShardInfo, hash_shard
from hrnet_ray.data.shards import MAX_ROWS_PER_SHARD
from hrnet_ray.data.storage import format_error_message
from hrnet_ray.errors import DataError, format_list

NUM_THREADS = 8  # they wait for a disk or a network
MAX_COMPRESSION_RATIO = 100
"""Times its size that a file may claim to hold; ours are not packed at all."""
MAX_FOOTER_BYTES = 2**24
"""Bytes. A footer of ours has some kB; one of a million columns would take minutes and GBs."""


def _encode_base64_variants(text: bytes) -> list[bytes]:
    """How a text looks within a base64 text: it can start in three places of a group of 4."""
    rests = [text[skipped:] for skipped in range(3)]  # what stands in whole groups of 3 bytes
    return [base64.b64encode(rest[: len(rest) // 3 * 3]) for rest in rests]


_EXTENSION_MARKERS = _encode_base64_variants(b"ARROW:extension:name")
"""In a footer: a type whose own code runs as soon as pyarrow reads the footer. None of ours has it,
so it is looked for in the raw bytes (the schema that pyarrow keeps there is base64)."""


def verify_checksums(manifest: DatasetManifest) -> None:
    """Compare every byte of every shard with the manifest's sha256.

    Raises:
        DataError: shards are missing or changed (all are named).
    """

    def find_checksum_problem(shard: ShardInfo) -> str | None:
        try:
            same = hash_shard(manifest.folder, shard.file) == shard.sha256
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            return format_error_message(error)
        return None if same else "changed"

    _raise_on_bad_shards(manifest, find_checksum_problem, "are not as they were written")


def verify_footers(manifest: DatasetManifest) -> None:
    """Compare counts and columns with what `prepare` writes. No row is read.

    A foreign Parquet file can name extension types that unpickle what they hold, claim billions of
    rows or have a million columns: it ends here, before Ray opens it.

    Raises:
        DataError: shards are missing or not of our making (all are named).
    """
    fault = partial(_find_footer_problem, manifest, records.build_arrow_schema(len(manifest.skeleton)))
    _raise_on_bad_shards(manifest, fault, "cannot be used")


def _raise_on_bad_shards(
    manifest: DatasetManifest, find_problem: Callable[[ShardInfo], str | None], summary: str
) -> None:
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        faults = list(pool.map(find_problem, shards))
    wrong = [f"{shard.file} ({why})" for shard, why in zip(shards, faults, strict=True) if why]
    if wrong:
        raise DataError(
            f"{len(wrong):,} shards {summary}",
            f"{manifest.root}: {format_list(wrong)}",
            "copy them again, or prepare the data set again",
        )


def _find_footer_problem(manifest: DatasetManifest, expected_schema: pa.Schema, shard: ShardInfo) -> str | None:
    try:
        with manifest.folder.open_file(shard.file) as file:
            size = file.size()
            file.seek(max(0, size - 8))
            footer = int.from_bytes(file.read(4), "little")
            if footer > min(size - 8, MAX_FOOTER_BYTES):
                return f"a footer of {footer:,} bytes"
            file.seek(size - 8 - footer)
            raw = file.read(footer)
            if any(found in raw for found in _EXTENSION_MARKERS):
                return "columns of a type that is not ours"
            file.seek(0)
            return _find_metadata_problem(pq.read_metadata(file), expected_schema, shard, size)
    except FileNotFoundError:
        return "missing"
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        return format_error_message(error)


def _find_metadata_problem(
    metadata: pq.FileMetaData, expected_schema: pa.Schema, shard: ShardInfo, file_bytes: int
) -> str | None:
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    counted = sum(group.num_rows for group in groups)
    if not metadata.num_rows == counted == shard.rows <= MAX_ROWS_PER_SHARD:
        return f"{metadata.num_rows:,} rows, not {shard.rows:,}"
    if metadata.num_columns != len(expected_schema):  # each of ours is a leaf, or a list of one
        return f"{metadata.num_columns:,} columns, not {len(expected_schema)}"
    if not metadata.schema.to_arrow_schema().equals(expected_schema):
        return "other columns than ours"
    unpacked = sum(group.total_byte_size for group in groups)
    return f"{unpacked:,} bytes, packed into {file_bytes:,}" if unpacked > MAX_COMPRESSION_RATIO * file_bytes else None
