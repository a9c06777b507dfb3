"""Folders on this machine, and in the bucket of a server that speaks S3."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data import records
from hrnet_ray.data.integrity import verify_checksums, verify_footers
from hrnet_ray.data.manifest import read_first_rows, read_manifest, read_split
from hrnet_ray.data.storage import StorageDir, open_storage_dir
from hrnet_ray.errors import ClusterError, DataError, UsageError
from tests.data.paws import ids, some, written

Bucket = Callable[[str], str]


@pytest.fixture(params=["here", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StorageDir:
    """An empty folder, once of this machine, once in a bucket."""
    if request.param == "here":
        return open_storage_dir(tmp_path, "--out")
    return open_storage_dir(request.getfixturevalue("bucket")("some/folder"), "--out")


def test_what_is_written_is_read_listed_and_deleted(folder: StorageDir):
    folder.make_dir("--out", "train")
    for at in range(2):
        folder.write_bytes("train/a", bytes([at]))
    folder.write_bytes("train/b", b"bb")

    assert folder.list_files("train") == ["a", "b"]
    assert folder.read_bytes("train/a") == b"\1"
    assert [folder.get_file_size(f"train/{name}") for name in "abc"] == [1, 2, None]
    with folder.open_file("train/b") as file:
        assert file.size() == 2
    folder.delete_file("train/a")
    folder.delete_file("train/a")
    assert folder.list_files("train") == ["b"]
    assert folder.list_files("nowhere") == []
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("train/a")


def test_the_root_opens_the_folder_again(folder: StorageDir):
    folder.write_bytes("a", b"a")

    assert open_storage_dir(folder.root, "--out").read_bytes("a") == b"a"


def test_pictures_have_stamps_and_those_that_are_not_there_have_none(folder: StorageDir):
    folder.make_dir("--out", "day 1")
    folder.write_bytes("day 1/a.png", b"aaa")
    folder.write_bytes("b.png", b"b")

    stamps = folder.get_image_stamps({"day 1/a.png", "b.png", "./b.png", "c.png", "day 1"})

    assert {name: size for name, (size, _) in stamps.items()} == {
        "day 1/a.png": 3,
        "b.png": 1,
        "./b.png": 1,
    }
    assert folder.read_image_bytes("day 1/a.png") == b"aaa"
    with pytest.raises(FileNotFoundError):
        folder.read_image_bytes("c.png")


@pytest.mark.parametrize("name", ["../a.png", "/etc/hostname", "a/../../b", "a\0b", "http://a/b"])
def test_no_name_leads_out_of_a_folder(folder: StorageDir, name: str):
    for ask in (lambda: folder.get_image_stamps({name}), lambda: folder.read_image_bytes(name)):
        with pytest.raises(DataError, match="an annotation that names a"):
            ask()


def test_a_data_set_is_made_in_a_bucket_from_pictures_in_a_bucket(images: Path, bucket: Bucket):
    there = open_storage_dir(bucket("raw/pictures"), "--images")
    for path in images.iterdir():
        there.write_bytes(path.name, path.read_bytes())
    here = written(images, some(7))

    written(bucket("raw/pictures"), some(7), out=bucket("atrw"), rows_per_shard=3)

    manifest = read_manifest(bucket("atrw"))
    assert manifest.root == bucket("atrw")
    assert manifest.digest == here.digest
    verify_checksums(manifest)
    verify_footers(manifest)
    assert ids(read_split(manifest, "train")) == list(range(7))
    assert ids(read_first_rows(manifest, "train", 5)) == list(range(5))
    assert manifest.get_shard_uris("train")[1] == bucket("atrw/train/00001.parquet").partition("?")[0]
    canvases = records.decode_train_batch(read_split(manifest, "train"), canvas_px=16)["canvas"]
    assert np.abs(canvases[:, 2, 2, 0] - 20.0 * np.arange(7)).max() <= 1


def test_a_stopped_command_goes_on_in_a_bucket(images: Path, bucket: Bucket):
    written(images, some(7), out=bucket("out"), rows_per_shard=3)
    folder = open_storage_dir(bucket("out"), "--out")
    folder.delete_file("manifest.json")
    folder.delete_file("train/00001.parquet")
    said = []

    manifest = written(images, some(7), out=bucket("out"), rows_per_shard=3, log_message=said.append)

    assert said == ["train: 2 of 3 shards are there already"]
    verify_checksums(manifest)


def test_an_endpoint_can_come_from_the_environment(
    images: Path, bucket: Bucket, s3: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3}")
    plain = bucket("out").partition("?")[0]

    written(images, some(2), out=plain)

    assert read_manifest(plain).get_shard_uris("train") == [f"{plain}/train/00000.parquet"]
    verify_checksums(read_manifest(plain))


def test_missing_pictures_of_a_bucket_are_named(images: Path, bucket: Bucket):
    open_storage_dir(bucket("raw"), "--images").write_bytes("0.png", (images / "0.png").read_bytes())

    with pytest.raises(DataError, match="1 of 2 images are not there") as error:
        written(bucket("raw"), some(2), out=images / "out")
    with pytest.raises(DataError, match="the folder is not there, or empty"):
        written(bucket("war"), some(2), out=images / "out")

    assert "1.png" in error.value.where


def test_a_broken_picture_in_a_bucket_is_named(bucket: Bucket, tmp_path: Path):
    folder = open_storage_dir(bucket("raw"), "--images")
    folder.write_bytes("0.png", b"no image")

    with pytest.raises(DataError, match="1 images cannot be read"):
        written(bucket("raw"), some(1), out=tmp_path)


def test_no_bucket_and_no_server_are_told_in_three_lines(images: Path, bucket: Bucket, s3: str):
    elsewhere = f"s3://nobody/x?endpoint_override={s3}&scheme=http"
    counted = []
    with pytest.raises(ClusterError, match="a storage that does not work") as error:
        written(images, some(1), out=elsewhere, write_shards=counted.append)
    with pytest.raises(DataError, match="no such folder"):
        read_manifest(elsewhere)

    assert "bucket" in error.value.where
    assert counted == []  # told before anything is made


@pytest.mark.parametrize(
    "where",
    [
        "s3://KEY:hunter2@bucket/x",
        "s3://KEY@bucket/x",
        "s3://bucket/x?access_key=KEY&secret_key=hunter2",
        "s3://bucket/x?session_token=hunter2",
    ],
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(where: str):
    with pytest.raises(UsageError) as error:
        open_storage_dir(where, "--out")

    assert error.value.what == "a password in a URI, which ends up in logs"
    assert error.value.where == "--out s3://bucket/x"
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("where", ["ftp://a/b", "s3://", "s3://a b/c", "://", "nothing://"])
def test_a_uri_that_nobody_understands_is_refused(where: str):
    with pytest.raises(UsageError, match="a URI that cannot be used"):
        open_storage_dir(where, "--out")


def test_a_file_uri_is_a_folder_of_this_machine(tmp_path: Path):
    folder = open_storage_dir(f"file://{tmp_path}/a", "--out")

    assert folder.is_local
    assert folder.root == tmp_path / "a"


def test_a_half_written_file_is_never_seen(tmp_path: Path):
    folder = open_storage_dir(tmp_path, "--out")
    folder.write_bytes("a", b"whole")
    (tmp_path / "full").mkdir()

    with pytest.raises(ClusterError):
        folder.write_bytes("full", b"a file where a folder is")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "full"]
