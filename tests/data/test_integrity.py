"""Shards that are not as they were written are found before anything relies on them."""

import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hrnet_ray.data.images import codec
from hrnet_ray.data.integrity import verify_checksums, verify_footers
from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.errors import DataError
from tests.data.paws import some, written


def test_verify_finds_a_flipped_byte_and_a_missing_shard(images: Path):
    manifest = written(images, some(5), rows_per_shard=2)
    verify_checksums(manifest)
    changed = manifest.root / "train" / "00001.parquet"
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    (manifest.root / "train" / "00002.parquet").unlink()

    with pytest.raises(DataError) as error:
        verify_checksums(manifest)

    assert str(error.value) == (
        "2 shards are not as they were written\n"
        f"  {manifest.root}: train/00001.parquet (changed), train/00002.parquet (missing)\n"
        "  fix: copy them again, or prepare the data set again"
    )


def test_a_set_as_it_was_written_is_vouched_for(images: Path):
    for rows_per_shard in (1, 3, 256):
        manifest = written(images, some(7), rows_per_shard=rows_per_shard)
        verify_checksums(manifest)
        verify_footers(manifest)


def damaged(data: bytes) -> Iterator[bytes]:
    """500 copies with another byte, and 50 that are cut off."""
    draw = np.random.default_rng(0)
    for at in draw.choice(len(data), 500, replace=False):
        copy = bytearray(data)
        copy[at] ^= int(draw.integers(1, 256))
        yield bytes(copy)
    for end in draw.choice(len(data), 50, replace=False):
        yield data[:end]


@pytest.mark.timeout(240)  # 5 s where nobody else works
def test_550_damaged_shards_are_found_and_none_crashes_its_reader(images: Path):
    manifest = written(images, some(7))
    path = Path(manifest.get_shard_uris("train")[0])
    whole = path.read_bytes()
    found = 0
    for at, data in enumerate(damaged(whole)):
        path.write_bytes(data)
        with pytest.raises(DataError, match="1 shards are not as they were written"):
            verify_checksums(manifest)
        found += 1
        (images / f"{at}.parquet").write_bytes(data)
    path.write_bytes(whole)

    # A process of its own: a reader that crashed would take this one with it.
    ended = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(manifest.root), str(images)],
        capture_output=True,
        text=True,
        timeout=200,
    )

    assert found == 550
    assert ended.returncode == 0, ended.stderr[-2_000:]
    read, refused = map(int, ended.stdout.split())
    assert read + refused == 550
    assert refused >= 50


READ_ALL = """
import resource, sys
from pathlib import Path
from hrnet_ray.data import records
from hrnet_ray.data.manifest import read_manifest, read_split
from hrnet_ray.errors import DataError

resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
manifest, read, refused = read_manifest(sys.argv[1]), 0, 0
target = Path(manifest.get_shard_uris("train")[0])
for path in Path(sys.argv[2]).glob("*.parquet"):
    target.write_bytes(path.read_bytes())
    try:
        records.decode_train_batch(records.add_intact_column(read_split(manifest, "train")), canvas_px=16)
        read += 1
    except DataError:
        refused += 1
print(read, refused)
"""


def replaced(manifest: DatasetManifest, data: bytes, **claims) -> DatasetManifest:
    """The data set with other bytes for its shard, and a manifest that vouches for them."""
    Path(manifest.get_shard_uris("train")[0]).write_bytes(data)
    (shard,) = manifest.splits["train"].shards
    claims = {"bytes": len(data), "sha256": codec.hash_bytes(data)} | claims
    shard = replace(shard, **claims)
    split = replace(manifest.splits["train"], shards=[shard], rows=shard.rows)
    return replace(manifest, splits={"train": split})


def parquet(table: pa.Table, **options) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **{"compression": "none", **options})
    return sink.getvalue().to_pybytes()


PICKLED = "ray.data.arrow_pickled_object"


@contextmanager
def registered(name: str) -> Iterator[None]:
    """A type whose code would run; for its own name Ray's may be there already."""
    try:
        pa.register_extension_type(Unknown(name))
    except pa.ArrowKeyError:
        yield
        return
    yield
    pa.unregister_extension_type(name)


class Unknown(pa.ExtensionType):
    """An extension type that nobody else knows."""

    def __init__(self, name: str = "somebody.else") -> None:
        super().__init__(pa.binary(), name)

    def __arrow_ext_serialize__(self) -> bytes:
        return b"anything"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        raise AssertionError("the code of a foreign type was run")


def with_type(table: pa.Table, name: str) -> pa.Table:
    at = table.column_names.index("picture")
    storage = table["picture"].combine_chunks()
    return table.set_column(at, "picture", pa.ExtensionArray.from_storage(Unknown(name), storage))


def a_bomb(table: pa.Table) -> pa.Table:
    """Images of nothing but zeros, which take no room at all when packed."""
    zeros = pa.array([bytes(2**20)] * table.num_rows, pa.binary())
    return table.set_column(table.column_names.index("picture"), "picture", zeros)


