from pathlib import Path

import pytest

from hrnet_ray.data.vouch import verify
from hrnet_ray.errors import DataError
from tests.data.paws import some, written


def test_verify_finds_a_flipped_byte_and_a_missing_shard(images: Path):
    manifest = written(images, some(5), shard_rows=2)
    verify(manifest)
    changed = manifest.root / "train" / "00001.parquet"
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    (manifest.root / "train" / "00002.parquet").unlink()

    with pytest.raises(DataError) as error:
        verify(manifest)

    assert str(error.value) == (
        "2 shards are not as they were written\n"
        f"  {manifest.root}: train/00001.parquet (changed), train/00002.parquet (missing)\n"
        "  fix: copy them again, or prepare the data set again"
    )
