import hashlib
import os
from pathlib import Path

import pytest

from hrnet_ray.utils.files import get_file_stamp, sha256_file, write_bytes_atomically, write_text_atomically


def test_a_file_is_replaced_and_no_partial_file_is_left(tmp_path: Path):
    path = tmp_path / "summary.json"
    path.write_text("old")

    write_text_atomically(path, "naïve")

    assert path.read_bytes() == "naïve".encode()
    assert os.listdir(tmp_path) == ["summary.json"]


def test_the_old_file_stays_when_the_new_one_cannot_take_its_place(tmp_path: Path):
    (tmp_path / "summary.json" / "inside").mkdir(parents=True)  # a directory cannot be replaced

    with pytest.raises(OSError, match="summary"):
        write_bytes_atomically(tmp_path / "summary.json", b"new")

    assert os.listdir(tmp_path) == ["summary.json"]


def test_the_checksum_of_a_file_is_that_of_its_bytes(tmp_path: Path):
    path = tmp_path / "weights"
    path.write_bytes(b"hrnet" * 100_000)

    assert sha256_file(path) == hashlib.sha256(b"hrnet" * 100_000).hexdigest()


def test_the_stamp_of_a_file_changes_with_its_size_or_time(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    assert get_file_stamp(path) == (0, 0)

    path.write_bytes(b"12345")
    os.utime(path, ns=(7, 9))

    assert get_file_stamp(path) == (5, 9)
    assert get_file_stamp(path / "below a file") == (0, 0)