def foreign(table: pa.Table) -> dict[str, tuple[bytes, dict[str, int]]]:
    """Files that are no shards of ours, each with what a manifest would have to claim."""
    text = table.set_column(0, "id", pa.array(map(str, range(7))))
    extra = table.append_column("more", pa.array(range(7)))
    return {
        "pickled": (parquet(with_type(table, PICKLED)), {}),
        "unknown type": (parquet(with_type(table, "somebody.else")), {}),
        "text": (parquet(text), {}),
        "extra": (parquet(extra), {}),
        "fewer": (parquet(table.drop_columns(["area"])), {}),
        "renamed": (parquet(table.rename_columns([n.upper() for n in table.column_names])), {}),
        "packed": (parquet(a_bomb(table), compression="zstd"), {}),
        "rows": (parquet(table), {"rows": 2**31}),
        "fewer rows": (parquet(table), {"rows": 6}),
        "html": (b"<html>" * 100, {}),
        "short": (b"PAR1", {}),
        "no footer": (b"PAR1" + b"\xff" * 100 + b"PAR1", {}),
    }


KINDS = [
    ("pickled", "columns of a type that is not ours"),
    ("unknown type", "columns of a type that is not ours"),
    ("text", "other columns than ours"),
    ("extra", "14 columns, not 13"),
    ("fewer", "12 columns, not 13"),
    ("renamed", "other columns than ours"),
    ("packed", "bytes, packed into"),
    ("rows", "7 rows, not 2,147,483,648"),
    ("fewer rows", "7 rows, not 6"),
    ("html", "footer"),
    ("short", "file"),
    ("no footer", "footer"),
]


@pytest.mark.parametrize(("kind", "why"), KINDS)
def test_foreign_files_are_refused_before_a_row_is_read(images: Path, kind: str, why: str):
    manifest = written(images, some(7))
    data, claims = foreign(read_split(manifest, "train"))[kind]
    claimed = replaced(manifest, data, **claims)

    with registered(PICKLED), registered("somebody.else"), pytest.raises(DataError) as error:
        verify_footers(claimed)

    assert error.value.what == "1 shards cannot be used"
    assert why in error.value.where


def test_a_pickle_in_a_column_that_ray_would_load_is_never_loaded(images: Path, tmp_path: Path):
    manifest = written(images, some(7))
    table = read_split(manifest, "train")
    marker = tmp_path / "executed"
    payload = pickle.dumps(Payload(str(marker)))
    bad = table.set_column(table.column_names.index("picture"), "picture", pa.array([payload] * 7, pa.binary()))
    claimed = replaced(manifest, parquet(with_type(bad, PICKLED)))

    with pytest.raises(DataError, match="1 shards cannot be used"):
        verify_footers(claimed)

    assert not marker.exists()


class Payload:
    """What a hostile file would like to run."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (self.path, "w")


@pytest.mark.parametrize("columns", [100_000, 1_000_000])
def test_a_million_columns_are_refused_at_once(images: Path, columns: int):
    manifest = written(images, some(7))
    # As a writer would have written it, but made in a second: footers grow with the columns.
    narrow = parquet(pa.table({f"column {at}": pa.array([1]) for at in range(1_000)}))
    size = int.from_bytes(narrow[-8:-4], "little") * columns // 1_000
    data = narrow[:-8] + bytes(size) + size.to_bytes(4, "little") + b"PAR1"
    claimed = replaced(manifest, data, rows=1)
    started = time.monotonic()

    with pytest.raises(DataError, match="1 shards cannot be used"):
        verify_footers(claimed)

    assert time.monotonic() - started < 2


def test_a_file_of_many_columns_is_refused_by_their_number(images: Path):
    manifest = written(images, some(7))
    wide = pa.table({f"c{at}": pa.array([1], pa.int8()) for at in range(20_000)})
    claimed = replaced(manifest, parquet(wide, use_dictionary=False), rows=1)

    with pytest.raises(DataError, match="20,000 columns, not 13"):
        verify_footers(claimed)


def test_missing_and_cut_shards_are_named_without_hashing(images: Path):
    manifest = written(images, some(5), rows_per_shard=2)
    first, second, _ = (Path(file) for file in manifest.get_shard_uris("train"))
    first.write_bytes(first.read_bytes()[:-100])
    second.unlink()

    with pytest.raises(DataError) as error:
        verify_footers(manifest)

    assert "train/00000.parquet (" in error.value.where
    assert "train/00001.parquet (missing)" in error.value.where
    assert error.value.what == "2 shards cannot be used"


@pytest.mark.parametrize("shift", range(6))
def test_an_extension_type_is_seen_wherever_it_stands_in_a_footer(images: Path, shift: int):
    manifest = written(images, some(7))
    table = read_split(manifest, "train")
    table = table.rename_columns(["i" * (shift + 1), *table.column_names[1:]])
    table = with_type(table, "t" * (shift + 1))

    with pytest.raises(DataError, match="columns of a type that is not ours"):
        verify_footers(replaced(manifest, parquet(table)))
