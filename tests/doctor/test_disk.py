import subprocess
import sys
from pathlib import Path

import pytest

from hrnet_ray.doctor import disk
from hrnet_ray.doctor.result import CheckResult


def test_storage_below_a_file_is_not_writable(tmp_path: Path):
    (tmp_path / "a file").write_text("")

    result = disk.check_storage(tmp_path / "a file" / "runs")

    assert result == CheckResult(
        "wrong",
        f"{tmp_path / 'a file'}: Not a directory",
        f"mv '{tmp_path}/a file' '{tmp_path}/a file.aside'",
    )


def test_the_check_does_not_create_missing_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk, "MAX_DISK_USED_FRACTION", 1.0)  # however full the disk of this machine is

    result = disk.check_storage(tmp_path / "runs")

    assert result.state in ("ok", "careful")
    assert result.detail.split(": a run")[0].endswith(f"GB free at {tmp_path}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "value", "state"),
    [
        ("MAX_DISK_USED_FRACTION", 0.0, "wrong"),
        ("MIN_DISK_GB", 10**9, "careful"),
        ("MIN_DISK_GB", 0, "ok"),
    ],
)
def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, state: str):
    monkeypatch.setattr(disk, "MAX_DISK_USED_FRACTION", 1.0)  # however full the disk of this machine is
    monkeypatch.setattr(disk, limit, value)

    result = disk.check_disk_space(tmp_path)

    assert result.state == state
    assert result.fix.startswith(f"du -xh {tmp_path}") == (state != "ok")


def make_session(folder: Path, name: str, *, kb: int) -> Path:
    logs = folder / f"session_{name}" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_bytes(b"x" * 1000 * kb)
    return logs.parent


def test_ended_sessions_are_counted_and_the_largest_are_named(tmp_path: Path):
    small = make_session(tmp_path, "2026-01-01_00-00-00_1_1", kb=100)
    large = make_session(tmp_path, "2026-01-02_00-00-00_1_2", kb=4000)
    (tmp_path / "session_latest").symlink_to(large)

    result = disk.check_stale_sessions(tmp_path, max_gb=0.001)

    assert result == CheckResult("careful", f"2 ended Ray sessions left 0.00 GB in {tmp_path}", f"rm -r {large}")
    assert disk.check_stale_sessions(tmp_path, max_gb=1.0).state == "ok"
    assert disk.check_stale_sessions(tmp_path / "none").state == "ok"
    assert small.exists()  # nothing is deleted
    assert large.exists()


def test_a_session_with_a_running_process_is_not_counted(tmp_path: Path):
    running = make_session(tmp_path, "2026-01-01_00-00-00_1_1", kb=4000)
    command = [sys.executable, "-c", "input()", f"--session-dir={running}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        result = disk.check_stale_sessions(tmp_path, max_gb=0.001)
        process.communicate(b"\n")

    assert result == CheckResult("ok", f"0 ended Ray sessions left 0.00 GB in {tmp_path}")
    assert disk.check_stale_sessions(tmp_path, max_gb=0.001).state == "careful"
