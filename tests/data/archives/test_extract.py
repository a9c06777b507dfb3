import gzip
import io
import json
import os
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hrnet_ray.data.archives.extract import ExtractionLimits, extract_archive
from hrnet_ray.errors import DataError

SMALL = ExtractionLimits(max_files=50, max_total_bytes=10**10, max_compression_ratio=200.0, ratio_check_min_bytes=10**6)
PICTURES = {"images/b.jpg": b"bb", "images/a.jpg": b"a", "notes/ü 1.txt": "ü".encode()}


def tar(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def with_mode(name: str, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = mode
    return info


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # zipfile warns of a name that is there twice
        for name, content in members:
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


def zip_info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def claiming(path: Path, *, size: int, packed: int) -> Path:
    """A zip whose member says that it unpacks from `packed` to `size` bytes."""
    zipped(path, ("bomb.bin", bytes(packed)))
    raw = bytearray(path.read_bytes())
    for at, field in ((raw.index(b"PK\x01\x02"), 24), (raw.index(b"PK\x03\x04"), 22)):
        raw[at + field : at + field + 4] = struct.pack("<I", size)
    path.write_bytes(raw)
    return path


def overlapping(path: Path) -> Path:
    """A zip of which two entries of the directory name the same bytes."""
    zipped(path, ("a.bin", b"x" * 5000), ("b.bin", b"y" * 5000))
    raw = bytearray(path.read_bytes())
    second = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 1)
    raw[second + 42 : second + 46] = struct.pack("<I", 3)
    path.write_bytes(raw)
    return path


def half(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


ONE = ("good.jpg", b"1")
MANY = [(f"{at}.jpg", b"") for at in range(51)]
DEVICE = special("null", tarfile.CHRTYPE)
RANDOM = os.urandom(100_000)

HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    # The fifteen of the plan, each with one more in the other kind of archive where it has one.
    "dots": (lambda p: tar(p, ONE, ("../out.txt", b"!")), "leads out of its folder"),
    "dots zip": (lambda p: zipped(p, ONE, ("a/../../out.txt", b"!")), "leads out of its folder"),
    "absolute": (lambda p: tar(p, ONE, ("/tmp/out.txt", b"!")), "from the root of the disk"),
    "absolute zip": (lambda p: zipped(p, ("/tmp/out.txt", b"!")), "from the root of the disk"),
    "drive": (lambda p: zipped(p, ONE, ("C:/out.txt", b"!")), "a drive letter"),
    "drive tar": (lambda p: tar(p, ONE, ("./in/c:out.txt", b"!")), "a drive letter"),
    "backslash": (lambda p: zipped(p, ("..\\out.txt", b"!")), "a backslash"),
    "link": (
        lambda p: tar(p, ONE, special("in", tarfile.SYMTYPE, ".."), ("in/out.txt", b"!")),
        "a symbolic link",
    ),
    "link zip": (
        lambda p: zipped(p, (zip_info("in", stat.S_IFLNK | 0o777), b"..")),
        "a symbolic link",
    ),
    "hard link": (lambda p: tar(p, ONE, special("h", tarfile.LNKTYPE, "../x")), "a hard link"),
    "device": (lambda p: tar(p, ONE, DEVICE), "a device or a pipe"),
    "device zip": (
        lambda p: zipped(p, (zip_info("n", stat.S_IFCHR | 0o666), b"")),
        "a device or a pipe",
    ),
    "fifo": (lambda p: tar(p, special("pipe", tarfile.FIFOTYPE)), "a device or a pipe"),
    "setuid": (lambda p: tar(p, with_mode("run", 0o4755)), "setuid"),
    "setgid zip": (lambda p: zipped(p, (zip_info("run", stat.S_IFREG | 0o2755), b"")), "setuid"),
    "twice": (lambda p: tar(p, ONE, ONE), "the same name twice"),
    "twice zip": (lambda p: zipped(p, ONE, ("./good.jpg", b"2")), "the same name twice"),
    "case": (lambda p: tar(p, ("a/b.jpg", b"1"), ("A/c.jpg", b"2")), "by case only"),
    "case zip": (lambda p: zipped(p, ONE, ("Good.JPG", b"2")), "by case only"),
    "file and folder": (lambda p: tar(p, ("a", b"1"), ("a/b", b"2")), "a file and a folder"),
    "many": (lambda p: tar(p, *MANY), "more than 50 members"),
    "many zip": (lambda p: zipped(p, *MANY), "more than 50 members"),
    "bomb": (lambda p: tar(p, ("bomb.bin", bytes(3_000_000))), "more than 200 times its size"),
    "bomb zip": (
        lambda p: claiming(p, size=2**32 - 2, packed=42_000_000),
        "more than 200 times its size",
    ),
    "bomb of one member": (
        lambda p: zipped(p, ("noise.bin", RANDOM), ("bomb.bin", bytes(3_000_000))),
        "more than 200 times its size",
    ),
    "overlap": (overlapping, "overlap"),
    "turned": (lambda p: tar(p, ("photo\u202egpj.exe", b"!")), "the direction of writing"),
    "turned zip": (lambda p: zipped(p, ("a\u2067b.jpg", b"!")), "the direction of writing"),
    "control": (lambda p: zipped(p, ("a\x1b[2Jb.jpg", b"!")), "that cannot be shown"),
    "long": (lambda p: tar(p, ("x" * 256, b"!")), "longer than 255 bytes"),
    "truncated": (lambda p: half(tar(p, ONE, ("noise.bin", RANDOM))), "read to its end"),
    "truncated tar": (
        lambda p: half(tar(p, ONE, ("noise.bin", RANDOM), mode="w:")),
        "read to its end",
    ),
    "truncated zip": (lambda p: half(zipped(p, ONE, ("noise.bin", RANDOM))), "read to its end"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_by_name_and_writes_nothing(tmp_path: Path, kind: str):
    build, why = HOSTILE[kind]
    archive = build(tmp_path / "archive")
    (tmp_path / "x").write_text("what is outside stays as it is")
    before = snapshot(tmp_path)

    with pytest.raises(DataError) as error:
        extract_archive(archive, tmp_path / "new" / "out", limits=SMALL)

    assert why in error.value.what
    assert error.value.where.startswith(f"{archive}: ")
    assert error.value.where.isprintable()
    assert snapshot(tmp_path) == before


def test_the_refused_member_is_named(tmp_path: Path):
    archive = tar(tmp_path / "a.tar.gz", ONE, ("photo\u202egpj.exe", b"!"))

    with pytest.raises(DataError) as error:
        extract_archive(archive, tmp_path / "out")

    assert str(error.value) == (
        "an archive that is refused: a name that changes the direction of writing\n"
        f"  {archive}: 'photo\\u202egpj.exe'\n"
        "  fix: do not use this archive; download it again from its authors, or pack it again"
    )


@pytest.mark.parametrize("mode", ["zip", "w:", "w:gz"])
def test_every_file_comes_out_whatever_the_archive_is_called(tmp_path: Path, mode: str):
    members = list(PICTURES.items())
    path = tmp_path / "archive.bin"
    archive = zipped(path, *members) if mode == "zip" else tar(path, *members, mode=mode)
    told = []

    files = extract_archive(archive, tmp_path / "deep" / "out", progress=lambda done, of: told.append((done, of)))

    out = tmp_path / "deep" / "out"
    assert {str(path.relative_to(out)): path.read_bytes() for path in files} == PICTURES
    assert [path.name for path in files] == ["a.jpg", "b.jpg", "ü 1.txt"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]


def test_folders_points_and_letters_from_right_to_left_are_no_harm(tmp_path: Path):
    root, empty = special("./", tarfile.DIRTYPE), special("./empty", tarfile.DIRTYPE)
    empty.mode = 0o2775  # setgid on a folder is usual on shared disks
    archive = tar(tmp_path / "a.tgz", root, empty, empty, ("./a.jpg", b"1"), ("نمر.jpg", b"2"))

    files = extract_archive(archive, tmp_path / "out")

    assert [path.name for path in files] == ["a.jpg", "نمر.jpg"]
    assert (tmp_path / "out" / "empty").is_dir()
    assert not (tmp_path / "out" / "empty").stat().st_mode & stat.S_ISGID


def test_a_file_that_shrinks_well_is_no_bomb(tmp_path: Path):
    content = json.dumps([{"keypoints": [0] * 51}] * 100_000).encode()
    archive = zipped(tmp_path / "a.zip", ("annotations.json", content))
    assert len(content) > 150 * archive.stat().st_size

    (file,) = extract_archive(archive, tmp_path / "out")

    assert file.read_bytes() == content


def test_a_second_time_returns_what_is_there(tmp_path: Path):
    archive = tar(tmp_path / "a.tgz", *PICTURES.items())
    files = extract_archive(archive, tmp_path / "out")
    before = snapshot(tmp_path)

    assert extract_archive(archive, tmp_path / "out") == files
    archive.touch()  # another time of writing, so that the content must tell
    assert extract_archive(archive, tmp_path / "out") == files
    assert snapshot(tmp_path / "out") == {
        name.removeprefix("out/"): about for name, about in before.items() if name.startswith("out/")
    }


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    archive = tar(tmp_path / "a.tgz", ONE)
    other = zipped(tmp_path / "b.zip", ONE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    extract_archive(archive, tmp_path / "out")

    with pytest.raises(DataError, match=r"a folder that holds something else\n  .*mine was not"):
        extract_archive(archive, tmp_path / "mine")
    with pytest.raises(DataError, match="a folder that holds something else"):
        extract_archive(other, tmp_path / "out")
    with pytest.raises(DataError, match="a folder that holds something else"):
        extract_archive(archive, other)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_files_that_were_removed_since_are_missed(tmp_path: Path):
    archive = tar(tmp_path / "a.tgz", *PICTURES.items())
    extract_archive(archive, tmp_path / "out")[0].unlink()

    with pytest.raises(DataError, match="2 of 3 are there"):
        extract_archive(archive, tmp_path / "out")


def test_an_interrupted_extraction_starts_over(tmp_path: Path):
    archive = tar(tmp_path / "a.tgz", *PICTURES.items())

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_archive(archive, tmp_path / "out", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]

    killed = tmp_path / ".out.extracting"  # what a killed process leaves
    killed.mkdir()
    (killed / "half.jpg").write_bytes(b"ha")
    (tmp_path / "out").mkdir()
    assert len(extract_archive(archive, tmp_path / "out")) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "out"]


def holding(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def damaged_in_the_middle(path: Path) -> Path:
    tar(path, ("a.jpg", b"a"), ("b.jpg", b"b"), mode="w:")
    raw = bytearray(path.read_bytes())
    raw[1024 + 148] ^= 1  # the checksum of the second header: tarfile would end here in silence
    path.write_bytes(raw)
    return path


def two_in_a_row(path: Path) -> Path:
    one = tar(path, ("a.jpg", b"a"), mode="w:").read_bytes()
    path.write_bytes(gzip.compress(one + one))
    return path


def long_name_of_gigabytes(path: Path) -> Path:
    info = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    info.size = 2**33
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10**6)))
    return path


def shorter_than_told(path: Path) -> Path:
    return claiming(path, size=10**6, packed=10_000)


def longer_than_told(path: Path) -> Path:
    return claiming(path, size=10, packed=10_000)


def flipped(path: Path) -> Path:
    zipped(path, ("noise.bin", RANDOM))
    raw = bytearray(path.read_bytes())
    raw[50_000] ^= 1
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    "damage",
    [
        damaged_in_the_middle,
        two_in_a_row,
        long_name_of_gigabytes,
        shorter_than_told,
        longer_than_told,
        flipped,
        lambda path: holding(path, b""),
        lambda path: holding(path, b"PK\x03\x04 no zip"),
        lambda path: holding(path, b"<html>404</html>"),
    ],
)
def test_damage_is_told_and_leaves_nothing(tmp_path: Path, damage: Callable[[Path], Path]):
    archive = damage(tmp_path / "archive")

    with pytest.raises(DataError, match=r"an archive (that cannot be read to its end|of which a)"):
        extract_archive(archive, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_a_missing_archive_is_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"--archive .*no.zip"):
        extract_archive(tmp_path / "no.zip", tmp_path / "out")
