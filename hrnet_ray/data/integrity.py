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
from hrnet_ray.data.manifest import Manifest, Shard, file_sha256
from hrnet_ray.data.shards import MOST_ROWS
from hrnet_ray.data.storage import message_of
from hrnet_ray.errors import DataError, shortened

THREADS = 8  # they wait for a disk or a network
MOST_PACKED = 100
"""Times its size that a file may claim to hold; ours are not packed at all."""
MOST_FOOTER = 2**24
"""Bytes. A footer of ours has some kB; one of a million columns would take minutes and GBs."""


def _in_base64(text: bytes) -> list[bytes]:
    """How a text looks within a base64 text: it can start in three places of a group of 4."""
    rests = [text[skipped:] for skipped in range(3)]  # what stands in whole groups of 3 bytes
    return [base64.b64encode(rest[: len(rest) // 3 * 3]) for rest in rests]


_EXTENSION = _in_base64(b"ARROW:extension:name")
"""In a footer: a type whose own code runs as soon as pyarrow reads the footer. None of ours has it,
so it is looked for in the raw bytes (the schema that pyarrow keeps there is base64)."""


def verify(manifest: Manifest) -> None:
    """Compare every byte of every shard with the manifest's sha256.

    Raises:
        DataError: shards are missing or changed (all are named).
    """

    def compare(shard: Shard) -> str | None:
        try:
            same = file_sha256(manifest.folder, shard.file) == shard.sha256
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            return message_of(error)
        return None if same else "changed"

    _refuse(manifest, compare, "are not as they were written")


def check_shards(manifest: Manifest) -> None:
    """Compare counts and columns with what `prepare` writes. No row is read.

    A foreign Parquet file can name extension types that unpickle what they hold, claim billions of
    rows or have a million columns: it ends here, before Ray opens it.

    Raises:
        DataError: shards are missing or not of our making (all are named).
    """
    fault = partial(_fault, manifest, records.schema(len(manifest.skeleton)))
    _refuse(manifest, fault, "cannot be used")


def _refuse(manifest: Manifest, fault: Callable[[Shard], str | None], what: str) -> None:
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    with ThreadPoolExecutor(THREADS) as pool:
        faults = list(pool.map(fault, shards))
    wrong = [f"{shard.file} ({why})" for shard, why in zip(shards, faults, strict=True) if why]
    if wrong:
        raise DataError(
            f"{len(wrong):,} shards {what}",
            f"{manifest.root}: {shortened(wrong)}",
            "copy them again, or prepare the data set again",
        )


def _fault(manifest: Manifest, wanted: pa.Schema, shard: Shard) -> str | None:
    try:
        with manifest.folder.open(shard.file) as file:
            size = file.size()
            file.seek(max(0, size - 8))
            footer = int.from_bytes(file.read(4), "little")
            if footer > min(size - 8, MOST_FOOTER):
                return f"a footer of {footer:,} bytes"
            file.seek(size - 8 - footer)
            raw = file.read(footer)
            if any(found in raw for found in _EXTENSION):
                return "columns of a type that is not ours"
            file.seek(0)
            return _fault_of(pq.read_metadata(file), wanted, shard, size)
    except FileNotFoundError:
        return "missing"
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        return message_of(error)


def _fault_of(found: pq.FileMetaData, wanted: pa.Schema, shard: Shard, size: int) -> str | None:
    groups = [found.row_group(at) for at in range(found.num_row_groups)]
    counted = sum(group.num_rows for group in groups)
    if not found.num_rows == counted == shard.rows <= MOST_ROWS:
        return f"{found.num_rows:,} rows, not {shard.rows:,}"
    if found.num_columns != len(wanted):  # each of ours is a leaf, or a list of one
        return f"{found.num_columns:,} columns, not {len(wanted)}"
    if not found.schema.to_arrow_schema().equals(wanted):
        return "other columns than ours"
    unpacked = sum(group.total_byte_size for group in groups)
    return f"{unpacked:,} bytes, packed into {size:,}" if unpacked > MOST_PACKED * size else None
