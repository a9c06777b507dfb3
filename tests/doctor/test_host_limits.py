import resource
from pathlib import Path

import pytest

from hrnet_ray.doctor import host_limits


def test_the_limit_of_a_container_is_read_in_bytes(tmp_path: Path):
    (tmp_path / "memory.current").write_text("300\n")

    (tmp_path / "memory.max").write_text("1000\n")
    assert host_limits.read_cgroup_limit(tmp_path) == (1000, 700)

    (tmp_path / "memory.max").write_text("max\n")
    assert host_limits.read_cgroup_limit(tmp_path) is None


def test_too_little_memory_is_reported_with_a_list_of_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_limits, "MIN_MEMORY_GB", 10**6)

    result = host_limits.check_memory()

    assert result.state == "careful"
    assert result.detail.endswith("GB free, a run needs 1000000")
    assert result.fix.startswith("ps -eo pid,rss,args --sort -rss")


def test_shared_memory_smaller_than_the_object_store_is_reported(tmp_path: Path):
    result = host_limits.check_shm(tmp_path, memory_bytes=10**18)

    assert result.state == "careful"
    assert result.detail.endswith("GB, the object store of Ray needs 300000000.0")
    assert f"mount -o remount,size=300000000G {tmp_path}" in result.fix
    assert host_limits.check_shm(tmp_path, memory_bytes=1000).state == "ok"
    assert host_limits.check_shm(tmp_path / "none").state == "ok"


def test_a_low_limit_of_open_files_is_reported():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    try:
        result = host_limits.check_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert result.state == "careful"
    assert result.detail == "ulimit -n is 1,000, Ray needs 4,096"
    assert result.fix.startswith(("ulimit -n ", "sudo prlimit"))


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "ok"),
        ({"OMP_WAIT_POLICY": "passive"}, "ok"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "careful"),
    ],
)
def test_spinning_threads_are_reported(environment: dict[str, str], state: str):
    result = host_limits.check_omp_threads(environment)

    assert result.state == state
    assert result.fix == ("export OMP_WAIT_POLICY=PASSIVE" if state == "careful" else "")
